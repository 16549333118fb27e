"""Tax documents: one for each fact, numbered without gaps, never edited, and they add up with the ledger."""

import asyncio
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from cualify_billing import paper
from cualify_billing.india import month_turn_after
from cualify_billing.issue import issue_invoices, issue_vouchers
from cualify_billing.routes import billing_app
from cualify_billing.tax_profiles import Seller
from cualify_shared.database import Pool
from tests.billing.conftest import TERMS, TOKEN, Caller, assert_sound, balance, call_of, consume, ended, top_up
from tests.billing.test_crash import die_at

SELLER = Seller("Cualify Voice Private Limited", "12 MG Road, Bengaluru 560001", "29AAGCB7383J1Z4", "998419", 18)
PROFILE = {"name": "Asha Traders", "address": "4 Linking Road, Mumbai 400050", "state_code": "27"}
SAMPLES = Path(__file__).parents[2] / "services" / "billing" / "samples"


@pytest_asyncio.fixture(loop_scope="session")
async def ask(pool: Pool) -> Caller:
    """Billing's routes, with a seller."""
    return Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN, seller=SELLER))


async def vouchers(pool: Pool) -> None:
    while await issue_vouchers(pool, SELLER):
        pass


async def invoices(pool: Pool, at: datetime | None = None) -> None:
    """As if the month had turned."""
    await issue_invoices(pool, SELLER, clock=lambda: at or month_turn_after(datetime.now(UTC)))


async def documents(pool: Pool, kind: str) -> list[dict[str, Any]]:
    found = await pool.fetch("SELECT body FROM documents WHERE kind = $1 ORDER BY serial", kind)
    return [row["body"] for row in found]


async def assert_numbered_without_gaps(pool: Pool) -> None:
    for row in await pool.fetch(
        "SELECT kind, array_agg(serial ORDER BY serial) AS serials FROM documents GROUP BY kind"
    ):
        assert row["serials"] == list(range(1, len(row["serials"]) + 1))


async def test_a_payment_gets_one_receipt_voucher_with_the_buyers_states_tax(ask: Caller, pool: Pool) -> None:
    near, far, unknown = uuid4(), uuid4(), uuid4()
    assert (await ask("PUT", f"/internal/orgs/{far}/tax-profile", {**PROFILE, "gstin": "27AAPFU0939F1ZV"}))[0] == 200
    assert (await ask("PUT", f"/internal/orgs/{near}/tax-profile", {**PROFILE, "state_code": "29"}))[0] == 200
    for org in (near, far, unknown):
        await top_up(pool, org, 118_000)
        await top_up(pool, org, 5_000, kind="promotion")
    await asyncio.gather(*(vouchers(pool) for _ in range(3)))
    await vouchers(pool)
    bodies = {body["buyer"]["org_id"]: body for body in await documents(pool, "receipt_voucher")}
    taxes = {org: bodies[str(org)]["totals"] for org in (near, far, unknown)}
    assert (taxes[near]["cgst_paise"], taxes[near]["sgst_paise"], taxes[near]["igst_paise"]) == (9000, 9000, 0)
    assert (taxes[far]["cgst_paise"], taxes[far]["igst_paise"], taxes[far]["taxable_paise"]) == (0, 18_000, 100_000)
    assert (taxes[unknown]["cgst_paise"], bodies[str(unknown)]["place_of_supply"]["state"]) == (9000, "Karnataka")
    assert bodies[str(far)]["amount_in_words"] == "Rupees One Thousand One Hundred Eighty Only"
    assert len(bodies) == await pool.fetchval("SELECT count(*) FROM documents") == 3
    await assert_numbered_without_gaps(pool)
    await assert_sound(pool)


