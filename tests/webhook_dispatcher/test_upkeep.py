"""Retention: days of attempts, bodies, old deliveries, and secrets under an older key."""

import asyncio
from datetime import UTC, datetime, timedelta

from aiohttp import web

from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import endpoints, replays, retention
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


async def test_replicas_that_make_and_drop_days_at_once_do_not_disturb_each_other(pool: Pool) -> None:
    today = now().date()
    for n in range(1, 6):
        for old in range(5):
            await retention.make_partitions(pool, today=today - timedelta(days=60 + 10 * old))
        later = today + timedelta(days=10 * n)
        await asyncio.gather(
            *(
                step(pool, today=later)
                for step in (retention.make_partitions, retention.drop_partitions)
                for _ in range(4)
            )
        )
    names = {row["relname"] for row in await pool.fetch(PARTITIONS)}
    assert f"attempts_{later:%Y%m%d}" in names
    assert min(names) >= f"attempts_{later - timedelta(days=30):%Y%m%d}"


async def test_who_reads_attempts_for_long_does_not_stop_their_being_recorded(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id, pool = await receive(answer_ok), new_id(), dispatcher.pool
    await dispatcher.register(org_id, receiver.url)
    old = now().date() - timedelta(days=60)
    await retention.make_partitions(pool, today=old)
    upkeep = Upkeep(pool=pool, secrets=SECRETS)
    async with pool.acquire() as connection, connection.transaction():
        await connection.fetch("SELECT FROM attempts")  # As a dump of the database does, for an hour.
        async with asyncio.timeout(5):
            await upkeep.once(asyncio.Event())
            events = call_events(org_id)
            await dispatcher.arrive(*events)
            await dispatcher.until_state("delivered", *events)
        assert await pool.fetchval("SELECT to_regclass($1) IS NOT NULL", f"attempts_{old:%Y%m%d}")
    await upkeep.once(asyncio.Event())
    assert await pool.fetchval("SELECT to_regclass($1) IS NULL", f"attempts_{old:%Y%m%d}")


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


async def test_what_a_deleted_endpoint_was_sent_goes_with_it(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id, pool = await receive(answer_ok), new_id(), dispatcher.pool
    gone, _ = await dispatcher.register(org_id, receiver.url)
    kept, _ = await dispatcher.register(org_id, receiver.url)
    events = call_events(org_id, 3)
    await dispatcher.arrive(*events)
    await dispatcher.until("count(*) = 6 FROM deliveries WHERE state = 'delivered'")
    for endpoint_id in (gone, kept):
        await replays.start(
            pool,
            org_id=org_id,
            endpoint_id=endpoint_id,
            since=now() - timedelta(days=1),
            until=now(),
            events=None,
            status=None,
            call_id=None,
        )
    await endpoints.delete(pool, org_id=org_id, endpoint_id=gone)
    await Upkeep(pool=pool, secrets=SECRETS).once(asyncio.Event())
    for table in ("deliveries", "replays"):
        rows = await pool.fetch(f"SELECT DISTINCT endpoint_id FROM {table}")
        assert [row["endpoint_id"] for row in rows] == [kept], table


async def test_answers_are_forgotten_with_the_bodies(dispatcher: Dispatcher, receive: Receive) -> None:
    async def greets(_: web.Request, __: int) -> web.StreamResponse:
        return web.Response(text="hello, Riya Sharma")

    receiver, org_id, pool = await receive(greets), new_id(), dispatcher.pool
    await dispatcher.register(org_id, receiver.url)
    old, fresh = call_events(org_id)[0], call_events(org_id)[0]
    await dispatcher.arrive(old, fresh)
    await dispatcher.until_state("delivered", old, fresh)
    await pool.execute("UPDATE notifications SET occurred_at = now() - interval '8 days' WHERE event_id = $1", old.id)
    await pool.execute("UPDATE deliveries SET finished_at = now() - interval '8 days' WHERE event_id = $1", old.id)
    await Upkeep(pool=pool, secrets=SECRETS).once(asyncio.Event())
    left = await pool.fetch("SELECT event_id FROM attempts WHERE response IS NOT NULL")
    assert [row["event_id"] for row in left] == [fresh.id]
    erased, _ = await retention.expunge(pool, org_id=org_id, call_ids=[fresh.key], e164=None)
    assert erased == 1
    assert await pool.fetchval("SELECT count(*) FROM attempts WHERE response IS NOT NULL") == 0
    again, _ = await retention.expunge(pool, org_id=org_id, call_ids=[fresh.key, old.key], e164=None)
    assert again == 0, "it was erased before"


async def test_an_erasure_waits_for_the_endpoint_before_it_touches_a_delivery(idle: Dispatcher) -> None:
    """As everybody who changes deliveries does: in another order two of them could wait for each other."""
    org_id, pool = new_id(), idle.pool
    await idle.register(org_id, "https://8.8.8.8/")
    (event,) = call_events(org_id)
    await idle.arrive(event, hand_over=False)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM endpoints FOR NO KEY UPDATE")
        erasing = asyncio.create_task(retention.expunge(pool, org_id=org_id, call_ids=[event.key], e164=None))
        await idle.until("count(*) = 1 FROM pg_locks WHERE NOT granted")
        await connection.execute("SELECT FROM deliveries FOR UPDATE NOWAIT")
    assert await erasing == (1, 1)


async def test_after_a_rotation_both_secrets_are_sealed_again_and_the_old_one_is_forgotten_in_time(pool: Pool) -> None:
    older, org_id = Secrets(key=bytes(32), key_id="0"), new_id()
    made = await endpoints.register(pool, older, org_id=org_id, url="https://8.8.8.8/", events=["*"])
    assert isinstance(made, Registered)
    endpoint_id = made.shown["id"]
    rotated = await endpoints.rotate(pool, older, org_id=org_id, endpoint_id=endpoint_id)
    assert rotated is not None
    both = Secrets(key=bytes(range(32)), key_id="1", older={"0": bytes(32)})
    await Upkeep(pool=pool, secrets=both).once(asyncio.Event())
    kept = await endpoints.one(pool, org_id=org_id, endpoint_id=endpoint_id)
    assert kept is not None
    assert SECRETS.all_of(kept, at=now()) == [rotated.secret, made.secret], "the older key is needed no more"
    await pool.execute("UPDATE endpoints SET old_secret_until = now() - interval '1 second'")
    await Upkeep(pool=pool, secrets=both).once(asyncio.Event())
    assert await pool.fetchval("SELECT old_secret_sealed IS NULL AND old_secret_until IS NULL FROM endpoints")


async def test_a_secret_that_does_not_open_stops_nobody_elses_from_being_sealed_again(pool: Pool) -> None:
    older, ids = Secrets(key=bytes(32), key_id="0"), []
    for _ in range(3):
        made = await endpoints.register(pool, older, org_id=new_id(), url="https://8.8.8.8/", events=["*"])
        assert isinstance(made, Registered)
        ids.append(made.shown["id"])
    await pool.execute("UPDATE endpoints SET secret_sealed = 'tampered with, by somebody' WHERE id = $1", ids[0])
    both = Secrets(key=bytes(range(32)), key_id="1", older={"0": bytes(32)})
    await Upkeep(pool=pool, secrets=both).once(asyncio.Event())
    rows = await pool.fetch("SELECT secret_key_id FROM endpoints ORDER BY id")
    assert [row["secret_key_id"] for row in rows] == ["0", "1", "1"]


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
