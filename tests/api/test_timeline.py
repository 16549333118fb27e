"""GET /calls/{id}/events: whole as JSON, live as a stream that can be taken up again, and ends with the call."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from cualify_api.calls.fold import entry
from cualify_shared.events import Event
from tests.api.world import Org, World, failed, life

STREAM = {"Accept": "text/event-stream"}


async def test_as_json_it_is_the_timeline_of_the_call(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed("call.events", *life(org, call_id, artifacts=()))
    answer = await world.ask("GET", f"/api/v1/calls/{call_id}/events", headers=org.auth)
    assert (answer.status, answer.body["data"]) == (200, (await world.call(org, call_id))["events"])
    assert answer.body["data"][0]["type"] == "queued"
    assert len(answer.body["data"]) == 7


async def test_a_stream_tells_what_is_known_and_what_comes_and_ends_with_the_call(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    facts = life(org, call_id, artifacts=())
    await world.feed("call.events", facts[0])
    async with stream(world, org, call_id) as events:
        assert [(await anext(events))["event"] for _ in range(2)] == ["queued", "dialing"]
        await world.feed("call.events", *facts[1:3])
        assert [(await anext(events))["event"] for _ in range(2)] == ["provider-accepted", "in_progress"]
        await world.feed("call.events", *facts[3:])
        rest = [event async for event in events]
    assert {event["event"] for event in rest} == {"disclosure-played", "intent-detected", "completed"}
    shown = (await world.call(org, call_id))["events"]
    assert [event["data"] for event in rest] == shown[4:]


async def test_taken_up_again_from_any_event_it_misses_and_repeats_nothing(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed("call.events", *life(org, call_id, artifacts=()))
    async with stream(world, org, call_id) as events:
        whole = [event async for event in events]
    assert len(whole) == 7
    for n, event in enumerate(whole[:-1], 1):
        async with stream(world, org, call_id, last=event["id"]) as events:
            assert [one["data"] for one in [e async for e in events]] == [one["data"] for one in whole[n:]]
    answer = await open_stream(world, org, call_id, last=whole[-1]["id"])
    assert answer.status == 204, "a browser then does not come back"


async def test_taken_up_again_it_misses_nothing_that_is_dated_later_than_what_followed(world: World) -> None:
    """Times come from several clocks; how far a stream has come is counted by what was folded in."""
    org = await world.org()
    call_id = await world.placed(org)
    facts = life(org, call_id, artifacts=())
    facts[1] = replace(facts[1], time=facts[1].time + timedelta(minutes=1))
    await world.feed("call.events", *facts)
    async with stream(world, org, call_id) as events:
        whole = [event async for event in events]
    for n, event in enumerate(whole[:-1], 1):
        async with stream(world, org, call_id, last=event["id"]) as events:
            assert [one["event"] for one in [e async for e in events]] == [one["event"] for one in whole[n:]]


async def test_what_was_learnt_late_stands_where_it_happened(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    facts = life(org, call_id, artifacts=())
    late = facts[1].data.model_copy(update={"accepted_at": facts[1].time})
    facts[1] = replace(facts[1], data=late, time=facts[1].time + timedelta(minutes=1))
    await world.feed("call.events", *facts)
    shown = (await world.call(org, call_id))["events"]
    assert [event["type"] for event in shown][:4] == ["queued", "dialing", "provider-accepted", "in_progress"]
    assert shown[-1]["type"] == "completed"


async def test_an_event_that_comes_late_but_happened_early_is_told(world: World) -> None:
    """The order is that of what was folded in, not that of its instants."""
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed("call.events", life(org, call_id)[0])
    async with stream(world, org, call_id) as events:
        heard = [await anext(events), await anext(events)]
        await world.feed("call.events", failed(org, call_id))
        heard += [event async for event in events]
    assert [event["event"] for event in heard] == ["queued", "dialing", "busy"]


async def test_a_quiet_stream_has_a_heartbeat(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    answer = await open_stream(world, org, call_id)
    async with asyncio.timeout(5):
        async for line in answer.content:
            if line == b": still here\n":
                break
    answer.close()


async def test_streams_are_bounded_per_org_and_freed_when_the_client_goes(world: World) -> None:
    org, other = await world.org(), await world.org()
    call_id, theirs = await world.placed(org), await world.placed(other)
    taken = [await open_stream(world, org, call_id) for _ in range(3)]
    refused = await open_stream(world, org, call_id)
    assert (refused.status, (await refused.json())["error"]["code"]) == (429, "too_many_requests")
    assert refused.headers["Retry-After"] == "5"
    assert (await open_stream(world, other, theirs)).status == 200
    for answer in taken:
        answer.close()
    async with asyncio.timeout(5):
        while (again := await open_stream(world, org, call_id)).status != 200:
            await asyncio.sleep(0.02)
    again.close()


async def test_another_orgs_call_and_a_wrong_id_are_refused(world: World) -> None:
    org, other = await world.org(), await world.org()
    call_id = await world.placed(other)
    for named in (call_id, uuid4()):
        for headers in ({}, STREAM):
            answer = await world.ask("GET", f"/api/v1/calls/{named}/events", headers=org.auth | headers)
            assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("last", ["x", "1", "1-x", "1-2-3", "9999999999-1", "-1-1"])
async def test_an_id_that_never_was_is_refused(world: World, last: str) -> None:
    org = await world.org()
    answer = await open_stream(world, org, await world.placed(org), last=last)
    assert (answer.status, (await answer.json())["error"]["param"]) == (400, "Last-Event-ID")


def test_every_fact_of_the_dialers_stands_in_the_timeline() -> None:
    """The stream counts on it: it takes up by the number of the last one."""
    org, call_id = Org(uuid4(), str(uuid4()), ""), uuid4()
    facts: list[Event] = [*life(org, call_id), failed(org, call_id)]
    assert all(entry(fact, fact.data) for fact in facts)  # type: ignore[arg-type]


async def open_stream(world: World, org: Org, call_id: UUID, *, last: str | None = None) -> aiohttp.ClientResponse:
    headers = org.auth | STREAM | ({} if last is None else {"Last-Event-ID": last})
    return await world.http.get(f"{world.url}/api/v1/calls/{call_id}/events", headers=headers)


@asynccontextmanager
async def stream(
    world: World, org: Org, call_id: UUID, *, last: str | None = None
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of a stream; ends where it ends."""
    answer = await open_stream(world, org, call_id, last=last)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    async with asyncio.timeout(10):
        yield _events(answer)
    answer.close()


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    async for raw in answer.content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name in ("id", "event"):
            event[name] = value
        elif name == "data":
            event["data"] = json.loads(value)
        elif not raw.strip() and "data" in event:
            yield event
            event = {}
