"""Whatever is paid, given, called, taken back and invoiced in whatever order, the documents add up with the wallet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import HealthCheck, example, given, settings, strategies as st

from cualify_billing import documents, refunds
from cualify_billing.india import month_turn_after
from cualify_billing.issue import issue_invoices, issue_vouchers
from cualify_billing.ledger import CreditKind, Reduction, ReductionKind
from cualify_shared.clock import now
from cualify_shared.database import Pool
from tests.billing.conftest import assert_sound, balance, consume, ended, top_up
from tests.billing.test_documents import SELLER


@dataclass(frozen=True)
class Pay:
    """Money, or a gift of it."""

    paise: int
    kind: CreditKind


@dataclass(frozen=True)
class Call:
    """A call that is talked on, as far as the wallet covers it."""

    duration_sec: int


@dataclass(frozen=True)
class TakeBack:
    """Part of one of the payments; more than there is, is refused."""

    payment: int
    paise: int
    kind: ReductionKind


@dataclass(frozen=True)
class Note:
    """Part of one of the invoices is given back."""

    invoice: int
    paise: int


@dataclass(frozen=True)
class Issue:
    """What waits is issued; perhaps the month turns."""

    turn: bool


Step = Pay | Call | TakeBack | Note | Issue
steps = st.lists(
    st.builds(Pay, st.sampled_from([1, 999, 5000]), st.sampled_from(["top_up", "top_up", "promotion", "adjustment"]))
    | st.builds(Call, st.integers(1, 300))
    | st.builds(
        TakeBack,
        st.integers(0, 3),
        st.sampled_from([1, 500, 999, 5000]),
        st.sampled_from(["refund", "refund", "chargeback", "correction"]),
    )
    | st.builds(Note, st.integers(0, 2), st.sampled_from([1, 700]))
    | st.builds(Issue, st.booleans()),
    min_size=3,
    max_size=25,
)


class Story:
    """One org's, from its first payment on."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.org, self.month = pool, uuid4(), datetime.now(UTC)
        self.payments: list[str] = []

    async def take(self, step: Step) -> None:
        match step:
            case Pay(paise, kind):
                name = uuid4().hex
                await top_up(self.pool, self.org, paise, payment_id=name, kind=kind)
                self.payments += [name] if kind == "top_up" else []
            case Call(duration_sec):
                if self.payments and await balance(self.pool, self.org) >= 10 * duration_sec:
                    await consume(self.pool, [ended(self.org, duration_sec=duration_sec)])
            case TakeBack():
                await self.take_back(step)
            case Note(invoice, paise):
                await self.note(invoice, paise)
            case Issue(turn):
                await self.issue(turn=turn)

    async def take_back(self, step: TakeBack) -> None:
        if step.payment >= len(self.payments):
            return
        wanted = Reduction(
            refund_id=uuid4().hex,
            org_id=self.org,
            kind=step.kind,
            amount_paise=step.paise,
            payment_id=self.payments[step.payment],
            at=now(),
        )
        async with self.pool.acquire() as connection, connection.transaction():
            await refunds.decide(connection, wanted, reason=None, within=timedelta(days=15))

    async def note(self, invoice: int, paise: int) -> None:
        rows = await self.pool.fetch(INVOICES, self.org)
        if invoice < len(rows):
            async with self.pool.acquire() as connection, connection.transaction():
                await documents.credit_note(
                    connection,
                    SELLER,
                    org_id=self.org,
                    note_id=uuid4().hex,
                    invoice_number=rows[invoice]["number"],
                    paise=paise,
                    reason="echo",
                    at=now(),
                )

    async def issue(self, *, turn: bool) -> None:
        while await issue_vouchers(self.pool, SELLER):
            pass
        if turn:
            self.month = month_turn_after(self.month)
            await issue_invoices(self.pool, SELLER, clock=lambda: self.month)
            await self.check()

    async def check(self) -> None:
        """Calls are invoiced, vouchers written: what is left of advances is in the wallet, and all adds up."""
        left_paise: int = await self.pool.fetchval(LEFT, self.org)
        assert 0 <= left_paise <= (await self.pool.fetchval(BALANCE, self.org) or 0)
        for row in await self.pool.fetch(COVERED, self.org):
            assert row["used_paise"] == row["total_paise"], row["number"]
        due = await self.pool.fetchrow(TAX, self.org)
        assert due is not None
        assert abs(due["tax_paise"] - due["kept_paise"] * 18 / 118) <= 2 * due["roundings"]


INVOICES = "SELECT number FROM documents WHERE org_id = $1 AND kind = 'tax_invoice' ORDER BY serial"
BALANCE = "SELECT balance_paise FROM accounts WHERE org_id = $1"
LEFT = """
SELECT (
    coalesce(sum(total_paise) FILTER (WHERE kind IN ('receipt_voucher', 'credit_note')), 0)
    - coalesce((SELECT sum(amount_paise) FROM document_uses JOIN documents ON number = source WHERE org_id = $1), 0)
)::bigint
FROM documents
WHERE org_id = $1
"""
COVERED = """
SELECT number, total_paise, coalesce(sum(amount_paise), 0)::bigint AS used_paise
FROM documents
LEFT JOIN document_uses ON used_by = number
WHERE org_id = $1 AND kind IN ('tax_invoice', 'refund_voucher')
GROUP BY number
"""
TAX = """
WITH own AS (
    SELECT *, cgst_paise + sgst_paise + igst_paise AS tax_paise
    FROM documents
    WHERE org_id = $1
), used AS (
    SELECT document_uses.amount_paise, source.kind AS source_kind, used_by.kind AS used_by_kind,
        (use ->> 'tax_already_paid_paise')::bigint AS adjusted_paise
    FROM document_uses
    JOIN own AS source ON source.number = document_uses.source
    JOIN own AS used_by ON used_by.number = document_uses.used_by
    JOIN jsonb_array_elements(used_by.body -> 'uses') AS use ON use ->> 'number' = document_uses.source
)
SELECT
    (
        coalesce(sum(CASE WHEN kind IN ('receipt_voucher', 'tax_invoice') THEN tax_paise ELSE -tax_paise END), 0)
        - coalesce((SELECT sum(adjusted_paise) FROM used WHERE used_by_kind = 'tax_invoice'), 0)
    )::bigint AS tax_paise,
    (
        coalesce(sum(total_paise) FILTER (WHERE kind = 'receipt_voucher'), 0)
        - coalesce(sum(total_paise) FILTER (WHERE kind IN ('refund_voucher', 'credit_note')), 0)
        + coalesce((SELECT sum(amount_paise) FROM used WHERE source_kind = 'credit_note'), 0)
    )::bigint AS kept_paise,
    (SELECT count(*) FROM own) + (SELECT count(*) FROM used) AS roundings
FROM own
"""
"""The tax that is due in the end, and the money that was kept for calls or as an advance: paid, not paid back, and not
lying in the wallet as a credit note."""


OF_A_CREDIT_NOTE: list[Step] = [
    Pay(5000, "top_up"),
    Call(300),
    Issue(turn=True),
    Note(0, 700),
    TakeBack(0, 2700, "refund"),
]


@example(plan=OF_A_CREDIT_NOTE)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps)
async def test_the_documents_of_any_story_add_up_with_the_wallet(pool: Pool, plan: Sequence[Step]) -> None:
    story = Story(pool)
    for step in plan:
        await story.take(step)
    for _ in range(2):
        await story.issue(turn=True)
    await assert_sound(pool)
