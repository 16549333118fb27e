"""`retry` of POST /calls and the fallback providers of agents: from the request to the dialer, and back."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from cualify_shared.clock import now, rfc3339
from cualify_shared.events import Event
from cualify_shared.events.call import CallDialing, CallRequested, CallRetryScheduled, Fallback, Retry
from cualify_shared.events.envelope import decode
from tests.api.world import ADMIN, Org, World, debited, event, failed

WISH = {"max_attempts": 3, "on": ["busy"], "intervals_min": [5, 30]}


async def asked(world: World, call_id: UUID) -> CallRequested:
    """What the dialer is asked to do."""
    [row] = await world.pool.fetch("SELECT payload FROM outbox WHERE key = $1", str(call_id))
    said = decode(row["payload"]).data
    assert isinstance(said, CallRequested)
    return said


def patience(call: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(call["schedule"]["latest_at"]) - datetime.fromisoformat(call["created_at"])


async def test_the_wish_is_carried_to_the_dialer_and_shown_again(world: World) -> None:
    org = await world.org()
    placed = await world.place(org, retry=WISH)
    call_id = UUID(placed.body["data"]["id"])
    assert placed.body["data"]["retry"] == WISH
    assert (await world.call(org, call_id))["retry"] == WISH
    [listed] = (await world.ask("GET", "/api/v1/calls", headers=org.auth)).body["data"]
    assert listed["retry"] == WISH
    assert (await asked(world, call_id)).retry == Retry(max_attempts=3, on=("busy",), intervals_min=(5, 30))


async def test_what_is_not_said_of_it_has_a_default(world: World) -> None:
    org = await world.org()
    shown = await world.call(org, await world.placed(org, retry={"max_attempts": 2}))
    assert shown["retry"] == {"max_attempts": 2, "on": ["busy", "no_answer"], "intervals_min": [15]}


async def test_without_it_the_phone_rings_once(world: World) -> None:
    org = await world.org()
    for body in ({}, {"retry": None}):
        call_id = await world.placed(org, **body)
        assert (await world.call(org, call_id))["retry"] is None
        assert (await asked(world, call_id)).retry is None


async def test_there_is_time_for_every_attempt_unless_the_request_says_otherwise(world: World) -> None:
    org = await world.org()
    shown = await world.call(org, await world.placed(org, retry=WISH))
    assert patience(shown) == timedelta(minutes=15 + 5 + 30)
    later = {"latest_at": rfc3339(now() + timedelta(minutes=36))}
    assert patience(await world.call(org, await world.placed(org, retry=WISH, schedule=later))) < timedelta(minutes=37)


async def test_a_window_that_closes_before_the_last_attempt_is_refused(world: World) -> None:
    org = await world.org()
    answer = await world.place(org, retry=WISH, schedule={"latest_at": rfc3339(now() + timedelta(minutes=35))})
    assert (answer.status, answer.body["error"]["param"]) == (400, "schedule.latest_at")
    assert "retry" in answer.body["error"]["message"]
    assert await world.wallet(org) == (10_000_000, 0)


async def test_the_same_key_with_another_wish_is_a_conflict(world: World) -> None:
    org = await world.org()
    key = {"Idempotency-Key": "once"}
    first = await world.place(org, headers=key, retry=WISH)
    assert (await world.place(org, headers=key, retry=WISH)).body == first.body
    assert (await world.place(org, headers=key, retry={**WISH, "max_attempts": 2})).status == 409


async def test_the_timeline_shows_each_attempt_and_one_end(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org, retry=WISH)
    for n in (1, 2):
        await world.feed("call.events", dialing(org, call_id, n))
    assert (await world.call(org, call_id))["provider_call_id"] == f"boln_{call_id.hex}_2"
    await world.feed("call.events", failed(org, call_id, sequence=3))
    timeline = (await world.call(org, call_id))["events"]
    lines = [(line["type"], line["data"].get("attempt")) for line in timeline]
    assert lines == [("queued", None), ("dialing", 1), ("dialing", 2), ("busy", None)]


async def test_between_two_rings_a_call_is_scheduled(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org, retry=WISH)
    next_at = now() + timedelta(minutes=5)
    await world.feed_all([dialing(org, call_id, 1), in_vain(org, call_id, 1, next_at=next_at)])
    shown = await world.call(org, call_id)
    assert (shown["status"], shown["next_attempt_at"]) == ("scheduled", rfc3339(next_at))
    assert (shown["ended_at"], shown["hold_paise"]) == (None, 3000)
    said = {"attempt": 1, "outcome": "busy", "next_at": rfc3339(next_at)}
    assert [line["data"] for line in shown["events"] if line["type"] == "retry-scheduled"] == [said]
    listed = await world.ask("GET", "/api/v1/calls?status=scheduled", headers=org.auth)
    assert (listed.body["data"][0]["id"], listed.body["pagination"]["total"]) == (str(call_id), 1)
    limits = (await world.ask("GET", "/api/v1/limits", headers=org.auth)).body["data"]["concurrent_calls"]
    assert (limits["used"], limits["waiting"]) == (0, 1)

    await world.feed("call.events", dialing(org, call_id, 2, sequence=3))
    shown = await world.call(org, call_id)
    assert (shown["status"], shown["next_attempt_at"]) == ("dialing", None)
    assert [name for name, _ in await world.told(call_id)] == ["call.dialing", "call.dialing"]
    await world.feed_all([failed(org, call_id, sequence=4), debited(org, call_id, 0)])
    assert (await world.call(org, call_id))["status"] == "busy"
    assert [name for name, _ in await world.told(call_id)] == ["call.dialing", "call.dialing", "call.failed"]
    assert await world.wallet(org) == (10_000_000, 0)


async def test_a_call_between_two_rings_can_be_called_off(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org, retry=WISH)
    await world.feed_all([dialing(org, call_id, 1), in_vain(org, call_id, 1, next_at=now() + timedelta(minutes=5))])
    answer = await world.ask("POST", f"/api/v1/calls/{call_id}/cancel", headers=org.auth)
    assert (answer.status, answer.body["data"]["status"]) == (200, "scheduled")
    await world.feed("call.events", failed(org, call_id, status="canceled", sequence=3))
    shown = await world.call(org, call_id)
    assert (shown["status"], shown["next_attempt_at"]) == ("canceled", None)


def in_vain(org: Org, call_id: UUID, attempt: int, *, next_at: datetime) -> Event:
    """The attempt found the line busy, and the dialer will ring again."""
    fact = CallRetryScheduled(
        call_id=call_id,
        org_id=org.id,
        attempt=attempt,
        provider="bolna",
        provider_call_id=f"boln_{call_id.hex}",
        outcome="busy",
        next_at=next_at,
    )
    return event(org, fact, key=call_id, sequence=2 * attempt)


def dialing(org: Org, call_id: UUID, attempt: int, *, sequence: int | None = None) -> Event:
    """The dialer has committed an attempt."""
    ref = f"boln_{call_id.hex}" + (f"_{attempt}" if attempt > 1 else "")
    fact = CallDialing(call_id=call_id, org_id=org.id, attempt=attempt, provider="bolna", provider_call_id=ref)
    return event(org, fact, key=call_id, sequence=sequence or attempt)


async def test_an_agents_fallbacks_are_carried_to_the_dialer(world: World) -> None:
    org = await world.org()
    others = [{"provider": "exotel", "provider_agent_id": "flow-7"}, {"provider": "plivo", "provider_agent_id": "p-1"}]
    body = {"name": "Two legs", "provider_agent_id": "b-1", "fallback_providers": others}
    agent = await world.admin("POST", f"/orgs/{org.id}/agents", body)
    assert agent["fallback_providers"] == others
    shown = (await world.ask("GET", "/api/v1/agents", headers=org.auth)).body["data"]
    assert [one["fallback_providers"] for one in shown] == [others, []]
    there = await asked(world, await world.placed(org, agent_id=agent["id"]))
    assert there.fallback_providers == tuple(Fallback(**one) for one in others)
    assert (await asked(world, await world.placed(org))).fallback_providers is None


async def test_a_call_shows_the_provider_that_its_reference_is_of(world: World) -> None:
    org = await world.org()
    body = {"name": "Two legs", "provider_agent_id": "b-1"}
    others = {"fallback_providers": [{"provider": "exotel", "provider_agent_id": "flow-7"}]}
    agent = await world.admin("POST", f"/orgs/{org.id}/agents", body | others)
    call_id = await world.placed(org, agent_id=agent["id"])
    first = dialing(org, call_id, 1)
    ref = f"exo_{call_id.hex}_2"
    fact = CallDialing(call_id=call_id, org_id=org.id, attempt=2, provider="exotel", provider_call_id=ref)
    await world.feed_all([first, event(org, fact, key=call_id, sequence=2)])
    shown = await world.call(org, call_id)
    assert (shown["provider"], shown["provider_call_id"]) == ("exotel", ref)
    await world.feed_all([first])
    assert (await world.call(org, call_id))["provider"] == "exotel"


async def test_the_first_answer_is_given_again_whatever_became_of_the_call(world: World) -> None:
    org = await world.org()
    wish = {"external_id": "L-1", "retry": WISH}
    first = await world.place(org, headers={"Idempotency-Key": "k"}, **wish)
    call_id = UUID(first.body["data"]["id"])
    await world.feed_all([dialing(org, call_id, 1), dialing(org, call_id, 2), failed(org, call_id, sequence=3)])
    for headers in ({}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "another"}):
        again = await world.place(org, headers=headers, **wish)
        assert (again.status, again.body) == (201, first.body)


@pytest.mark.parametrize(
    "others",
    [
        [{"provider": "bolna", "provider_agent_id": "b-2"}],
        [{"provider": "exotel", "provider_agent_id": "a"}, {"provider": "exotel", "provider_agent_id": "b"}],
        [{"provider": "nobody", "provider_agent_id": "a"}],
        [{"provider": "exotel", "provider_agent_id": ""}],
        [{"provider": name, "provider_agent_id": "a"} for name in ("exotel", "plivo", "twilio", "exotel")],
    ],
)
async def test_fallbacks_that_lead_nowhere_are_refused(lasting: World, caller: Org, others: list[Any]) -> None:
    body = {"name": "Two legs", "provider_agent_id": "b-1", "fallback_providers": others}
    answer = await lasting.ask("POST", f"/admin/v1/orgs/{caller.id}/agents", json=body, headers=ADMIN)
    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_request")
