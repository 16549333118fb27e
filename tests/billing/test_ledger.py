"""The ledger holds its rules against whoever writes to it, and finds out what breaks them."""

import asyncio
import re
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from cualify_billing import posting, thresholds
from cualify_billing.reconcile import differences
from cualify_shared.database import Pool
from tests.billing.conftest import assert_sound, balance, consume, ended, top_up

TILLS = "SELECT name, balance_paise FROM accounts WHERE kind = 'revenue' AND balance_paise <> 0 ORDER BY id"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount_paise = amount_paise",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE transfers SET amount_paise = 1",
        "DELETE FROM transfers WHERE false",
        "TRUNCATE transfers CASCADE",
        "DELETE FROM accounts",
        "TRUNCATE accounts CASCADE",
    ],
)
async def test_history_is_never_rewritten(pool: Pool, statement: str) -> None:
    await top_up(pool, uuid4(), 1000)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await pool.execute(statement)


TOP_UP = "INSERT INTO transfers (name, kind, org_id, amount_paise, at) VALUES ('topup:x', 'top_up', $1, 5, now())"

WRITE_ENTRIES = """
INSERT INTO entries (transfer, account_id, amount_paise, balance_after_paise)
SELECT 'topup:x', account_id, amount_paise, 0
FROM unnest($1::bigint[], $2::bigint[]) AS side (account_id, amount_paise)
"""

DEBIT_BEYOND_ITS_HOLD = """
INSERT INTO transfers
VALUES ('debit:' || $1::uuid::text, 'call_debit', $1, 11, now(), now(), $1, 'completed', $1, 1, 1, 11, 1, 1, 10)
"""


@pytest.mark.parametrize(
    ("accounts", "amounts"),
    [((1, 2), (5, -4)), ((1,), (5,)), ((1, 2, 3), (5, -2, -3)), ((1,), (0,)), ((1, 999), (5, -5))],
)
async def test_entries_that_are_not_two_that_sum_to_zero_are_refused(
    pool: Pool, accounts: tuple[int, ...], amounts: tuple[int, ...]
) -> None:
    await pool.execute(TOP_UP, uuid4())
    with pytest.raises(asyncpg.CheckViolationError, match="sum to zero"):
        await pool.execute(WRITE_ENTRIES, accounts, amounts)


async def test_a_debit_beyond_its_hold_is_refused(pool: Pool) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="a_debit_stays_within_its_hold"):
        await pool.execute(DEBIT_BEYOND_ITS_HOLD, uuid4())


async def test_a_batch_takes_a_till_that_is_free(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM accounts WHERE name = 'revenue:1' FOR UPDATE")
        await asyncio.wait_for(consume(pool, [ended(org)]), 5)
    assert [tuple(row) for row in await pool.fetch(TILLS)] == [("revenue:2", 1420)]
    await assert_sound(pool)


async def test_a_batch_waits_for_a_till_where_all_are_taken(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    async with pool.acquire() as other:
        async with other.transaction():
            await other.execute("SELECT FROM accounts WHERE kind = 'revenue' FOR UPDATE")
            waiting = asyncio.create_task(consume(pool, [ended(org)]))
            async with asyncio.timeout(5):
                while not await other.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock')"
                ):
                    await other.execute("SELECT pg_stat_clear_snapshot()")
        await asyncio.wait_for(waiting, 5)
    assert await balance(pool, org) == 8580
    await assert_sound(pool)


ORDER = """
INSERT INTO payment_orders (receipt, org_id, request_id, amount_paise, payment_id, paid_at)
VALUES (gen_random_uuid(), gen_random_uuid(), 'r', 10000, 'pay_of_nobody', now())
"""
OTHER_ORDER = """
INSERT INTO payment_orders (receipt, org_id, request_id, amount_paise, payment_id, paid_at)
SELECT gen_random_uuid(), org_id, 'r', 10001, substr(name, 7), now()
FROM transfers
WHERE kind = 'top_up'
"""
DECIDED = """
INSERT INTO refunds (id, org_id, kind, amount_paise, balance_paise)
VALUES ('r', gen_random_uuid(), 'chargeback', 5, 0)
"""
MOVED = """
INSERT INTO transfers (name, kind, org_id, amount_paise, at)
SELECT 'refund:r', 'correction', org_id, 5, now()
FROM accounts
WHERE kind = 'wallet'
"""
VOUCHER = """
INSERT INTO documents (
    number, kind, financial_year, serial, subject, org_id, issued_on, taxable_paise, cgst_paise, sgst_paise, igst_paise,
    total_paise, covers_to_entry, body
)
SELECT
    'RV/2627/' || serial, 'receipt_voucher', '2627', serial, subject, gen_random_uuid(), now(), paise, 0, 0, 0, paise,
    1, '{}'
FROM (VALUES (1, (SELECT name FROM transfers WHERE kind = 'top_up'), 9999), (2, 'x', 5)) AS v (serial, subject, paise)
"""
SMALL_VOUCHER = "DELETE FROM documents_due; " + VOUCHER
USED_TWICE = VOUCHER + "; INSERT INTO document_uses VALUES ('RV/2627/2', 'RV/2627/1', 6)"


WRITES_MONEY = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM|MERGE INTO|COPY)\s+(accounts|transfers|entries)\b")


