"""Tax documents: receipt vouchers, monthly invoices, refund vouchers, credit notes. Issued once, numbered without gaps.

A document's number, its uses of earlier ones and what it is about are written in one transaction, under the wallet's
lock and then the series': a process that dies leaves no number out, and nothing is ever edited.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from cualify_billing import gst, ledger
from cualify_billing.figures import in_words, rupees
from cualify_billing.gst import Tax
from cualify_billing.india import IST, financial_year, month_start
from cualify_billing.tax_profiles import Seller, TaxProfile, tax_profile
from cualify_shared import faults
from cualify_shared.clock import rfc3339
from cualify_shared.database import Connection

ISSUE_LOCK = 0x69737375

Kind: TypeAlias = Literal["receipt_voucher", "tax_invoice", "refund_voucher", "credit_note"]
SERIES: dict[Kind, tuple[str, str]] = {
    "receipt_voucher": ("RV", "Receipt Voucher"),
    "tax_invoice": ("INV", "Tax Invoice"),
    "refund_voucher": ("RF", "Refund Voucher"),
    "credit_note": ("CN", "Credit Note"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """Something on a document, tax included in its amount."""

    description: str
    amount_paise: int
    discount_paise: int = 0
    is_taxed: bool = True
    """Else its tax was taken back before."""

    @property
    def net_paise(self) -> int:
        """What is to be paid for it."""
        return self.amount_paise - self.discount_paise


@dataclass(frozen=True, slots=True)
class Source:
    """A receipt voucher or credit note, and what is left of it."""

    number: str
    kind: str
    issued_on: date
    left_paise: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A document before it has a number."""

    kind: Kind
    subject: str
    org_id: UUID
    lines: Sequence[Line]
    uses: Sequence[tuple[Source, int]]
    covers_to_entry: int
    refers_to: Sequence[str] = ()
    reason: str | None = None
    period: tuple[datetime | None, datetime] | None = None


NEXT_DUE = """
SELECT due.transfer, transfers.kind, transfers.org_id, transfers.amount_paise, refunds.payment_id,
    entries.id AS entry_id
FROM documents_due AS due
JOIN transfers ON transfers.name = due.transfer
JOIN entries ON entries.transfer = due.transfer
JOIN accounts ON accounts.id = entries.account_id AND accounts.org_id = transfers.org_id
LEFT JOIN refunds ON transfers.name = 'refund:' || refunds.id
WHERE $1::uuid IS NULL OR transfers.org_id = $1
ORDER BY due.id
LIMIT 1
"""

DONE = """
DELETE FROM documents_due
WHERE transfer = $1
"""


async def issue_next_voucher(
    connection: Connection, seller: Seller, *, at: datetime, org_id: UUID | None = None
) -> str | None:
    """Writes the voucher of the payment or refund that waits longest; None where none waits, or another issues.

    An empty number: a refund of gifted credit, which needs no voucher.
    """
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", ISSUE_LOCK):
        return None
    due = await connection.fetchrow(NEXT_DUE, org_id)
    if due is None:
        return None
    await ledger.lock_wallet(connection, due["org_id"])
    draft = await (_receipt(due) if due["kind"] == "top_up" else _refund(connection, due))
    number = await _issue(connection, seller, draft, at) if draft.lines else ""
    await connection.execute(DONE, due["transfer"])
    return number


async def _receipt(due: Any) -> Draft:
    line = Line("Advance received for voice calling services", due["amount_paise"])
    return Draft("receipt_voucher", due["transfer"], due["org_id"], [line], (), due["entry_id"], (due["transfer"],))


async def _refund(connection: Connection, due: Any) -> Draft:
    """Returns the payment's own advance first; where that was used up, the oldest of the rest, and then what credit
    notes gave: the tax of that is back already. Gifts carry no tax."""
    sources = await _sources(connection, due["org_id"], to_entry=due["entry_id"])
    own = await connection.fetchval(BY_SUBJECT, f"topup:{due['payment_id']}")
    in_turn = sorted(sources, key=lambda source: (source.kind == "credit_note", source.number != own))
    uses = _used(in_turn, due["amount_paise"])
    taxed_paise = sum(paise for source, paise in uses if source.kind == "receipt_voucher")
    rest_paise = sum(paise for _, paise in uses) - taxed_paise
    taxed = Line("Refund of an advance for voice calling services", taxed_paise)
    rest = Line("Refund of what credit notes gave back, their tax included", rest_paise, is_taxed=False)
    lines = [line for line in (taxed, rest) if line.amount_paise]
    return Draft("refund_voucher", due["transfer"], due["org_id"], lines, uses, due["entry_id"], (due["transfer"],))


