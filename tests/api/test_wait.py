"""`Prefer: wait=N`: the 201 comes when the provider has the call, or after N seconds; a refusal meanwhile is a 502."""

import asyncio
import time
from dataclasses import replace
from uuid import UUID

import pytest
from multidict import CIMultiDict

from cualify_api.calls import acceptance
from cualify_api.calls.acceptance import wished_sec
from cualify_shared.events import Event
from tests.api.world import Answer, Org, World, failed, life, running


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=3", 3),
        ("Wait = 7; foo=bar", 7),
        ('wait="2"', 2),
        ("wait=60", 10),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait", None),
        ("wait=1.5", None),
        ("return=minimal", None),
        ("wait=" + "9" * 5000, None),
        ("", None),
        (None, None),
    ],
)
def test_a_wish_is_read_as_rfc_7240_writes_it(prefer: str | None, seconds: int | None) -> None:
    assert wished_sec(prefer) == seconds


async def place(world: World, org: Org, prefer: str = "wait=10") -> asyncio.Task[Answer]:
    """A request on its way; returns once its call is there."""
    before = await world.pool.fetchval("SELECT count(*) FROM calls")
    task = asyncio.create_task(world.place(org, headers={"Prefer": prefer}))
    async with asyncio.timeout(5):
        while await world.pool.fetchval("SELECT count(*) FROM calls") == before:
            await asyncio.sleep(0.005)
    return task


async def newest(world: World) -> UUID:
    found: UUID = await world.pool.fetchval("SELECT id FROM calls ORDER BY id DESC LIMIT 1")
    return found


async def feed(world: World, *events: Event) -> None:
    for event in events:
        await world.feed(event.type.topic.name, event)


async def test_the_answer_is_held_until_the_provider_has_the_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "LOOK_EVERY_SEC", 60)
    org = await world.org()
    task = await place(world, org)
    call_id = await newest(world)
    dialing, accepted, *_ = life(org, call_id)
    await feed(world, dialing)
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done, "call.dialing is said before the provider is asked"
    assert (await world.call(org, call_id))["provider_execution_id"] is None
    await feed(world, accepted)
    answer = await asyncio.wait_for(task, 2)
    assert (answer.status, answer.body["data"]["id"]) == (201, str(call_id))
    assert answer.headers["Preference-Applied"] == "wait=10"
    shown = await world.call(org, call_id)
    assert (shown["status"], shown["provider_execution_id"]) == ("dialing", "exec-1"), "nobody has answered yet"


async def test_the_providers_refusal_meanwhile_is_a_502(world: World) -> None:
    org = await world.org()
    task = await place(world, org)
    call_id = await newest(world)
    await feed(world, life(org, call_id)[0], failed_as(org, call_id, "provider_refused"))
    answer = await asyncio.wait_for(task, 2)
    assert (answer.status, answer.body["error"]["code"]) == (502, "upstream_error")
    assert answer.body["error"]["details"] == {"call_id": str(call_id), "ended_reason": "provider_refused"}


def failed_as(org: Org, call_id: UUID, reason: str) -> Event:
    event = failed(org, call_id, status="failed")
    return replace(event, data=event.data.model_copy(update={"ended_reason": reason}))


async def test_a_phone_that_was_busy_was_refused_by_nobody(world: World) -> None:
    org = await world.org()
    task = await place(world, org)
    await feed(world, failed(org, await newest(world), status="busy"))
    assert (await asyncio.wait_for(task, 2)).status == 201


async def test_after_the_time_the_answer_comes_anyway(world: World) -> None:
    org = await world.org()
    began = time.monotonic()
    answer = await world.place(org, headers={"Prefer": "wait=1"})
    assert answer.status == 201
    assert 0.9 < time.monotonic() - began < 5
    at_once = await world.place(org, headers={"Prefer": "wait=0"})
    assert at_once.status == 201


async def test_what_another_replica_folds_is_found(world: World) -> None:
    org = await world.org()
    async with running(world.pool) as twin:
        task = await place(twin, org)
        await feed(world, *life(org, await newest(world))[:2])
        assert (await asyncio.wait_for(task, 3)).status == 201


async def test_the_first_answer_is_kept_whatever_the_wait_brings(world: World) -> None:
    org = await world.org()
    headers = {"Prefer": "wait=10", "Idempotency-Key": "k"}
    task = asyncio.create_task(world.place(org, headers=headers))
    async with asyncio.timeout(5):
        while not await world.pool.fetchval("SELECT count(*) FROM calls"):
            await asyncio.sleep(0.005)
    call_id = await newest(world)
    again = await world.place(org, headers={"Idempotency-Key": "k"})
    assert (again.status, again.body["data"]["id"]) == (201, str(call_id))
    await feed(world, failed_as(org, call_id, "provider_refused"))
    assert (await asyncio.wait_for(task, 2)).status == 502
    assert (await world.place(org, headers={"Idempotency-Key": "k"})).body == again.body


async def test_others_are_served_while_some_wait(world: World) -> None:
    org = await world.org()
    waiting = [await place(world, org) for _ in range(5)]
    assert (await world.place(org)).status == 201
    for row in await world.pool.fetch("SELECT id FROM calls"):
        await feed(world, *life(org, row["id"])[:2])
    assert {answer.status for answer in await asyncio.wait_for(asyncio.gather(*waiting), 3)} == {201}


async def test_wishes_may_come_in_several_headers(world: World) -> None:
    org = await world.org()
    headers = CIMultiDict([*org.auth.items(), ("Prefer", "wait=1"), ("Prefer", "return=minimal")])
    body = {"agent_id": org.agent_id, "to_e164": "+919812345678"}
    answer = await world.ask("POST", "/api/v1/calls", json=body, headers=headers)
    assert (answer.status, answer.headers["Preference-Applied"]) == (201, "wait=1")