def test_only_the_ledger_moves_money() -> None:
    """Thresholds touch two columns of accounts that hold none; all else goes through `ledger` and its `posting`."""
    package = Path(posting.__file__).parent
    found = {path.name for path in package.rglob("*.py") if WRITES_MONEY.search(path.read_text())}
    assert found == {"ledger.py", "posting.py", "thresholds.py"}
    assert re.findall(r"SET (.*)", thresholds.SET) == [
        "low_balance_paise = $2::bigint, low_balance_armed = coalesce(balance_paise >= $2::bigint, true)"
    ]
    importing = re.compile(r"import.*\bposting\b|posting import")
    assert {path.name for path in package.rglob("*.py") if importing.search(path.read_text())} == {"ledger.py"}


@pytest.mark.parametrize(
    ("meddling", "rule"),
    [
        ("UPDATE accounts SET balance_paise = 1 WHERE kind = 'wallet'", "all balances sum to zero"),
        ("UPDATE accounts SET balance_paise = 1 WHERE kind = 'wallet'", "a balance is the sum of its entries"),
        ("UPDATE accounts SET sequence = 9", "an org has an event for each fact"),
        ("UPDATE entries SET balance_after_paise = 1", "each entry continues from the one before"),
        ("UPDATE entries SET amount_paise = amount_paise + 1", "the entries of a transfer sum to zero"),
        ("DELETE FROM entries WHERE id = 2", "a transfer has two entries, one of them in its org's wallet"),
        ("UPDATE transfers SET amount_paise = 7", "the wallet moves by the transfer's amount"),
        ("UPDATE transfers SET duration_sec = 7 WHERE kind = 'call_debit'", "a debit is the price of its call"),
        ("UPDATE accounts SET kind = 'promotions' WHERE name = 'revenue:1'", "money goes to the account of its kind"),
        ("UPDATE transfers SET kind = 'adjustment' WHERE kind = 'top_up'", "money goes to the account of its kind"),
        (ORDER, "every paid order is in its wallet"),
        (OTHER_ORDER, "every paid order is in its wallet"),
        (
            DECIDED,
            "what was refunded is what was decided",
        ),
        (MOVED, "what was refunded is what was decided"),
        ("DELETE FROM documents_due", "every payment has its voucher, or waits for it"),
        ("INSERT INTO document_series VALUES ('tax_invoice', '2627', 1)", "documents are numbered without gaps"),
        (USED_TWICE, "an advance is used up at most once"),
        (SMALL_VOUCHER, "every payment has its voucher, or waits for it"),
    ],
)
async def test_a_ledger_that_was_meddled_with_is_found_out(pool: Pool, meddling: str, rule: str) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    await consume(pool, [ended(org), ended(org, status="busy", duration_sec=3)])
    await assert_sound(pool)
    async with pool.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(meddling)
        await connection.execute("RESET session_replication_role")
        assert rule in {difference.rule for difference in await differences(connection)}