# --- invoices ---

TO_INVOICE = """
SELECT accounts.org_id
FROM accounts
LEFT JOIN invoiced USING (org_id)
WHERE accounts.kind = 'wallet' AND coalesce(invoiced.until < $1, true)
    AND NOT EXISTS (
        SELECT FROM documents_due JOIN transfers ON transfers.name = documents_due.transfer
        WHERE transfers.org_id = accounts.org_id
    )
ORDER BY accounts.id
LIMIT $2
"""

WAITS_FOR_VOUCHERS = """
SELECT EXISTS (
    SELECT FROM documents_due JOIN transfers ON transfers.name = documents_due.transfer WHERE transfers.org_id = $1
)
"""

ENDS_AT = """
SELECT max(entries.id)
FROM accounts
JOIN entries ON entries.account_id = accounts.id AND entries.id > $2
JOIN transfers ON transfers.name = entries.transfer
WHERE accounts.org_id = $1 AND transfers.created_at < $3
"""

USAGE = """
SELECT transfers.rate_paise_per_sec, count(*) AS calls, sum(transfers.billable_sec)::bigint AS billable_sec,
    sum(transfers.amount_paise)::bigint AS amount_paise
FROM accounts
JOIN entries ON entries.account_id = accounts.id AND entries.id > $2 AND entries.id <= $3
JOIN transfers ON transfers.name = entries.transfer
WHERE accounts.org_id = $1 AND transfers.kind = 'call_debit' AND transfers.amount_paise > 0
GROUP BY transfers.rate_paise_per_sec
ORDER BY transfers.rate_paise_per_sec
"""

INVOICED_TO = """
SELECT to_entry, until
FROM invoiced
WHERE org_id = $1
"""

SET_INVOICED = """
INSERT INTO invoiced (org_id, to_entry, until)
VALUES ($1, $2, $3)
ON CONFLICT (org_id) DO UPDATE SET to_entry = excluded.to_entry, until = excluded.until
"""


async def to_invoice(connection: Connection, *, at: datetime, most: int) -> list[UUID]:
    """Orgs whose last months have not been invoiced; those whose vouchers are still to be written wait."""
    return [row["org_id"] for row in await connection.fetch(TO_INVOICE, month_start(at), most)]


async def invoice(connection: Connection, seller: Seller, org_id: UUID, *, at: datetime) -> str | None:
    """Invoices an org's calls that were settled before this month began; None where there were none to be paid for."""
    until = month_start(at)
    await ledger.lock_wallet(connection, org_id)
    before = await connection.fetchrow(INVOICED_TO, org_id)
    if (before is not None and before["until"] >= until) or await connection.fetchval(WAITS_FOR_VOUCHERS, org_id):
        return None
    since_entry = before["to_entry"] if before else 0
    to_entry = await connection.fetchval(ENDS_AT, org_id, since_entry, until) or since_entry
    usage = await connection.fetch(USAGE, org_id, since_entry, to_entry)
    await connection.execute(SET_INVOICED, org_id, to_entry, until)
    used_paise = sum(row["amount_paise"] for row in usage)
    uses = _used(await _sources(connection, org_id, to_entry=to_entry), used_paise)
    paid_paise = sum(paise for _, paise in uses)
    if paid_paise == 0:
        return None
    draft = Draft(
        "tax_invoice",
        f"invoice:{org_id}:{to_entry}",
        org_id,
        _discounted([_usage_line(row) for row in usage], used_paise - paid_paise),
        uses,
        to_entry,
        period=(before["until"] if before else None, until),
    )
    return await _issue(connection, seller, draft, at)


def _usage_line(row: Any) -> Line:
    calls, seconds, rate = row["calls"], row["billable_sec"], row["rate_paise_per_sec"]
    return Line(f"Voice calls at {rate} paise a second: {calls:,} calls, {seconds:,} s", row["amount_paise"])