async def test_a_month_is_invoiced_once_and_its_advances_adjusted_oldest_first(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    for n in range(3):
        await top_up(pool, org, 10_000, payment_id=f"p{n}")
    other_rate = TERMS.model_copy(update={"rate_paise_per_sec": 7})
    await consume(pool, [ended(org, duration_sec=300) for _ in range(4)] + [ended(org, terms=other_rate)] * 2)
    await consume(pool, [ended(org, status="busy")])
    await vouchers(pool)
    await invoices(pool, datetime.now(UTC))
    assert await documents(pool, "tax_invoice") == [], "this month is not over"
    await asyncio.gather(*(invoices(pool) for _ in range(3)))
    [invoice] = await documents(pool, "tax_invoice")
    assert invoice["totals"]["total_paise"] == 4 * 3000 + 142 * 7 == 30_000 - await balance(pool, org)
    assert [line["total_paise"] for line in invoice["lines"]] == [994, 12_000]
    assert [use["amount_paise"] for use in invoice["uses"]] == [10_000, 2994]
    await consume(pool, [ended(org, duration_sec=100)])
    await invoices(pool, month_turn_after(datetime.now(UTC)) + timedelta(days=32))
    [_, second] = await documents(pool, "tax_invoice")
    assert [(use["number"], use["amount_paise"]) for use in second["uses"]] == [(invoice["uses"][1]["number"], 1000)]
    await assert_numbered_without_gaps(pool)


async def test_a_debit_is_on_exactly_one_invoice_whatever_the_month(pool: Pool) -> None:
    orgs = [uuid4() for _ in range(4)]
    for org in orgs:
        await top_up(pool, org, 100_000)
    await vouchers(pool)
    at = month_turn_after(datetime.now(UTC))
    for month in range(3):
        await consume(pool, [ended(org, duration_sec=10 + month) for org in orgs for _ in range(3)])
        await asyncio.gather(invoices(pool, at), invoices(pool, at))
        at = month_turn_after(at)
    invoiced: Counter[str] = Counter()
    for body in await documents(pool, "tax_invoice"):
        invoiced[body["buyer"]["org_id"]] += body["totals"]["total_paise"]
    assert invoiced == {str(org): 100_000 - await balance(pool, org) for org in orgs}
    await assert_numbered_without_gaps(pool)


async def test_what_gifted_credit_paid_for_is_a_discount(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 2000)
    await top_up(pool, org, 9000, kind="promotion")
    await consume(pool, [ended(org, duration_sec=300)])
    await vouchers(pool)
    await invoices(pool)
    [invoice] = await documents(pool, "tax_invoice")
    assert (invoice["totals"]["total_paise"], invoice["lines"][0]["discount_paise"]) == (2000, 1000)
    await consume(pool, [ended(org, duration_sec=300)])
    await invoices(pool, month_turn_after(datetime.now(UTC)) + timedelta(days=32))
    assert len(await documents(pool, "tax_invoice")) == 1, "a gift alone is no supply for money"


async def test_a_refund_gets_a_voucher_and_takes_its_advance_from_later_invoices(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 5000, payment_id="p1")
    await top_up(pool, org, 5000, payment_id="p2")
    refund = {"refund_id": "r1", "payment_id": "p2", "amount_paise": 4000}
    assert (await ask("POST", f"/internal/orgs/{org}/refunds", refund))[0] == 201
    await vouchers(pool)
    first, second = await documents(pool, "receipt_voucher")
    [voucher] = await documents(pool, "refund_voucher")
    assert [(use["number"], use["amount_paise"]) for use in voucher["uses"]] == [(second["number"], 4000)]
    assert voucher["totals"]["total_paise"] == 4000
    await consume(pool, [ended(org, duration_sec=300), ended(org, duration_sec=300)])
    await invoices(pool)
    [invoice] = await documents(pool, "tax_invoice")
    used = [(use["number"], use["amount_paise"]) for use in invoice["uses"]]
    assert used == [(first["number"], 5000), (second["number"], 1000)]


@pytest.mark.parametrize(
    "taken",
    [
        {"kind": "chargeback", "payment_id": "p1"},
        {"kind": "chargeback"},
        {"kind": "correction", "payment_id": "p1"},
    ],
)
async def test_an_advance_that_was_charged_back_is_on_no_invoice(
    ask: Caller, pool: Pool, taken: dict[str, str]
) -> None:
    """Else what a gift paid for would be invoiced, and taxed, as paid by money that is gone."""
    org = uuid4()
    await top_up(pool, org, 5000, payment_id="p1")
    await vouchers(pool)
    taking = {"refund_id": "cb", "amount_paise": 5000, **taken}
    assert (await ask("POST", f"/internal/orgs/{org}/refunds", taking))[0] == 201
    await top_up(pool, org, 5000, kind="promotion")
    await consume(pool, [ended(org, duration_sec=300)])
    await vouchers(pool)
    await invoices(pool)
    [voucher] = await documents(pool, "refund_voucher")
    assert voucher["totals"] == (await documents(pool, "receipt_voucher"))[0]["totals"]
    assert await documents(pool, "tax_invoice") == []


async def test_a_correction_of_no_payment_needs_no_voucher(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 5000)
    await top_up(pool, org, 500, kind="promotion")
    taking = {"refund_id": "c", "kind": "correction", "amount_paise": 500}
    assert (await ask("POST", f"/internal/orgs/{org}/refunds", taking))[0] == 201
    await vouchers(pool)
    assert await documents(pool, "refund_voucher") == []


async def test_no_tax_is_given_back_twice_where_a_credit_note_is_refunded(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 5000, payment_id="p1")
    await consume(pool, [ended(org, duration_sec=300)])
    await vouchers(pool)
    await invoices(pool)
    [invoice] = await documents(pool, "tax_invoice")
    note = {"credit_note_id": "c1", "invoice_number": invoice["number"], "amount_paise": 3000, "reason": "echo"}
    assert (await ask("POST", f"/internal/orgs/{org}/credit-notes", note))[0] == 201
    for refund_id, paise in (("r1", 1500), ("r2", 3500)):
        refund = {"refund_id": refund_id, "payment_id": "p1", "amount_paise": paise}
        assert (await ask("POST", f"/internal/orgs/{org}/refunds", refund))[0] == 201
        await vouchers(pool)
    [first, second] = await documents(pool, "refund_voucher")
    assert (first["totals"]["total_paise"], first["totals"]["tax_paise"]) == (1500, 228)
    assert (second["totals"]["total_paise"], second["totals"]["tax_paise"]) == (3500, 76)
    assert [(line["amount_paise"], line["rate_percent"], line["cgst_paise"]) for line in second["lines"]] == [
        (500, 18, 38),
        (3000, 0, 0),
    ]
    assert await pool.fetchval(LEFT_OVER) == 0, "no later invoice adjusts anything of it"
    assert paper.pdf(second).startswith(b"%PDF-")


LEFT_OVER = """
SELECT
    (SELECT sum(total_paise) FROM documents WHERE kind IN ('receipt_voucher', 'credit_note'))
    - (SELECT sum(amount_paise) FROM document_uses)
"""


async def test_a_credit_note_returns_money_once_and_never_more_than_was_invoiced(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 5000)
    await consume(pool, [ended(org, duration_sec=300)])
    await vouchers(pool)
    await invoices(pool)
    [invoice] = await documents(pool, "tax_invoice")
    body = {"credit_note_id": "c1", "invoice_number": invoice["number"], "amount_paise": 2000, "reason": "echo"}
    path = f"/internal/orgs/{org}/credit-notes"
    answers = await asyncio.gather(*(ask("POST", path, body) for _ in range(4)))
    assert {status for status, _ in answers} == {201}
    assert await balance(pool, org) == 4000
    for refused in ({"amount_paise": 2001}, {"credit_note_id": "c2", "amount_paise": 1001}, {"invoice_number": "x"}):
        assert (await ask("POST", path, {**body, **refused}))[0] == 409
    assert (await ask("POST", f"/internal/orgs/{uuid4()}/credit-notes", {**body, "credit_note_id": "c3"}))[0] == 409
    [note] = await documents(pool, "credit_note")
    assert note["refers_to"] == [invoice["number"]]
    await assert_numbered_without_gaps(pool)
    await assert_sound(pool)


@pytest.mark.parametrize("statement", ["UPDATE documents SET total_paise = 0", "DELETE FROM documents"])
async def test_a_document_is_never_edited(pool: Pool, statement: str) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await pool.execute(statement)


ISSUING = """
from tests.billing.test_documents import vouchers
async def act(pool, org):
    await vouchers(pool)
"""


async def test_a_kill_after_the_number_was_taken_leaves_no_gap(dsn: str, pool: Pool) -> None:
    org = uuid4()
    for _ in range(3):
        await top_up(pool, org, 1000)
    die_at("billing.number_taken:2", dsn, ISSUING, org)
    await vouchers(pool)
    assert len(await documents(pool, "receipt_voucher")) == 3
    await assert_numbered_without_gaps(pool)


async def test_issuers_at_once_that_are_killed_leave_no_gap_and_no_fact_without_its_document(
    ask: Caller, dsn: str, pool: Pool
) -> None:
    """Vouchers, refunds, credit notes and invoices of twelve orgs, issued by four at once after two have died at it."""
    orgs = [uuid4() for _ in range(12)]
    for org in orgs:
        await top_up(pool, org, 5000, payment_id=f"p-{org}")
        await consume(pool, [ended(org, duration_sec=200)])
    for n in (2, 5):
        die_at(f"billing.number_taken:{n}", dsn, ISSUING, orgs[0])
    refunds = ({"refund_id": f"r-{org}", "payment_id": f"p-{org}", "amount_paise": 700} for org in orgs)
    paths = (f"/internal/orgs/{org}/refunds" for org in orgs)
    asked = [ask("POST", path, refund) for path, refund in zip(paths, refunds, strict=True)]
    await asyncio.gather(*asked, *(vouchers(pool) for _ in range(4)), *(invoices(pool) for _ in range(3)))
    await vouchers(pool)
    await asyncio.gather(*(invoices(pool) for _ in range(4)))
    notes = [(body["buyer"]["org_id"], body["number"]) for body in await documents(pool, "tax_invoice")]
    told = [
        {"credit_note_id": f"c-{org}", "invoice_number": number, "amount_paise": 5, "reason": "echo"}
        for org, number in notes
    ]
    answers = await asyncio.gather(
        *(ask("POST", f"/internal/orgs/{org}/credit-notes", n) for (org, _), n in zip(notes, told, strict=True))
    )
    assert {status for status, _ in answers} == {201}
    counted = await pool.fetch("SELECT kind, count(*) FROM documents GROUP BY kind ORDER BY kind")
    kinds = ("credit_note", "receipt_voucher", "refund_voucher", "tax_invoice")
    assert [tuple(row) for row in counted] == [(kind, 12) for kind in kinds]
    await assert_numbered_without_gaps(pool)
    await assert_sound(pool)


@pytest.mark.parametrize(
    "change",
    [
        {"gstin": "27AAPFU0939F1ZW"},
        {"state_code": "99"},
        {"state_code": "29", "gstin": "27AAPFU0939F1ZV"},
        {"name": "आशा"},
        {"address": "a\x00b"},
        {"address": "a\tb"},
        {"address": ""},
    ],
)
async def test_a_tax_profile_that_can_not_be_right_is_refused(ask_in_vain: Caller, change: dict[str, str]) -> None:
    assert (await ask_in_vain("PUT", f"/internal/orgs/{uuid4()}/tax-profile", {**PROFILE, **change}))[0] == 400


async def test_a_document_is_its_own_orgs_and_the_same_as_json_and_on_paper(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 118_000)
    await vouchers(pool)
    [listed] = (await ask("GET", f"/internal/orgs/{org}/documents"))[1]["data"]
    path = f"/documents/{listed['number']}"
    status, answer = await ask("GET", f"/internal/orgs/{org}{path}")
    assert (status, answer["data"]["totals"]["total_paise"]) == (200, 118_000)
    assert (await ask("GET", f"/internal/orgs/{uuid4()}{path}"))[0] == 404
    assert paper.pdf(answer["data"]) == paper.pdf(answer["data"]), "the same document is the same file"
    assert paper.pdf(answer["data"]).startswith(b"%PDF-")


async def test_a_payment_named_in_other_letters_is_printed_all_the_same(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 1000, payment_id="नकद-₹10")
    await vouchers(pool)
    [body] = await documents(pool, "receipt_voucher")
    assert body["refers_to"] == ["topup:नकद-₹10"]
    assert paper.pdf(body).startswith(b"%PDF-")
    assert (await ask("GET", f"/internal/orgs/{org}/documents/RV/2627/\x00"))[0] == 404


async def test_samples_of_every_document_can_be_made(ask: Caller, pool: Pool, tmp_path: Path) -> None:
    """With `WRITE_SAMPLES=1` they go to services/billing/samples, for people to look at."""
    folder = SAMPLES if os.environ.get("WRITE_SAMPLES") else tmp_path
    org = UUID(int=7)
    await ask("PUT", f"/internal/orgs/{org}/tax-profile", {**PROFILE, "gstin": "27AAPFU0939F1ZV"})
    await top_up(pool, org, 1_180_000, payment_id="pay_29QQoUBi66xm2f")
    await top_up(pool, org, 100_000, payment_id="welcome", kind="promotion")
    end = ended(org, call_id=UUID(int=8), duration_sec=142)
    pulsed = TERMS.model_copy(update={"rate_paise_per_sec": 7, "pulse_sec": 30, "min_billable_sec": 30})
    await consume(pool, [end, *(ended(org, duration_sec=61, terms=pulsed) for _ in range(40))])
    refund = {"refund_id": "rfd_1", "payment_id": "pay_29QQoUBi66xm2f", "amount_paise": 50_000}
    await ask("POST", f"/internal/orgs/{org}/refunds", refund)
    await vouchers(pool)
    await invoices(pool)
    [invoice] = await documents(pool, "tax_invoice")
    note = {"credit_note_id": "cn1", "invoice_number": invoice["number"], "amount_paise": 1420, "reason": "No audio"}
    await ask("POST", f"/internal/orgs/{org}/credit-notes", note)
    folder.mkdir(exist_ok=True)
    for kind in ("receipt_voucher", "tax_invoice", "refund_voucher", "credit_note"):
        [body] = await documents(pool, kind)
        (folder / f"{kind}.json").write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        (folder / f"{kind}.pdf").write_bytes(paper.pdf(body))
    _, bill = await ask("GET", f"/internal/orgs/{org}/bills/{call_of(end)}")
    (folder / "bill.json").write_text(json.dumps(bill["data"], indent=2, ensure_ascii=False) + "\n")
    assert sorted(path.suffix for path in folder.iterdir() if path.stem != "README") == [".json"] * 5 + [".pdf"] * 4
