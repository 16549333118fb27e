"""What an older version wrote is still there after the newer migrations, and still adds up."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from cualify_billing.issue import issue_vouchers
from cualify_billing.reconcile import differences
from cualify_billing.routes import billing_app
from cualify_billing.turn import turn_plans
from cualify_shared import database as shared
from cualify_shared.database import Pool, migrate
from tests.api.world import Org, debited, running
from tests.billing.conftest import TOKEN, Caller, balance, consume, ended, top_up
from tests.billing.test_documents import SELLER
from tests.support.databases import Databases

MakePool = Callable[[str], Awaitable[Pool]]
PAID, PRICE = 10_000, 1420


async def migrated_until(databases: Databases, package: str, last: str) -> str:
    """The DSN of a database as it was when `last` was the newest migration."""
    dsn = await databases.empty()
    connection = await shared.connect(dsn, application_name="old")
    try:
        await connection.execute(shared.LEDGER_OF_MIGRATIONS)
        files = list(shared._migrations(package))
        assert last in [file.name for _, file in files]
        for member, file in files:
            if member != package or file.name <= last:
                await shared._apply(connection, member, file, {})
    finally:
        await connection.close()
    return dsn


OLD_LEDGER = """
WITH wallet AS (
    INSERT INTO accounts (name, kind, org_id, balance_paise, sequence)
    VALUES ('wallet:' || $1::uuid, 'wallet', $1, $3::bigint - $4::bigint, 3)
), ours AS (
    UPDATE accounts
    SET balance_paise = CASE name WHEN 'topup_clearing' THEN -$3::bigint ELSE $4::bigint END
    WHERE name IN ('topup_clearing', 'revenue:1')
), moved AS (
    INSERT INTO transfers (
        name, kind, org_id, amount_paise, at, call_id, call_status, event_id, duration_sec, billable_sec,
        rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise
    )
    VALUES
        ('topup:pay_1', 'top_up', $1, $3, now(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        ('debit:' || $2::uuid, 'call_debit', $1, $4, now(), $2, 'completed', $5::uuid, 142, 142, 10, 1, 300, 3000)
)
INSERT INTO plans (
    org_id, version, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls, active_from,
    active_until
)
VALUES ($1, 1, 'old', 10, 1, 60, 5, now() - interval '1 hour', now() + interval '1 second')
"""

OLD_ENTRIES = """
INSERT INTO entries (transfer, account_id, amount_paise, balance_after_paise)
SELECT e.transfer, accounts.id, e.amount_paise, e.after_paise
FROM (
    VALUES
        (1, 'topup:pay_1', 'topup_clearing', -$3::bigint, -$3::bigint),
        (2, 'topup:pay_1', 'wallet:' || $1::uuid, $3, $3),
        (3, 'debit:' || $2::uuid, 'wallet:' || $1, -$4::bigint, $3 - $4::bigint),
        (4, 'debit:' || $2, 'revenue:1', $4, $4)
) AS e (n, transfer, account, amount_paise, after_paise)
JOIN accounts ON accounts.name = e.account
ORDER BY n
"""


@pytest.mark.parametrize("last", ["0002_plans.sql", "0003_bills_and_thresholds.sql", "0004_turning_plans.sql"])
async def test_a_ledger_of_an_older_billing_goes_on_as_if_nothing_had_happened(
    databases: Databases, pool_for: MakePool, last: str
) -> None:
    dsn = await migrated_until(databases, "cualify_billing", last)
    org = uuid4()
    old = ended(org)
    call_id = old.data.model_dump()["call_id"]
    connection = await shared.connect(dsn, application_name="old")
    await connection.execute(OLD_LEDGER, org, call_id, PAID, PRICE, old.id)
    await connection.execute(OLD_ENTRIES, org, call_id, PAID, PRICE)
    if last >= "0004":  # which that version wrote itself
        await connection.execute("INSERT INTO plan_turns SELECT org_id, active_until FROM plans")
    await connection.close()

    assert await migrate(dsn, package="cualify_billing") > 0
    pool = await pool_for(dsn)
    await pool.execute("DELETE FROM outbox")
    async with pool.acquire() as one:
        assert await differences(one) == []
    await consume(pool, [old, ended(org, duration_sec=10)])
    assert await balance(pool, org) == PAID - PRICE - 100, "the old call is not debited again"
    ask = Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN))
    refund = {"refund_id": "r", "amount_paise": 500, "payment_id": "pay_1"}
    assert (await ask("POST", f"/internal/orgs/{org}/refunds", refund))[0] == 201
    await turn_plans(pool, lambda: None, clock=lambda: datetime.now(UTC) + timedelta(minutes=1))
    assert await pool.fetchval("SELECT count(*) FROM plan_expiries WHERE org_id = $1", org) == 1
    while await issue_vouchers(pool, SELLER):
        pass
    kinds = await pool.fetch("SELECT kind FROM documents ORDER BY serial, kind")
    assert [row["kind"] for row in kinds] == ["receipt_voucher", "refund_voucher"], "the old payment has its voucher"
    async with pool.acquire() as one:
        assert await differences(one) == []


async def test_a_chargeback_of_an_older_billing_gets_its_voucher_once(databases: Databases, pool_for: MakePool) -> None:
    dsn = await migrated_until(databases, "cualify_billing", "0009_unchecked_rules.sql")
    pool, org = await pool_for(dsn), uuid4()
    await top_up(pool, org, PAID, payment_id="pay_1")
    ask = Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN))
    for refund_id, kind, payment_id in (
        ("r", "refund", "pay_1"),
        ("cb", "chargeback", None),
        ("c", "correction", None),
    ):
        taken = {"refund_id": refund_id, "kind": kind, "payment_id": payment_id, "amount_paise": 1000}
        assert (await ask("POST", f"/internal/orgs/{org}/refunds", taken))[0] == 201
    await pool.execute("DELETE FROM documents_due WHERE transfer = 'refund:cb'")
    assert await migrate(dsn, package="cualify_billing") == 1
    while await issue_vouchers(pool, SELLER):
        pass
    rows = await pool.fetch("SELECT subject FROM documents ORDER BY issued_at, number")
    assert [row["subject"] for row in rows] == ["topup:pay_1", "refund:r", "refund:cb"]


OLD_ORG = """
WITH org AS (
    INSERT INTO orgs VALUES ($1, 'Asha Clinics', now())
), credit AS (
    INSERT INTO org_credit (org_id, granted, held) VALUES ($1, 10000, 3000)
), plan AS (
    INSERT INTO org_plans VALUES ($1, 1, 'old', 10, 1, 600, 5, NULL, NULL)
), agent AS (
    INSERT INTO agents VALUES ($2, $1, 'Booker', 'hi-IN', 300, 'bolna', 'agent-1', now())
)
INSERT INTO calls (
    id, org_id, agent_id, status, to_e164, language, metadata, key_prefix, request_id, created_at, latest_at,
    rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider, provider_call_id
)
VALUES ($3, $1, $2, 'queued', '+919812345678', 'hi-IN', '{}', 'abcdefgh', 'req', now(), now(), 10, 1, 300, 3000,
        'bolna', 'boln_1')
"""


@pytest.mark.parametrize("last", ["0003_keys_and_limits.sql", "0007_feed.sql"])
async def test_an_org_of_an_older_api_goes_on_calling(databases: Databases, pool_for: MakePool, last: str) -> None:
    dsn = await migrated_until(databases, "cualify_api", last)
    org = Org(uuid4(), str(uuid4()), "")
    call_id = uuid4()
    connection = await shared.connect(dsn, application_name="old")
    await connection.execute(OLD_ORG, org.id, org.agent_id, call_id)
    await connection.close()
    assert await migrate(dsn, package="cualify_api") > 0
    async with running(await pool_for(dsn)) as world:
        org.key = (await world.admin("POST", f"/orgs/{org.id}/keys", {}))["key"]
        assert await world.wallet(org) == (10_000, 3000)
        assert (await world.place(org, max_duration_sec=60)).status == 201
        assert await world.wallet(org) == (10_000, 3600), "no minimum, and not frozen"
        org.events = 1
        await world.feed("wallet.events", debited(org, call_id, 1420))
        assert await world.wallet(org) == (8580, 600)
        assert (await world.call(org, call_id))["credits_debited_paise"] == 1420
