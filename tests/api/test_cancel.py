"""Calling a call off: in every state but the end, once, and in one transaction with the event that says so."""

import asyncio

import pytest

from cualify_shared import outbox
from cualify_shared.events.call import CallCancelRequested
from cualify_shared.events.envelope import decode
from tests.api.world import Answer, Org, World, failed, life


async def cancel(world: World, org: Org, call_id: object) -> Answer:
    return await world.ask("POST", f"/api/v1/calls/{call_id}/cancel", headers=org.auth)


async def said(world: World, call_id: object) -> list[tuple[str, int]]:
    rows = await world.pool.fetch(
        "SELECT payload FROM outbox WHERE key = $1 AND topic = $2 ORDER BY id", str(call_id), "call.requests"
    )
    events = [decode(row["payload"]) for row in rows]
    return [(event.type.name, event.sequence) for event in events]


@pytest.mark.parametrize("reached", ["scheduled", "queued", "dialing", "in_progress"])
async def test_a_call_can_be_called_off_in_every_state_but_the_end(world: World, reached: str) -> None:
    org = await world.org()
    later = {"schedule": {"earliest_at": "2199-01-01T00:00:00Z"}} if reached == "scheduled" else {}
    call_id = await world.placed(org, **later)
    await world.feed_all(life(org, call_id)[: {"dialing": 1, "in_progress": 3}.get(reached, 0)])
    answer = await cancel(world, org, call_id)
    assert (answer.status, answer.body["data"]["status"]) == (200, reached)
    assert answer.body["data"]["cancel_requested_at"] is not None
    assert answer.body["data"]["events"][-1]["type"] == "cancel-requested"
    assert await said(world, call_id) == [("call.requested", 1), ("call.cancel_requested", 2)]


async def test_a_repeat_changes_nothing_however_many_come_at_once(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    answers = await asyncio.gather(*(cancel(world, org, call_id) for _ in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert await said(world, call_id) == [("call.requested", 1), ("call.cancel_requested", 2)]
    assert len({answer.body["data"]["cancel_requested_at"] for answer in answers}) == 1


async def test_the_wish_is_answered_alike_after_the_end_that_it_brought(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await cancel(world, org, call_id)
    await world.feed_all([failed(org, call_id, status="canceled")])
    again = await cancel(world, org, call_id)
    assert (again.status, again.body["data"]["status"]) == (200, "canceled")
    assert len(await said(world, call_id)) == 2


async def test_a_call_that_is_over_is_a_conflict(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed_all(life(org, call_id))
    answer = await cancel(world, org, call_id)
    assert (answer.status, answer.body["error"]["code"]) == (409, "conflict")
    assert len(await said(world, call_id)) == 1


async def test_anothers_call_and_no_call_are_not_found(world: World) -> None:
    org, other = await world.org(), await world.org()
    call_id = await world.placed(org)
    assert (await cancel(world, other, call_id)).status == 404
    assert (await cancel(world, org, "01930a4e-7c1b-7d2a-9c3e-0a1b2c3d4e5f")).status == 404
    assert (await cancel(world, org, "nope")).status == 404
    assert len(await said(world, call_id)) == 1


async def test_a_wish_that_dies_before_its_event_was_never_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    org = await world.org()
    call_id = await world.placed(org)

    async def die(*_: object) -> None:
        raise RuntimeError("died")

    before = await world.dump()
    monkeypatch.setattr(outbox, "put", die)
    assert (await cancel(world, org, call_id)).status == 500
    assert await world.dump() == before
    monkeypatch.undo()
    assert (await cancel(world, org, call_id)).status == 200


async def test_the_event_names_call_and_org(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await cancel(world, org, call_id)
    event = decode(await world.pool.fetchval("SELECT payload FROM outbox ORDER BY id DESC LIMIT 1"))
    assert isinstance(event.data, CallCancelRequested)
    assert (event.data.call_id, event.data.org_id, event.key) == (call_id, org.id, call_id)
