"""POST /api/v1/calls: the contract, the order of refusals, exact holds, one call for one key."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from cualify_shared.clock import now, rfc3339
from cualify_shared.events.call import CallRequested
from cualify_shared.events.envelope import decode
from cualify_shared.events.wallet import PlanExpired
from tests.api.world import AT, Org, World, credited, event, plan, running


async def test_the_overviews_example_is_answered_field_by_field(world: World) -> None:
    org = await world.org()
    answer = await world.place(
        org,
        from_e164="+918012345678",
        language="hi-IN",
        max_duration_sec=300,
        metadata={"crm_lead_id": "L-7890"},
    )
    data = answer.body["data"]
    assert answer.status == 201
    assert {name: data[name] for name in ("status", "agent_id", "to_e164", "provider")} == {
        "status": "queued",
        "agent_id": org.agent_id,
        "to_e164": "+919812345678",
        "provider": "bolna",
    }
    assert data["provider_call_id"] == f"boln_{data['id'].replace('-', '')}"
    assert data["created_at"].endswith("Z")


async def test_what_is_not_said_comes_from_the_agent_and_the_org(world: World) -> None:
    org = await world.org()
    shown = await world.call(org, await world.placed(org))
    assert (shown["language"], shown["max_duration_sec"], shown["from_e164"]) == ("hi-IN", 300, "+918012345678")
    assert (shown["hold_paise"], await world.wallet(org)) == (3000, (10_000_000, 3000))
    patience = datetime.fromisoformat(shown["schedule"]["latest_at"]) - datetime.fromisoformat(shown["created_at"])
    assert patience == timedelta(minutes=15)


async def test_an_accepted_call_leaves_with_its_terms_in_the_same_transaction(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org, max_duration_sec=61)
    row = await world.pool.fetchrow("SELECT topic, key, payload FROM outbox")
    assert row is not None
    said = decode(row["payload"])
    assert (row["topic"], row["key"], said.sequence) == ("call.requests", str(call_id), 1)
    assert isinstance(said.data, CallRequested)
    assert (said.data.terms.hold_paise, said.data.terms.max_duration_sec) == (610, 61)
    assert said.data.provider_agent_id == "prov-agent"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"to_e164": "9812345678"}, "to_e164"),
        ({"to_e164": "+91981234567٨"}, "to_e164"),
        ({"to_e164": None}, "to_e164"),
        ({"agent_id": "nope"}, "agent_id"),
        ({"from_e164": "+0123456789"}, "from_e164"),
        ({"language": "not a tag"}, "language"),
        ({"max_duration_sec": 0}, "max_duration_sec"),
        ({"max_duration_sec": 3601}, "max_duration_sec"),
        ({"max_duration_sec": "300"}, "max_duration_sec"),
        ({"max_duration_sec": True}, "max_duration_sec"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(n): n for n in range(51)}}, "metadata"),
        ({"metadata": {"a": "x" * 16_384}}, "metadata"),
        ({"external_id": ""}, "external_id"),
        ({"schedule": {"earliest_at": "2026-05-31T14:22:11"}}, "schedule.earliest_at"),
        ({"schedule": {"latest_at": "2020-01-01T00:00:00Z"}}, "schedule.latest_at"),
        ({"schedule": {"earliest_at": "9999-12-31T23:59:59Z"}}, "schedule.latest_at"),
        ({"retry": []}, "retry"),
        ({"retry": {}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": 4}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": True}}, "retry.max_attempts"),
        ({"retry": {"max_attempts": 2, "on": []}}, "retry.on"),
        ({"retry": {"max_attempts": 2, "on": ["completed"]}}, "retry.on.0"),
        ({"retry": {"max_attempts": 2, "on": ["busy", "busy"]}}, "retry.on"),
        ({"retry": {"max_attempts": 2, "intervals_min": []}}, "retry.intervals_min"),
        ({"retry": {"max_attempts": 2, "intervals_min": [0]}}, "retry.intervals_min.0"),
        ({"retry": {"max_attempts": 2, "intervals_min": [5, 1441]}}, "retry.intervals_min.1"),
        ({"retry": {"max_attempts": 3, "intervals_min": [1, 2, 3]}}, "retry.intervals_min"),
    ],
)
async def test_a_wrong_field_is_named(lasting: World, caller: Org, change: dict[str, Any], param: str) -> None:
    answer = await lasting.place(caller, **change)
    error = answer.body["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_request", param)
    assert list(error["details"]["fieldErrors"]) == [param.split(".")[0]]
    assert error["details"]["formErrors"] == []


async def test_the_overviews_message_for_a_wrong_number(lasting: World, caller: Org) -> None:
    answer = await lasting.place(caller, to_e164="12")
    assert answer.body["error"]["message"] == "to_e164 must be E.164 — e.g. +919812345678"


async def test_refusals_come_in_the_published_order(world: World) -> None:
    org = await world.bare_org()
    wrong: dict[str, Any] = {"to_e164": "12", "agent_id": str(uuid4())}
    assert (await world.ask("POST", "/api/v1/calls", json=wrong)).status == 401
    assert (await world.place(org, **wrong)).status == 400
    assert (await world.place(org, agent_id=str(uuid4()))).status == 404
    no_plan = await world.place(org)
    assert (no_plan.status, no_plan.body["error"]["details"]) == (403, {"reason": "No active plan"})
    await world.feed("wallet.events", plan(org))
    no_money = await world.place(org)
    assert (no_money.status, no_money.body["error"]["code"]) == (402, "insufficient_credits")
    missing = {"balance_paise": 0, "held_paise": 0, "needed_paise": 3000}
    assert no_money.body["error"]["details"] == missing
    await world.feed("wallet.events", credited(org, 3000))
    assert (await world.place(org)).status == 201


async def test_an_expired_plan_places_no_calls(world: World) -> None:
    org = await world.org()
    await world.feed("wallet.events", event(org, PlanExpired(org_id=org.id, plan="growth", expired_at=AT), sequence=9))
    assert (await world.place(org)).body["error"]["code"] == "forbidden"
    await world.feed("wallet.events", plan(org, sequence=8))
    assert (await world.place(org)).status == 403, "an older activation came back to life"


async def test_a_number_of_nobodys_or_anothers_is_forbidden(world: World) -> None:
    org, other = await world.org(), await world.org()
    await world.admin("POST", f"/orgs/{other.id}/numbers", {"e164": "+918099999999"})
    for number in ("+918099999999", "+918011111111"):
        answer = await world.place(org, from_e164=number)
        assert (answer.status, answer.body["error"]["param"]) == (403, "from_e164")


async def test_of_a_thousand_at_once_a_wallet_for_ten_accepts_ten(world: World) -> None:
    org = await world.org(granted_paise=10 * 3000)
    answers = await asyncio.gather(*(world.place(org) for _ in range(1000)))
    outcomes = Counter(answer.body["error"]["code"] if answer.status != 201 else "accepted" for answer in answers)
    assert outcomes == {"accepted": 10, "insufficient_credits": 990}
    assert await world.wallet(org) == (30_000, 30_000)
    assert await world.pool.fetchval("SELECT count(*) FROM calls") == 10
    assert await world.pool.fetchval("SELECT count(*) FROM outbox") == 10


async def test_a_bad_request_in_a_batch_fails_no_other(world: World) -> None:
    org, poor = await world.org(), await world.bare_org()
    answers = await asyncio.gather(*(world.place(poor if n % 2 else org) for n in range(40)))
    assert Counter(answer.status for answer in answers) == {201: 20, 403: 20}


async def test_a_hundred_equal_requests_under_one_key_are_one_call(world: World) -> None:
    org = await world.org()
    key = {"Idempotency-Key": "lead-7890"}
    answers = await asyncio.gather(*(world.place(org, headers=key) for _ in range(100)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["data"]["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert await world.wallet(org) == (10_000_000, 3000)


async def test_a_key_is_told_by_the_parsed_body_and_refused_with_another(world: World) -> None:
    org = await world.org()
    key = {"Idempotency-Key": "k"}
    headers = org.auth | key | {"Content-Type": "application/json"}
    first = await world.place(org, headers=key)
    turned = f'{{ "to_e164":"+919812345678",\n"agent_id":"{org.agent_id}"}}'
    again = await world.ask("POST", "/api/v1/calls", data=turned, headers=headers)
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await world.place(org, headers=key, language="en-IN")
    assert (other.status, other.body["error"]["code"]) == (409, "conflict")
    assert (await world.place(await world.org(), headers=key)).body != first.body, "another org's key is another key"


async def test_a_decided_refusal_is_given_again_and_a_400_is_not_kept(world: World) -> None:
    org, key = await world.org(granted_paise=0), {"Idempotency-Key": "k"}
    assert (await world.place(org, headers=key, to_e164="1")).status == 400
    first = await world.place(org, headers=key)
    await world.feed("wallet.events", credited(org, 100_000))
    again = await world.place(org, headers=key)
    assert (first.status, again.status) == (402, 402)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.body["error"]["request_id"] == again.headers["X-Request-Id"]


async def test_an_external_id_is_one_call_per_org(world: World) -> None:
    org, other = await world.org(), await world.org()
    answers = await asyncio.gather(*(world.place(org, external_id="L-1") for _ in range(20)))
    assert len({answer.body["data"]["id"] for answer in answers}) == 1
    assert (await world.place(org, external_id="L-1", language="en-IN")).status == 409
    assert (await world.place(other, external_id="L-1")).status == 201


async def test_a_call_for_later_is_scheduled(world: World) -> None:
    org = await world.org()
    later = rfc3339(now() + timedelta(hours=2))
    answer = await world.place(org, schedule={"earliest_at": later})
    assert answer.body["data"]["status"] == "scheduled"
    assert answer.body["data"]["schedule"]["earliest_at"] == later


async def test_a_replica_that_decides_at_the_same_time_finds_the_lock(world: World) -> None:
    """Two processes, one wallet: both batches run at once, the sum of their holds is exact."""
    org = await world.org(granted_paise=10 * 3000)
    async with running(world.pool) as twin:
        answers = await asyncio.gather(*(side.place(org) for _ in range(50) for side in (world, twin)))
    assert Counter(answer.status for answer in answers) == {201: 10, 402: 90}
    assert await world.wallet(org) == (30_000, 30_000)


async def test_a_plan_that_allows_more_at_once_than_a_request_can_say_is_called_on_all_the_same(world: World) -> None:
    org = await world.org()
    await world.feed("wallet.events", plan(org, at_once=1_000_000))
    call_id = await world.placed(org)
    payload = await world.pool.fetchval("SELECT payload FROM outbox WHERE key = $1", str(call_id))
    said = decode(payload).data
    assert isinstance(said, CallRequested)
    assert said.max_concurrent_calls == 10_000
