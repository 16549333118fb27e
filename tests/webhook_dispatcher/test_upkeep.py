"""Retention: days of attempts, bodies, old deliveries, and secrets under an older key."""

import asyncio
from datetime import UTC, datetime, timedelta

from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import endpoints, retention
from cualify_webhook_dispatcher.endpoints import Registered
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.upkeep import Upkeep
from tests.webhook_dispatcher.conftest import SECRETS, Dispatcher, Receive, call_events
from tests.webhook_dispatcher.receiver import answer_ok

PARTITIONS = "SELECT relname FROM pg_class WHERE relname ~ '^attempts_[0-9]{8}$' AND relkind = 'r' ORDER BY relname"


async def test_days_are_made_ahead_and_dropped_after_30(pool: Pool) -> None:
    today = now().date()
    old = today - timedelta(days=40)
    for n in range(15):
        await retention.make_partitions(pool, today=old + timedelta(days=n))
    at = datetime(old.year, old.month, old.day, 12, tzinfo=UTC)
    for days in (0, 12, 40):
        await pool.execute(
            "INSERT INTO attempts (event_id, endpoint_id, n, at, duration_ms, status_code)"
            " VALUES ($1, $2, 1, $3, 1, 200)",
            new_id(),
            new_id(),
            at + timedelta(days=days),
        )
    await Upkeep(pool=pool, secrets=SECRETS).once(asyncio.Event())
    names = [row["relname"] for row in await pool.fetch(PARTITIONS)]
    assert names[0] == f"attempts_{today - timedelta(days=30):%Y%m%d}"
    assert names[-1] == f"attempts_{today + timedelta(days=3):%Y%m%d}"
    assert await pool.fetchval("SELECT count(*) FROM attempts") == 2
    assert await pool.fetchval("SELECT count(*) FROM attempts_other") == 0


async def test_a_body_is_forgotten_a_week_after_its_end_and_a_delivery_after_30_days(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id, pool = await receive(answer_ok), new_id(), dispatcher.pool
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    ended, waits, fresh = (call_events(org_id)[0] for _ in range(3))
    await dispatcher.arrive(ended, fresh)
    await dispatcher.until_state("delivered", ended, fresh)
    await pool.execute("UPDATE endpoints SET active = false, paused_reason = 'customer' WHERE id = $1", endpoint_id)
    await dispatcher.arrive(waits)
    for event in (ended, waits):
        await pool.execute(
            "UPDATE notifications SET occurred_at = occurred_at - interval '8 days' WHERE event_id = $1", event.id
        )
    await pool.execute("UPDATE deliveries SET finished_at = now() - interval '8 days' WHERE event_id = $1", ended.id)
    upkeep = Upkeep(pool=pool, secrets=SECRETS)
    await upkeep.once(asyncio.Event())
    masked = await pool.fetch("SELECT event_id FROM notifications WHERE body IS NULL")
    assert [row["event_id"] for row in masked] == [ended.id]
    await pool.execute(
        "UPDATE notifications SET occurred_at = occurred_at - interval '30 days' WHERE event_id = $1", ended.id
    )
    await pool.execute("UPDATE deliveries SET finished_at = now() - interval '31 days' WHERE event_id = $1", ended.id)
    await upkeep.once(asyncio.Event())
    left = await pool.fetch("SELECT event_id FROM deliveries JOIN notifications USING (event_id)")
    assert {row["event_id"] for row in left} == {waits.id, fresh.id}


async def test_a_secret_under_the_older_key_still_opens_and_is_sealed_again(pool: Pool) -> None:
    older = Secrets(key=bytes(32), key_id="0")
    made = await endpoints.register(pool, older, org_id=(org_id := new_id()), url="https://8.8.8.8/", events=["*"])
    assert isinstance(made, Registered)
    both = Secrets(key=bytes(range(32)), key_id="1", older={"0": bytes(32)})
    before = await endpoints.one(pool, org_id=org_id, endpoint_id=made.shown["id"])
    assert before is not None
    assert both.all_of(before, at=now()) == [made.secret]
    await Upkeep(pool=pool, secrets=both).once(asyncio.Event())
    after = await endpoints.one(pool, org_id=org_id, endpoint_id=made.shown["id"])
    assert after is not None
    assert after.secret_key_id == "1"
    assert SECRETS.all_of(after, at=now()) == [made.secret]
