"""What billing does by itself, without anybody who asks: turns plans, issues documents, reconciles."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from pydantic import SecretStr

from cualify_billing import main
from cualify_billing.plans import Terms, activate
from cualify_billing.settings import BillingSettings
from cualify_shared.database import Pool
from cualify_shared.service import Context
from tests.billing.conftest import TOKEN, consume, ended, top_up

DONE = """
SELECT
    EXISTS (SELECT FROM plan_expiries) AND EXISTS (SELECT FROM reconciliations)
    AND (SELECT count(*) = 2 FROM documents WHERE kind IN ('receipt_voucher', 'tax_invoice'))
"""


async def test_what_is_due_is_done_by_itself(dsn: str, pool: Pool) -> None:
    org, stop = uuid4(), asyncio.Event()
    await top_up(pool, org, 5000)
    await consume(pool, [ended(org)])
    await pool.execute("ALTER TABLE transfers DISABLE TRIGGER transfers_are_immutable")
    await pool.execute("UPDATE transfers SET created_at = created_at - interval '32 days'")
    terms = Terms(
        plan="growth",
        rate_paise_per_sec=10,
        pulse_sec=1,
        rate_limit_per_minute=120,
        max_concurrent_calls=10,
        active_until=datetime.now(UTC) - timedelta(minutes=1),
    )
    async with pool.acquire() as connection, connection.transaction():
        await activate(connection, org_id=org, terms=terms, at=datetime.now(UTC) - timedelta(days=1))
    settings = BillingSettings(
        database_url=SecretStr(dsn),
        kafka_bootstrap_servers="unused",
        internal_token=SecretStr(TOKEN),
        seller_name="Cualify Voice Private Limited",
        seller_gstin="29AAGCB7383J1Z4",
    )
    told: list[str] = []
    loops = main._loops(Context(settings, pool, lambda: told.append("committed"), stop))
    tasks = [asyncio.ensure_future(loop.run(stop)) for loop in loops]
    # The invoice waits for the voucher of its advance: its loop comes round once a minute, so it is run once more.
    async with asyncio.timeout(30):
        while not await pool.fetchval("SELECT EXISTS (SELECT FROM documents)"):
            await asyncio.sleep(0.05)
        tasks += [asyncio.ensure_future(loop.run(stop)) for loop in loops if loop.name == "issue_invoices"]
        while not await pool.fetchval(DONE):
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*tasks)
    assert told, "the outbox was woken for the expiry"