def _discounted(lines: Sequence[Line], discount_paise: int) -> list[Line]:
    """What gifted credit paid for is no supply for money: a discount, divided over the lines."""
    parts = gst.shares(discount_paise, [line.amount_paise for line in lines])
    return [Line(line.description, line.amount_paise, part) for line, part in zip(lines, parts, strict=True)]


# --- credit notes ---


async def credit_note(
    connection: Connection, seller: Seller, *, org_id: UUID, note_id: str, invoice_number: str, paise: int, reason: str,
    at: datetime,
) -> str | None:  # fmt: skip
    """Takes part of an invoice back into the wallet, once for each id; None where the invoice does not bear it."""
    await ledger.lock_wallet(connection, org_id)
    subject = f"credit_note:{note_id}"
    before = await connection.fetchrow(NOTED_BEFORE, subject)
    if before is not None:
        same = (before["org_id"], before["total_paise"], before["invoice"]) == (org_id, paise, invoice_number)
        return before["number"] if same else None
    left_paise = await connection.fetchval(LEFT_OF_INVOICE, org_id, invoice_number)
    if left_paise is None or left_paise < paise:
        return None
    given = ledger.Credit(payment_id=note_id, org_id=org_id, kind="credit_note", amount_paise=paise, paid_at=at)
    if not isinstance(await ledger.credit(connection, given), ledger.Credited):
        return None
    entry: int = await connection.fetchval(WALLET_ENTRY, subject, org_id)
    line = Line(f"Credit against {invoice_number}: {reason}", paise)
    draft = Draft("credit_note", subject, org_id, [line], (), entry, (invoice_number,), reason)
    return await _issue(connection, seller, draft, at)


NOTED_BEFORE = """
SELECT number, org_id, total_paise, body -> 'refers_to' ->> 0 AS invoice
FROM documents
WHERE subject = $1
"""

LEFT_OF_INVOICE = """
SELECT (documents.total_paise - coalesce(sum(notes.total_paise), 0))::bigint
FROM documents
LEFT JOIN documents AS notes
    ON notes.org_id = documents.org_id AND notes.kind = 'credit_note'
    AND notes.body -> 'refers_to' ->> 0 = documents.number
WHERE documents.org_id = $1 AND documents.number = $2 AND documents.kind = 'tax_invoice'
GROUP BY documents.number
"""

WALLET_ENTRY = """
SELECT entries.id
FROM entries
JOIN accounts ON accounts.id = entries.account_id
WHERE entries.transfer = $1 AND accounts.org_id = $2
"""

# --- what was paid, and what of it is left ---

SOURCES = """
SELECT documents.number, documents.kind, documents.issued_on,
    (documents.total_paise - coalesce(sum(document_uses.amount_paise), 0))::bigint AS left_paise
FROM documents
LEFT JOIN document_uses ON document_uses.source = documents.number
WHERE documents.org_id = $1 AND documents.kind IN ('receipt_voucher', 'credit_note') AND documents.covers_to_entry <= $2
GROUP BY documents.number
HAVING documents.total_paise > coalesce(sum(document_uses.amount_paise), 0)
ORDER BY documents.covers_to_entry
"""

BY_SUBJECT = """
SELECT number
FROM documents
WHERE subject = $1
"""


async def _sources(connection: Connection, org_id: UUID, *, to_entry: int) -> list[Source]:
    return [Source(**row) for row in await connection.fetch(SOURCES, org_id, to_entry)]


def _used(sources: Sequence[Source], wanted_paise: int) -> list[tuple[Source, int]]:
    """How much of each source, in this order, makes up an amount, or as much of it as there is."""
    uses: list[tuple[Source, int]] = []
    for source in sources:
        paise = min(source.left_paise, wanted_paise)
        if paise:
            uses.append((source, paise))
            wanted_paise -= paise
    return uses


# --- issuing ---

TAKE_NUMBER = """
INSERT INTO document_series (kind, financial_year, last)
VALUES ($1, $2, 1)
ON CONFLICT (kind, financial_year) DO UPDATE SET last = document_series.last + 1
RETURNING last
"""

