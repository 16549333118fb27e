"""Deliveries, from the event to the customer's server: once each, in order per call, and through every crash."""

import asyncio
from datetime import timedelta

import orjson
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import endpoints, leases
from cualify_webhook_dispatcher.lanes import FIRST_LINES
from cualify_webhook_dispatcher.upkeep import Upkeep
from tests.webhook_dispatcher.conftest import SECRETS, Dispatcher, Receive, call_events, ids, make_dispatcher
from tests.webhook_dispatcher.receiver import answer_ok, answers


async def test_an_event_arrives_signed_with_the_bytes_that_were_signed(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    _, secret = await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    (got,) = await receiver.until(1)
    verified = Webhook(secret).verify(got.content, {k.lower(): v for k, v in got.headers.items()})
    assert verified == got.body
    assert verified["id"] == got.headers["webhook-id"] == f"evt_{event.id.hex}"
    assert verified["type"] == "call.completed"
    assert verified["data"]["name"] == "नमस्ते"
    assert got.headers["Content-Type"] == "application/json"
    await dispatcher.until_state("delivered", event)


async def test_the_outcome_is_on_the_endpoint_in_the_attempts_and_on_its_topic(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500, 200)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("exists (SELECT FROM attempts)")
    await dispatcher.make_due()
    await dispatcher.until_state("delivered", event)
    shown = await dispatcher.pool.fetchrow("SELECT * FROM endpoints WHERE id = $1", endpoint_id)
    assert shown is not None
    assert (shown["last_status"], shown["event_sequence"]) == (200, 2)
    attempts = await dispatcher.pool.fetch("SELECT n, status_code, failure_code FROM attempts ORDER BY n")
    assert [tuple(row) for row in attempts] == [(1, 500, "http_5xx"), (2, 200, None)]
    told = [
        orjson.loads(row["payload"]) for row in await dispatcher.pool.fetch("SELECT payload FROM outbox ORDER BY id")
    ]
    assert [one["type"] for one in told] == ["webhook.attempt_failed", "webhook.delivered"]
    assert [int(one["sequence"]) for one in told] == [1, 2]
    assert {one["partitionkey"] for one in told} == {str(endpoint_id)}


async def test_every_event_gets_one_delivery_for_each_endpoint_that_asked_for_it(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id, other_org = await receive(answer_ok), new_id(), new_id()
    await dispatcher.register(org_id, receiver.url + "/all")
    await dispatcher.register(org_id, receiver.url + "/some", "call.completed", "call.failed")
    await dispatcher.register(org_id, receiver.url + "/none", "call.billed")
    await dispatcher.register(other_org, receiver.url + "/other")
    events = call_events(org_id, 2)
    await dispatcher.arrive(*events)
    await dispatcher.until("count(*) = 3 FROM deliveries WHERE state = 'delivered'")
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM deliveries") == 3
    assert {got.body["org_id"] for got in receiver.got} == {str(org_id)}


async def test_a_replay_of_the_topic_has_no_effect(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    await dispatcher.register(org_id, receiver.url)
    events = [event for _ in range(20) for event in call_events(org_id, 3)]
    await dispatcher.arrive(*events)
    await dispatcher.until_state("delivered", *events)
    before = await dispatcher.pool.fetch("SELECT * FROM deliveries ORDER BY event_id")
    await dispatcher.arrive(*events)
    await dispatcher.arrive(*events, *events)
    (last,) = call_events(org_id)
    await dispatcher.arrive(last)
    await dispatcher.until_state("delivered", last)
    after = await dispatcher.pool.fetch("SELECT * FROM deliveries WHERE event_id <> $1 ORDER BY event_id", last.id)
    assert before == after
    assert len(receiver.got) == 61


async def test_an_endpoint_registered_after_the_event_gets_nothing(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    await dispatcher.register(org_id, receiver.url)
    await dispatcher.arrive(*call_events(org_id, age=timedelta(minutes=2)))
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM deliveries") == 0
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM notifications") == 0


async def test_what_an_endpoint_was_registered_for_when_it_happened_is_what_counts(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url, "call.dialing")
    before = call_events(org_id, 2, age=timedelta(seconds=30))

    async def change(*events: str) -> None:
        made = await endpoints.change(
            dispatcher.pool, org_id=org_id, endpoint_id=endpoint_id, url=None, events=list(events), active=None
        )
        assert made is not None

    await change("call.completed")
    await change("call.completed")
    after = call_events(org_id, 2, age=-timedelta(seconds=1))
    await dispatcher.arrive(*before, *after)
    await dispatcher.until_state("delivered", before[0], after[1])
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM deliveries") == 2


async def test_events_of_one_call_arrive_in_order_and_wait_for_a_failed_one(idle: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(503, 200)), new_id()
    await idle.register(org_id, receiver.url)
    first, second, third = call_events(org_id, 3)
    idle.start()
    await idle.arrive(first, second)
    await idle.arrive(third)
    await idle.until("attempts = 1 FROM deliveries WHERE event_id = $1", first.id)
    other = call_events(org_id)
    await idle.arrive(*other)
    await idle.until_state("delivered", *other)
    assert [got.body["id"] for got in receiver.got] == ids([first, *other])
    await idle.make_due()
    await idle.until_state("delivered", first, second, third)
    assert [got.body["id"] for got in receiver.got] == ids([first, *other, first, second, third])
    assert not any("out_of_order" in got.body for got in receiver.got)


async def test_order_holds_while_events_of_many_calls_arrive_and_end_at_once(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    await dispatcher.register(org_id, receiver.url)
    calls = [call_events(org_id, 6) for _ in range(40)]
    for batch in zip(*calls, strict=True):
        await dispatcher.arrive(*batch)
    await dispatcher.until_state("delivered", *(event for call in calls for event in call))
    for call in calls:
        mine = set(ids(call))
        assert [got.body["id"] for got in receiver.got if got.body["id"] in mine] == ids(call)


async def test_after_ten_minutes_an_event_goes_out_of_order_and_says_so(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500, 500, 200)), new_id()
    await dispatcher.register(org_id, receiver.url)
    first, second = call_events(org_id, 2)
    await dispatcher.arrive(first, second)
    await dispatcher.until("attempts = 1 FROM deliveries WHERE event_id = $1", first.id)
    await dispatcher.pool.execute("UPDATE deliveries SET due_at = now() WHERE behind")
    await dispatcher.look_now()
    await dispatcher.until("attempts = 1 FROM deliveries WHERE event_id = $1", second.id)
    await dispatcher.pool.execute("UPDATE deliveries SET due_at = now() WHERE event_id = $1", second.id)
    await dispatcher.look_now()
    got = (await receiver.until(3))[1:]
    assert [one.body["out_of_order"] for one in got] == [True, True]
    assert got[0].content == got[1].content
    await dispatcher.until_state("delivered", second)


async def test_what_a_process_claimed_before_it_died_is_delivered_by_another(pool: Pool, receive: Receive) -> None:
    dead, alive = make_dispatcher(pool), make_dispatcher(pool)
    receiver, org_id = await receive(answer_ok), new_id()
    await dead.register(org_id, receiver.url)
    events = call_events(org_id, 2)
    await dead.arrive(*events, hand_over=False)
    alive.start()
    with pytest.raises(TimeoutError):
        await receiver.until(1, seconds=0.2)
    await alive.make_due()
    await alive.until_state("delivered", *events)
    assert [got.body["id"] for got in receiver.got] == ids(events)
    await alive.end()


async def test_a_named_replica_that_is_started_again_delivers_at_once_what_it_had_claimed(
    pool: Pool, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("deliver", "consume"):
        monkeypatch.setattr(f"cualify_webhook_dispatcher.{module}.LEASE", timedelta(hours=1))
    receiver, org_id = await receive(answer_ok), new_id()
    killed, other = make_dispatcher(pool, replica="r0"), make_dispatcher(pool, replica="r1")
    await killed.register(org_id, receiver.url)
    for one in (killed, other):
        one.deliver.has_taken_over = True  # As if it had been running.
    mine, others = call_events(org_id, 2), call_events(org_id, 2)
    await killed.arrive(*mine, hand_over=False)
    await other.arrive(*others, hand_over=False)
    again = make_dispatcher(pool, replica="r0")
    (early,) = call_events(org_id)
    await again.arrive(early)  # What comes before it has looked back is claimed as anything else is.
    again.start()
    await again.until_state("delivered", *mine, early)
    assert sorted(got.body["id"] for got in receiver.got) == sorted(ids([*mine, early]))
    # What another replica holds is its own.
    assert (
        await pool.fetchval("SELECT count(*) FROM deliveries WHERE state = 'pending' AND lease_token IS NOT NULL") == 1
    )
    for one in (killed, other, again):
        await one.end()


async def test_of_what_was_left_behind_nothing_is_released_that_has_another_token_by_now(pool: Pool) -> None:
    killed, other = make_dispatcher(pool, replica="r0"), make_dispatcher(pool)
    org_id = new_id()
    await killed.register(org_id, "http://127.0.0.1:9/")
    killed.deliver.has_taken_over = True
    (event,) = call_events(org_id)
    await killed.arrive(event, hand_over=False)

    async def left_by(replica: str) -> int | None:
        lease = timedelta(seconds=8)
        return await leases.give_back_what_was_left(pool, replica, replica_id=new_id(), lease=lease)

    await pool.execute("UPDATE deliveries SET lease_token = $1", other.deliver.new_token())
    assert await left_by("r0") == 0
    await pool.execute("UPDATE deliveries SET lease_token = $1", killed.deliver.new_token())
    assert await left_by("r1") == 0
    assert await left_by("r0") == 1
    for one in (killed, other):
        await one.end()


async def test_a_replica_with_a_name_in_use_takes_nothing_over_and_delivers_all_the_same(
    pool: Pool, receive: Receive
) -> None:
    first, second = (make_dispatcher(pool, timeout_sec=15, replica="r0") for _ in range(2))
    hold = asyncio.Event()

    async def wait(_: web.Request, __: int) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    receiver, org_id = await receive(wait), new_id()
    await first.register(org_id, receiver.url)
    first.start()
    await first.until("count(*) = 1 FROM replicas")
    (held,) = call_events(org_id)
    await first.arrive(held)
    await receiver.until(1)
    second.start()
    await second.until("count(*) = 2 FROM replicas")
    async with asyncio.timeout(10):
        while not second.deliver.has_taken_over:
            await asyncio.sleep(0.01)
    (event,) = call_events(org_id)
    await second.arrive(event)
    await receiver.until(2)
    hold.set()
    await first.until_state("delivered", held, event)
    assert [got.body["id"] for got in receiver.got] == ids([held, event])
    for one in (first, second):
        await one.end()


async def test_killed_between_the_answer_and_its_record_it_is_delivered_again_once_under_the_same_id(
    pool: Pool, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    dead, alive = make_dispatcher(pool), make_dispatcher(pool)
    await dead.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dead.deliver.look_again()
    await dead.arrive(event)  # It sends, but nothing runs that would record.
    await receiver.until(1)
    alive.start()
    await alive.make_due()
    await alive.until_state("delivered", event)
    await alive.make_due()
    # Now the dead one's result comes after all: its lease is gone, so it changes nothing.
    dead.start()
    await dead.end()
    assert [got.body["id"] for got in receiver.got] == ids([event, event])
    assert await pool.fetchval("SELECT count(*) FROM attempts") == 1
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 1
    await alive.end()


async def test_a_delete_stops_everything_at_once(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(500)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    events = call_events(org_id, 3)
    await dispatcher.arrive(*events)
    await dispatcher.until("attempts = 1 FROM deliveries WHERE event_id = $1", events[0].id)
    assert await endpoints.delete(dispatcher.pool, org_id=org_id, endpoint_id=endpoint_id)
    dispatcher.deliver.forget(endpoint_id)
    await dispatcher.make_due()
    await dispatcher.arrive(*call_events(org_id))
    other = await receive(answer_ok)
    await dispatcher.register(org_id, other.url)
    await dispatcher.arrive(*call_events(org_id))
    await other.until(1)
    assert len(receiver.got) == 1
    assert await dispatcher.pool.fetchval("SELECT secret_sealed IS NULL FROM endpoints WHERE id = $1", endpoint_id)


async def test_a_delete_reaches_what_waits_for_a_line_and_ignores_what_is_under_way(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    answer = asyncio.Event()

    async def wait(_: web.Request, __: int) -> web.StreamResponse:
        await answer.wait()
        return web.Response()

    receiver, org_id = await receive(wait), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    await dispatcher.arrive(*(event for _ in range(30) for event in call_events(org_id)))
    await receiver.until(FIRST_LINES)
    await endpoints.delete(dispatcher.pool, org_id=org_id, endpoint_id=endpoint_id)
    dispatcher.deliver.forget(endpoint_id)
    answer.set()
    async with asyncio.timeout(5):
        while dispatcher.deliver._held:
            await asyncio.sleep(0.005)
    assert len(receiver.got) == FIRST_LINES
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM attempts") == 0


async def test_the_sweep_removes_a_deleted_endpoints_deliveries_and_nobody_elses(idle: Dispatcher) -> None:
    org_id = new_id()
    gone, _ = await idle.register(org_id, "https://8.8.8.8/")
    kept, _ = await idle.register(org_id, "https://8.8.4.4/")
    await idle.arrive(*(event for _ in range(3) for event in call_events(org_id)), hand_over=False)
    await endpoints.delete(idle.pool, org_id=org_id, endpoint_id=gone)
    await Upkeep(pool=idle.pool, secrets=SECRETS).once(asyncio.Event())
    assert await idle.pool.fetchval("SELECT count(*) FROM endpoints") == 1
    rows = await idle.pool.fetch("SELECT endpoint_id FROM deliveries")
    assert [row["endpoint_id"] for row in rows] == [kept] * 3


async def test_a_410_pauses_the_endpoint_and_keeps_its_events(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(410)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    first, second = call_events(org_id, 2)
    await dispatcher.arrive(first, second)
    await dispatcher.until("NOT active FROM endpoints WHERE id = $1", endpoint_id)
    later = call_events(org_id)
    await dispatcher.arrive(*later)
    await dispatcher.make_due()
    rows = await dispatcher.pool.fetch("SELECT state FROM deliveries")
    assert [row["state"] for row in rows] == ["pending"] * 3
    told = [
        orjson.loads(row["payload"]) for row in await dispatcher.pool.fetch("SELECT payload FROM outbox ORDER BY id")
    ]
    assert [(one["type"], int(one["sequence"])) for one in told] == [
        ("webhook.attempt_failed", 1),
        ("webhook.endpoint_paused", 2),
    ]
    assert told[1]["data"]["reason"] == "gone"
    assert len(receiver.got) == 1


async def test_retry_after_is_waited_for_and_burns_nothing(dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(429, headers={"Retry-After": "3600"})), new_id()
    await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("attempts = 1 FROM deliveries")
    row = await dispatcher.row(event)
    assert row is not None
    assert (row["burned"], row["state"]) == (0, "pending")
    assert row["due_at"] - row["created_at"] > timedelta(minutes=59)


async def test_a_retry_after_that_no_clock_can_hold_is_an_ordinary_failure(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    year = "Sun, 31 May 99999999999999999999 14:23:11 GMT"
    receiver, org_id = await receive(answers(503, headers={"Retry-After": year})), new_id()
    await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("attempts = 1 AND burned = 1 FROM deliveries")
    assert dispatcher.deliver.held == 0
    assert sum(dispatcher.deliver._lanes.under_way) == 0, "its slot is free"


async def test_retry_after_counts_although_the_answers_body_never_ends(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    async def drip(request: web.Request, _: int) -> web.StreamResponse:
        response = web.StreamResponse(status=503, headers={"Retry-After": "3600"})
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.1)

    receiver, org_id = await receive(drip), new_id()
    await dispatcher.register(org_id, receiver.url)
    await dispatcher.arrive(*call_events(org_id))
    await dispatcher.until("attempts = 1 FROM deliveries")
    row = await dispatcher.pool.fetchrow(
        "SELECT failure_code, burned, due_at > now() + interval '59 minutes' AS later FROM deliveries JOIN attempts"
        " USING (event_id, endpoint_id)"
    )
    assert row is not None
    assert tuple(row) == ("timeout_body", 0, True)


async def test_after_the_last_attempt_it_is_failed_and_the_next_event_goes(
    dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500, 500, 200)), new_id()
    await dispatcher.register(org_id, receiver.url)
    first, second = call_events(org_id, 2)
    await dispatcher.arrive(first, second)
    await dispatcher.until("attempts = 1 FROM deliveries WHERE event_id = $1", first.id)
    await dispatcher.pool.execute("UPDATE deliveries SET burned = 9, attempts = 9 WHERE event_id = $1", first.id)
    await dispatcher.make_due()
    await dispatcher.until_state("failed", first)
    await dispatcher.until_state("delivered", second)
    last = await dispatcher.pool.fetchval("SELECT payload FROM outbox ORDER BY id OFFSET 1 LIMIT 1")
    assert orjson.loads(last)["data"]["final"] is True


async def test_a_blocked_address_is_a_failure_that_says_so(pool: Pool, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    strict = make_dispatcher(pool)
    strict.sender._allowed = ()
    await strict.register(org_id, receiver.url.replace("http:", "https:"))
    (event,) = call_events(org_id)
    strict.start()
    await strict.arrive(event)
    await strict.until("failure_code = 'blocked_address' FROM attempts")
    await strict.end()


async def test_a_slow_endpoint_does_not_hold_up_another(pool: Pool, receive: Receive) -> None:
    async def hang(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.sleep(20)
        return web.Response()

    small = make_dispatcher(pool, timeout_sec=2, max_in_flight=40)
    slow, quick, org_id = await receive(hang), await receive(answer_ok), new_id()
    await small.register(org_id, slow.url)
    await small.register(org_id, quick.url)
    small.start()
    events = [event for _ in range(100) for event in call_events(org_id)]
    await small.arrive(*events)
    await quick.until(100, seconds=1.5)
    assert len(slow.got) <= FIRST_LINES
    await small.end()


async def test_a_lease_is_renewed_while_its_delivery_is_under_way(
    idle: Dispatcher, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cualify_webhook_dispatcher.deliver.LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr("cualify_webhook_dispatcher.consume.LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr("cualify_webhook_dispatcher.deliver.RENEW_EVERY_SEC", 0.1)

    async def slow(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.sleep(1.5)
        return web.Response()

    receiver, org_id = await receive(slow), new_id()
    await idle.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    idle.start()
    await idle.arrive(event)
    await idle.until_state("delivered", event)
    assert len(receiver.got) == 1


async def test_a_stopping_process_gives_back_what_it_has_not_begun(pool: Pool, receive: Receive) -> None:
    hold = asyncio.Event()

    async def wait(_: web.Request, __: int) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    receiver, org_id = await receive(wait), new_id()
    stopping, other = make_dispatcher(pool), make_dispatcher(pool)
    await stopping.register(org_id, receiver.url)
    events = [event for _ in range(20) for event in call_events(org_id)]
    stopping.start()
    await stopping.arrive(*events)
    await receiver.until(FIRST_LINES)
    stopping.stop.set()
    await asyncio.sleep(0)
    hold.set()
    await stopping.end()
    rows = await pool.fetch("SELECT lease_token, due_at <= now() AS due FROM deliveries WHERE state = 'pending'")
    assert [(row["lease_token"], row["due"]) for row in rows] == [(None, True)] * (20 - FIRST_LINES)
    other.start()
    await other.until_state("delivered", *events)
    assert len(receiver.got) == 20
    await other.end()


async def test_secrets_are_sealed_at_rest(idle: Dispatcher) -> None:
    _, secret = await idle.register(new_id(), "https://8.8.8.8/")
    row = await idle.pool.fetchval("SELECT endpoints::text || encode(secret_sealed, 'escape') FROM endpoints")
    assert secret not in row
    assert secret.encode().hex() not in row
