"""The breaker, Retry-After, pauses and deletes as they hold in Postgres, over several replicas."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from cualify_shared.database import Connection, Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import claims, endpoints, presence
from cualify_webhook_dispatcher.breaker import OPENS_AFTER
from cualify_webhook_dispatcher.lanes import FIRST_LINES
from tests.webhook_dispatcher.conftest import Dispatcher, Receive, call_events, ids, make_dispatcher
from tests.webhook_dispatcher.receiver import answer_ok, answers


async def probe_now(dispatcher: Dispatcher) -> None:
    """The time until the next probe has passed."""
    await dispatcher.pool.execute("UPDATE endpoints SET not_before = now(), next_due_at = now()")
    dispatcher.deliver.wake()


async def test_an_open_breaker_sends_one_probe_at_a_time_and_burns_nothing(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500)), new_id()
    await dispatcher.register(org_id, receiver.url)
    events = [event for _ in range(40) for event in call_events(org_id)]
    await dispatcher.arrive(*events)
    await dispatcher.until("opened_at IS NOT NULL FROM endpoints")
    await dispatcher.until("count(*) = 0 FROM deliveries WHERE lease_token IS NOT NULL")
    sent = len(receiver.got)
    assert sent <= OPENS_AFTER + FIRST_LINES - 1
    burned = await dispatcher.pool.fetchval("SELECT sum(burned) FROM deliveries")
    assert burned == 5
    await dispatcher.arrive(*call_events(org_id))
    for n in range(1, 4):
        await probe_now(dispatcher)
        await dispatcher.until("probes = $1 FROM endpoints", n)
        assert len(receiver.got) == sent + n
    assert await dispatcher.pool.fetchval("SELECT sum(burned) FROM deliveries") == burned
    assert await dispatcher.pool.fetchval("SELECT not_before - now() > interval '110 s' FROM endpoints")


async def test_the_first_success_drains_the_backlog_long_before_its_schedule(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(503)), new_id()
    await dispatcher.register(org_id, receiver.url)
    events = [event for _ in range(60) for event in call_events(org_id)]
    await dispatcher.arrive(*events)
    await dispatcher.until("opened_at IS NOT NULL FROM endpoints")
    await dispatcher.until("count(*) = 0 FROM deliveries WHERE lease_token IS NOT NULL")
    await dispatcher.pool.execute("UPDATE deliveries SET due_at = now() + interval '8 hours' WHERE burned > 0")
    receiver.respond = answer_ok
    await probe_now(dispatcher)
    await dispatcher.until_state("delivered", *events)
    row = await dispatcher.pool.fetchrow("SELECT * FROM endpoints")
    assert row is not None
    assert (row["opened_at"], row["failures_in_a_row"], row["failing_since"]) == (None, 0, None)


@pytest.mark.parametrize("by", ["a probe", "being resumed"])
async def test_what_waited_out_an_outage_arrives_in_order(dispatcher: Dispatcher, receive: Receive, by: str) -> None:
    receiver, org_id = await receive(answers(503)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    calls = [call_events(org_id, 3) for _ in range(20)]
    await dispatcher.arrive(*(event for call in calls for event in call))
    await dispatcher.until("opened_at IS NOT NULL FROM endpoints")
    await dispatcher.until("count(*) = 0 FROM deliveries WHERE lease_token IS NOT NULL")
    await dispatcher.pool.execute("UPDATE deliveries SET due_at = due_at - interval '8 hours' WHERE behind")
    if by == "being resumed":
        await change(dispatcher, org_id, endpoint_id, active=False)
    sent = len(receiver.got)
    receiver.respond = answer_ok
    if by == "being resumed":
        await change(dispatcher, org_id, endpoint_id, active=True)
        dispatcher.deliver.wake()
    else:
        await probe_now(dispatcher)
    await dispatcher.until_state("delivered", *(event for call in calls for event in call))
    for call in calls:
        mine = set(ids(call))
        assert [got.body["id"] for got in receiver.got[sent:] if got.body["id"] in mine] == ids(call)
    assert not any("out_of_order" in got.body for got in receiver.got)


async def change(dispatcher: Dispatcher, org_id: UUID, endpoint_id: UUID, *, active: bool) -> None:
    await endpoints.change(
        dispatcher.pool, org_id=org_id, endpoint_id=endpoint_id, url=None, events=None, active=active
    )


async def test_several_replicas_agree_on_one_probe(pool: Pool, receive: Receive) -> None:
    receiver, org_id = await receive(answers(500)), new_id()
    replicas = [make_dispatcher(pool) for _ in range(3)]
    await replicas[0].register(org_id, receiver.url)
    for one in replicas:
        one.start()
    for one in replicas:
        await one.arrive(*(event for _ in range(10) for event in call_events(org_id)))
    await replicas[0].until("opened_at IS NOT NULL FROM endpoints")
    await replicas[0].until("count(*) = 0 FROM deliveries WHERE lease_token IS NOT NULL")
    sent = len(receiver.got)
    await pool.execute("UPDATE endpoints SET not_before = now(), next_due_at = now()")
    for one in replicas:
        one.deliver.wake()
    await replicas[0].until("probes = 1 FROM endpoints")
    await asyncio.gather(*(one.deliver.look_again() for one in replicas))
    assert len(receiver.got) == sent + 1
    for one in replicas:
        await one.end()


async def test_72_hours_of_failing_pause_the_endpoint_and_say_so(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(404)), new_id()
    await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("failing_since IS NOT NULL FROM endpoints")
    await dispatcher.pool.execute("UPDATE endpoints SET failing_since = now() - interval '72 hours'")
    await dispatcher.make_due()
    await dispatcher.until("paused_reason = 'failing_for_72_h' FROM endpoints")
    told = [
        orjson.loads(row["payload"]) for row in await dispatcher.pool.fetch("SELECT payload FROM outbox ORDER BY id")
    ]
    assert told[-1]["type"] == "webhook.endpoint_paused"
    assert told[-1]["data"]["reason"] == "failing_for_72_h"
    assert await dispatcher.pool.fetchval("SELECT state FROM deliveries") == "pending"


async def test_the_attempt_that_pauses_an_endpoint_gives_nothing_up(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(404, 404, 200)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("failing_since IS NOT NULL FROM endpoints")
    # The tenth attempt comes 75 h 35 min after the first, and is the first one after 72 h.
    await dispatcher.pool.execute("UPDATE endpoints SET failing_since = now() - interval '76 hours'")
    await dispatcher.pool.execute("UPDATE deliveries SET attempts = 9, burned = 9")
    await dispatcher.make_due()
    await dispatcher.until("paused_reason = 'failing_for_72_h' FROM endpoints")
    assert await dispatcher.pool.fetchval("SELECT state FROM deliveries") == "pending"
    await change(dispatcher, org_id, endpoint_id, active=True)
    dispatcher.deliver.wake()
    await dispatcher.until_state("delivered", event)


async def test_a_server_that_asks_to_wait_is_sent_nothing_until_then(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(429, 200, headers={"Retry-After": "3600"})), new_id()
    await dispatcher.register(org_id, receiver.url)
    (first,) = call_events(org_id)
    await dispatcher.arrive(first)
    await dispatcher.until("not_before > now() + interval '59 minutes' FROM endpoints")
    later = call_events(org_id)
    await dispatcher.arrive(*later)
    dispatcher.deliver.wake()
    with pytest.raises(TimeoutError):
        await receiver.until(2, seconds=0.7)
    await dispatcher.pool.execute(
        "UPDATE deliveries SET asked_until = now(), due_at = now() WHERE asked_until IS NOT NULL"
    )
    await probe_now(dispatcher)
    await dispatcher.until_state("delivered", first, *later)
    assert await dispatcher.pool.fetchval("SELECT max(burned) FROM deliveries") == 1


async def test_after_a_delete_has_answered_no_replica_begins_anything(pool: Pool, receive: Receive) -> None:
    answered_at: list[float] = []
    late: list[float] = []

    async def slow(_: web.Request, __: int) -> web.StreamResponse:
        if answered_at:
            late.append(monotonic())
        await asyncio.sleep(0.01)
        return web.Response()

    receiver, org_id = await receive(slow), new_id()
    replicas = [make_dispatcher(pool) for _ in range(3)]
    endpoint_id, _ = await replicas[0].register(org_id, receiver.url)
    for one in replicas:
        one.start()
        await one.deliver.look_again()
        await one.arrive(*(event for _ in range(400) for event in call_events(org_id)))
    await receiver.until(50)
    assert await endpoints.delete(pool, org_id=org_id, endpoint_id=endpoint_id)
    replicas[0].deliver.forget(endpoint_id)
    await presence.until_all_know(pool, but=[replicas[0].deliver.replica_id])
    await asyncio.sleep(0.02)  # What was on the wire when it was cut off has arrived.
    answered_at.append(monotonic())
    await asyncio.sleep(0.7)
    assert late == []
    assert len(receiver.got) < 1200
    for one in replicas:
        await one.end()


async def test_a_look_confirms_nothing_of_an_endpoint_that_came_while_it_looked(
    idle: Dispatcher, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, org_id, real_look = await receive(answer_ok), new_id(), presence.look
    endpoint_id, _ = await idle.register(org_id, receiver.url)

    async def meanwhile(pool: Pool, endpoint_ids: Sequence[UUID]) -> presence.Seen:
        monkeypatch.setattr(presence, "look", real_look)
        assert endpoint_ids == [], "it is not asked about"
        await idle.arrive(*call_events(org_id))
        assert await endpoints.delete(pool, org_id=org_id, endpoint_id=endpoint_id)
        return await real_look(pool, endpoint_ids)

    await idle.deliver.look_again()
    monkeypatch.setattr(presence, "look", meanwhile)
    idle.deliver._permission.until = 0.0
    await idle.deliver.look_again()
    await presence.until_all_know(idle.pool)
    assert idle.deliver.held == 0
    with pytest.raises(TimeoutError):
        await receiver.until(1, seconds=0.2)


async def test_a_claim_does_not_bring_back_the_url_that_was_before(idle: Dispatcher, receive: Receive) -> None:
    old, new, org_id = await receive(answer_ok), await receive(answer_ok), new_id()
    endpoint_id, _ = await idle.register(org_id, old.url)
    await idle.arrive(*call_events(org_id), hand_over=False)
    await idle.pool.execute("UPDATE deliveries SET due_at = now(), lease_token = NULL")
    await idle.look_now()
    real_pool = idle.pool

    class Moving:
        """The pool; as soon as the claim has committed, the endpoint is moved and this replica has seen it."""

        @asynccontextmanager
        async def acquire(self) -> AsyncIterator[Connection]:
            async with real_pool.acquire() as connection:
                yield connection
            idle.deliver._pool = real_pool
            await endpoints.change(
                real_pool, org_id=org_id, endpoint_id=endpoint_id, url=new.url, events=None, active=None
            )
            await idle.deliver.look_again()

    idle.deliver._pool = Moving()  # type: ignore[assignment]
    await idle.deliver._claim()
    await new.until(1)
    assert old.got == []


async def test_a_delete_does_not_wait_for_a_replica_that_may_send_no_more(pool: Pool) -> None:
    dead, alive = make_dispatcher(pool), make_dispatcher(pool)
    await dead.deliver.look_again()
    await pool.execute("UPDATE replicas SET confirmed_at = now() - interval '4 seconds'")
    await alive.deliver.look_again()
    began = monotonic()
    await presence.until_all_know(pool, but=[alive.deliver.replica_id])
    assert monotonic() - began < 1
    # And one that comes back from the dead looks again before it sends.
    assert not await presence.confirm(pool, dead.deliver.replica_id, seen_at=(await presence.look(pool, [])).at)
    for one in (dead, alive):
        await one.end()


async def test_a_replica_that_cannot_look_stops_sending(idle: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    await idle.register(org_id, receiver.url)
    await idle.deliver.look_again()
    idle.deliver._permission.until = 0.0
    await idle.arrive(*call_events(org_id))
    with pytest.raises(TimeoutError):
        await receiver.until(1, seconds=0.3)
    await idle.deliver.look_again()
    await receiver.until(1)


async def test_every_event_is_finished_scheduled_or_paused(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(500)), new_id()
    await dispatcher.register(org_id, receiver.url)
    await dispatcher.arrive(*(event for _ in range(20) for event in call_events(org_id, 2)))
    await dispatcher.until("opened_at IS NOT NULL FROM endpoints")
    assert await claims.unscheduled(dispatcher.pool) == 0
    await dispatcher.until("count(*) = 0 FROM deliveries WHERE lease_token IS NOT NULL")
    await dispatcher.pool.execute("UPDATE endpoints SET next_due_at = NULL")
    assert await claims.unscheduled(dispatcher.pool) > 0, "the query would see it"
    assert await claims.mend_ready_list(dispatcher.pool) == 1
    assert await claims.unscheduled(dispatcher.pool) == 0


async def test_a_stale_breaker_is_no_reason_to_hold_a_new_event_for_ever(idle: Dispatcher) -> None:
    org_id = new_id()
    await idle.register(org_id, "https://8.8.8.8/")
    await idle.pool.execute("UPDATE endpoints SET opened_at = now(), not_before = now() + interval '5 minutes'")
    await idle.arrive(*call_events(org_id))
    row = await idle.pool.fetchrow("SELECT next_due_at - now() AS wait FROM endpoints")
    assert row is not None
    assert timedelta(minutes=4) < row["wait"] <= timedelta(minutes=5)