INSERT = """
INSERT INTO documents (
    number, kind, financial_year, serial, subject, org_id, issued_on, taxable_paise, cgst_paise, sgst_paise,
    igst_paise, total_paise, covers_to_entry, body
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""

USE = """
INSERT INTO document_uses (source, used_by, amount_paise)
SELECT source, $2, amount_paise
FROM unnest($1::text[], $3::bigint[]) AS used (source, amount_paise)
"""


async def _issue(connection: Connection, seller: Seller, draft: Draft, at: datetime) -> str:
    day = at.astimezone(IST).date()
    year = financial_year(day)
    buyer = await tax_profile(connection, draft.org_id)
    serial: int = await connection.fetchval(TAKE_NUMBER, draft.kind, year)
    number = f"{SERIES[draft.kind][0]}/{year}/{serial:06d}"
    faults.point("billing.number_taken")
    lines = [(line, _tax_of(line, seller, buyer)) for line in draft.lines]
    total = sum((tax for _, tax in lines), gst.NOTHING)
    body = _body(number, day, seller, buyer, draft, lines, total)
    taxes = (total.taxable_paise, total.cgst_paise, total.sgst_paise, total.igst_paise, total.total_paise)
    await connection.execute(
        INSERT, number, draft.kind, year, serial, draft.subject, draft.org_id, day, *taxes, draft.covers_to_entry, body
    )
    await connection.execute(USE, [s.number for s, _ in draft.uses], number, [paise for _, paise in draft.uses])
    return number


def _tax_of(line: Line, seller: Seller, buyer: TaxProfile | None) -> Tax:
    return seller.tax_in(line.net_paise, buyer) if line.is_taxed else replace(gst.NOTHING, taxable_paise=line.net_paise)


def _body(
    number: str,
    day: date,
    seller: Seller,
    buyer: TaxProfile | None,
    draft: Draft,
    lines: Sequence[tuple[Line, Tax]],
    total: Tax,
) -> dict[str, Any]:
    """The whole document, as JSON: what stands on paper stands here."""
    place = seller.place_of_supply(buyer)
    return {
        "number": number,
        "title": SERIES[draft.kind][1],
        "kind": draft.kind,
        "issued_on": day.isoformat(),
        "seller": {"name": seller.name, "gstin": seller.gstin, "address": seller.address},
        "buyer": _shown_buyer(buyer, draft.org_id),
        "place_of_supply": {"state_code": place, "state": gst.STATES[place]},
        "reverse_charge": False,
        "period": None if draft.period is None else _shown_period(*draft.period),
        "lines": [_shown_line(line, tax, seller) for line, tax in lines],
        "totals": {**asdict(total), "tax_paise": total.tax_paise, "total_paise": total.total_paise},
        "total_rupees": rupees(total.total_paise),
        "amount_in_words": in_words(total.total_paise),
        "uses": [_shown_use(source, paise, seller, buyer) for source, paise in draft.uses],
        "refers_to": list(draft.refers_to),
        "reason": draft.reason,
        "currency": "INR",
    }


def _shown_buyer(buyer: TaxProfile | None, org_id: UUID) -> dict[str, Any]:
    if buyer is None:
        return {"name": f"Unregistered customer {org_id}", "gstin": None, "address": "", "org_id": str(org_id)}
    return {"name": buyer.name, "gstin": buyer.gstin, "address": buyer.address, "org_id": str(org_id)}


def _shown_period(since: datetime | None, until: datetime) -> dict[str, Any]:
    return {"from": None if since is None else rfc3339(since), "until": rfc3339(until)}


def _shown_line(line: Line, tax: Tax, seller: Seller) -> dict[str, Any]:
    return {
        "description": line.description,
        "sac": seller.sac,
        "amount_paise": line.amount_paise,
        "discount_paise": line.discount_paise,
        "rate_percent": seller.rate_percent if line.is_taxed else 0,
        **asdict(tax),
        "total_paise": tax.total_paise,
    }


def _shown_use(source: Source, paise: int, seller: Seller, buyer: TaxProfile | None) -> dict[str, Any]:
    """Tax was paid already with a receipt voucher; a credit note took it back."""
    paid_paise = seller.tax_in(paise, buyer).tax_paise if source.kind == "receipt_voucher" else 0
    return {
        "number": source.number,
        "issued_on": source.issued_on.isoformat(),
        "amount_paise": paise,
        "tax_already_paid_paise": paid_paise,
    }
