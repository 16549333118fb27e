"""Whose turn it is: what each org and provider may have, and what a claim costs."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cualify_dialer import dial, turns
from cualify_dialer.model import CallState
from cualify_dialer.providers import (
    Accepted,
    NotSent,
    Phase,
    Readiness,
    Ready,
    Refused,
    Throttled,
    Unknown,
    Unreadable,
)
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.events.call import CallFailed, Fallback, Retry
from cualify_shared.ids import new_id
from tests.dialer.support import PACE, Dialer, ScriptedProvider, a_request, a_snapshot, a_wish

MakeDialer = Callable[..., Dialer]

FLOOD = """
WITH new AS (
    SELECT gen_random_uuid() AS call_id, n,
           $3::text || CASE WHEN $4::boolean THEN '' ELSE lpad(n::text, 6, '0') END AS to_e164
    FROM generate_series(1, $5::integer) AS n
)
INSERT INTO dial_jobs (call_id, org_id, state, request, to_e164, next_at, latest_at, provider)
SELECT call_id, $1::uuid, 'queued',
       $2::jsonb || jsonb_build_object('call_id', call_id, 'org_id', $1::uuid, 'to_e164', to_e164), to_e164,
       now() - interval '1 hour' + n * interval '1 millisecond', now() + interval '1 hour', 'bolna'
FROM new
"""


EXPLAIN = "EXPLAIN (ANALYZE, FORMAT JSON) "


async def flood(pool: Pool, count: int, *, to_e164: str, one_number: bool) -> None:
    """So many calls of one org, queued long ago."""
    request = a_request(to_e164="+919990000000").model_dump(mode="json")
    await pool.execute(FLOOD, new_id(), request, to_e164, one_number, count)
    await pool.execute("ANALYZE dial_jobs")


async def rows_read(dialer: Dialer, *, limit: int = 10) -> int:
    """Rows that the claim's query touches, by what PostgreSQL counted."""
    async with dialer.pool.acquire() as connection:
        queues = await turns.queues_after(connection, turns.BEFORE_ALL, limit=200)
        orgs, providers = [org_id for org_id, _ in queues], [provider for _, provider in queues]
        finding: Any = await connection.fetchval(EXPLAIN + turns.QUEUES, *turns.BEFORE_ALL, 200)
        choosing: Any = await connection.fetchval(
            EXPLAIN + turns.DUE, utc_now(), limit, ["bolna"], [limit], 100, orgs, providers
        )
    return sum(
        touched((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]) for plan in (finding, choosing)
    )


def touched(node: dict[str, Any]) -> int:
    loops = node["Actual Loops"]
    own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * loops if "Relation Name" in node else 0
    return int(own) + sum(touched(one) for one in node.get("Plans", ()))


async def test_fifty_thousand_calls_of_one_org_do_not_make_another_wait(dialer: Dialer) -> None:
    await flood(dialer.pool, 50_000, to_e164="+9199", one_number=False)
    await dialer.dial(10)
    single = a_request()
    await dialer.consume(single)
    (asked,) = await dialer.dial(1)
    assert asked.call_id == single.call_id, "the very next line"
    assert await rows_read(dialer) < 300


async def test_what_waits_behind_one_busy_number_costs_a_claim_nothing(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    busy = a_request(to_e164="+919990000199")
    await dialer.consume(busy)
    await dialer.dial()
    await flood(dialer.pool, 20_000, to_e164="+919990000199", one_number=True)
    for _ in range(2):
        await dialer.dial(10)
    assert len(provider.placed) == 1
    assert await dialer.pool.fetchval("SELECT count(*) FROM dial_jobs WHERE parked") == 20_000
    assert await rows_read(dialer) < 50


async def test_a_claim_looks_at_a_bounded_number_of_orgs_and_all_have_their_turn(
    dialer: Dialer, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "QUEUES_AT_ONCE", 4)
    await dialer.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(11)))
    asked = [len(await dialer.dial()) for _ in range(3)]
    assert asked == [4, 4, 3]


async def test_whoever_waits_behind_a_number_is_dialed_when_it_is_free_in_order(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    requests = [a_request() for _ in range(4)]
    await dialer.consume(*requests)
    provider.answers = [Refused("400")] * 4
    for _ in range(4):
        await dialer.dial()
    assert [order.ref for order in provider.placed] == [request.provider_call_id for request in requests]


async def test_a_parked_call_that_is_canceled_strands_nobody(dialer: Dialer, provider: ScriptedProvider) -> None:
    first, second, third = (a_request() for _ in range(3))
    provider.answers = [Refused("400")]
    await dialer.consume(first, second, third)
    await dialer.dialing.claim(10)
    await dialer.dial()
    await dialer.consume(a_wish(second))
    await dialer.pool.execute("UPDATE attempts SET state = 'ended', result = 'x', ended_at = now()")
    await dialer.dial()
    assert [order.ref for order in provider.placed] == [third.provider_call_id]


async def test_nobody_waits_behind_a_stranger_who_may_not_be_dialed_to_the_same_number(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    """The first behind a number may have no line of its org left, or be at a provider that is left alone."""
    busy, small = a_request(), new_id()
    taken = a_request(org_id=small, to_e164="+919990000101", max_concurrent_calls=1)
    await dialer.consume(busy, taken)
    await dialer.dial()
    first, second = a_request(org_id=small, max_concurrent_calls=1), a_request()
    await dialer.consume(first, second)
    await dialer.dial()
    assert await dialer.pool.fetchval("SELECT count(*) FROM dial_jobs WHERE parked") == 2
    end_of_busy = replace(a_snapshot(Phase.BUSY), execution_id=f"ex-{busy.provider_call_id}")
    provider.executions = {
        end_of_busy.execution_id: end_of_busy,
        f"ex-{taken.provider_call_id}": a_snapshot(Phase.IN_PROGRESS, execution_id=f"ex-{taken.provider_call_id}"),
    }
    await dialer.make_due()
    await dialer.recover()
    asked = await dialer.dial()
    assert [one.call_id for one in asked] == [second.call_id]


async def test_nobody_waits_behind_a_call_whose_agent_can_not_be_read_back(
    dialer: Dialer, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def readiness(_: ScriptedProvider, agent_id: str) -> Readiness:
        return Unreadable("503") if agent_id == "gone" else Ready()

    monkeypatch.setattr(ScriptedProvider, "readiness", readiness)
    org_id, busy = new_id(), a_request()
    await dialer.consume(busy)
    provider.answers = [Refused("400")]
    (asked,) = await dialer.dialing.claim(10)
    first, second = a_request(org_id=org_id, provider_agent_id="gone"), a_request(org_id=org_id)
    await dialer.consume(first, second)
    await dialer.dial()
    await dialer.finish(asked)
    await dialer.dial()
    assert [one.call_id for one in await dialer.dial()] == [second.call_id]


async def test_an_org_has_no_more_calls_open_than_its_plan_allows(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    dialer = make_dialer(org_lines=3)
    small, default = new_id(), new_id()
    await dialer.consume(
        *(a_request(org_id=small, to_e164=f"+91999000{n:04d}", max_concurrent_calls=2) for n in range(10)),
        *(a_request(org_id=default, to_e164=f"+91999100{n:04d}") for n in range(10)),
    )
    asked = [one.org_id for _ in range(3) for one in await dialer.dial()]
    assert Counter(asked) == {small: 2, default: 3}
    await dialer.pool.execute("UPDATE attempts SET state = 'disconnected' WHERE org_id = $1", small)
    assert len(await dialer.dial()) == 2, "a line that dropped is free before its transcript is ready"


@pytest.mark.parametrize(("lines", "expected"), [(2, (1, 1)), (6, (4, 2)), (9, (6, 3)), (30, (20, 10))])
async def test_lines_that_are_short_are_shared_in_proportion_to_the_plans(
    make_dialer: MakeDialer, provider: ScriptedProvider, lines: int, expected: tuple[int, int]
) -> None:
    dialer, big, small = make_dialer(lines=lines), new_id(), new_id()
    long_ago = utc_now() - timedelta(minutes=5)
    await dialer.consume(
        *(
            a_request(org_id=big, to_e164=f"+91999000{n:04d}", max_concurrent_calls=20, requested_at=long_ago)
            for n in range(40)
        ),
        *(a_request(org_id=small, to_e164=f"+91999100{n:04d}", max_concurrent_calls=10) for n in range(40)),
    )
    asked = Counter([one.org_id for _ in range(3) for one in await dialer.dial()])
    assert (asked[big], asked[small]) == expected


async def test_who_has_nothing_open_goes_before_a_large_plan_that_is_hardly_used(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    dialer, big = make_dialer(lines=2), new_id()
    long_ago = utc_now() - timedelta(minutes=5)
    await dialer.consume(
        *(
            a_request(org_id=big, to_e164=f"+91999000{n:04d}", max_concurrent_calls=10_000, requested_at=long_ago)
            for n in range(5)
        )
    )
    await dialer.dial(1)
    single = a_request(max_concurrent_calls=1)
    await dialer.consume(single)
    assert [one.call_id for one in await dialer.dial()] == [single.call_id]


async def test_a_slot_is_given_back_by_every_end(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    dialer = make_dialer(lines=1)
    requests = [a_request(to_e164=f"+91999000{n:04d}") for n in range(4)]
    await dialer.consume(*requests)
    provider.answers = [Refused("400"), Throttled(3600), NotSent("dns"), Accepted("ex")]
    for n in range(4):
        assert len(await dialer.dial()) == 1, n
    assert await dialer.dial() == []


async def test_calls_per_second_are_exact_across_replicas(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    one, two = make_dialer(calls_per_sec=5), make_dialer(calls_per_sec=5)
    await one.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(60)))
    asked: list[int] = []
    async with asyncio.timeout(20):
        while sum(asked) < 12:
            asked += [len(got) for got in await asyncio.gather(one.dial(10), two.dial(10))]
    begun = [row["claimed_at"] for row in await one.pool.fetch("SELECT claimed_at FROM attempts ORDER BY claimed_at")]
    windows = [sum(at <= other < at + timedelta(seconds=1) for other in begun) for at in begun]
    assert max(windows) == 5


async def test_less_than_a_call_a_second_is_kept_too(make_dialer: MakeDialer) -> None:
    dialer = make_dialer(calls_per_sec=0.01)
    await dialer.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(3)))
    assert [len(await dialer.dial()) for _ in range(3)] == [1, 0, 0]


async def test_a_call_is_not_dialed_before_its_time(dialer: Dialer, provider: ScriptedProvider) -> None:
    soon = utc_now() + timedelta(seconds=0.2)
    request = a_request(earliest_at=soon)
    await dialer.consume(request)
    assert await dialer.dial() == []
    await asyncio.sleep(0.25)
    (asked,) = await dialer.dial()
    assert asked.order.asked_at >= soon


@pytest.mark.parametrize("failure", [NotSent("dns"), Unknown("500")])
async def test_a_provider_that_does_not_answer_is_left_alone_by_all_and_probed_by_one(
    make_dialer: MakeDialer, provider: ScriptedProvider, failure: NotSent | Unknown
) -> None:
    one, two = make_dialer(), make_dialer()
    provider.answers = [failure] * 5
    await one.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(20)))
    await one.dial(5)
    assert await one.dial(10) == await two.dial(10) == [], "open"
    await one.pool.execute("UPDATE provider_breakers SET open_until = now()")
    provider.answers = [failure]
    assert [len(got) for got in await asyncio.gather(one.dial(10), two.dial(10))] in ([1, 0], [0, 1]), "half open"
    assert await two.dial(10) == []
    await one.pool.execute("UPDATE provider_breakers SET open_until = now()")
    assert len(await one.dial(10)) == 1
    assert len(await two.dial(10)) > 1, "closed by the probe's success"


async def test_a_probe_whose_process_died_does_not_close_the_provider_for_ever(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    provider.answers = [NotSent("dns")] * 5
    await dialer.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(20)))
    await dialer.dial(5)
    await dialer.pool.execute("UPDATE provider_breakers SET open_until = now()")
    assert len(await dialer.dialing.claim(10)) == 1
    assert await dialer.dial(10) == []
    await dialer.pool.execute("UPDATE provider_breakers SET probing_until = now()")
    assert len(await dialer.dial(10)) == 1


FALLBACK = (Fallback(provider="exotel", provider_agent_id="77"),)


@pytest.mark.parametrize("answer", [Refused("403"), NotSent("dns"), Throttled(60)])
async def test_a_call_that_was_surely_not_taken_goes_to_the_next_provider(
    make_dialer: MakeDialer, provider: ScriptedProvider, answer: Refused | NotSent | Throttled
) -> None:
    other = ScriptedProvider(name="exotel", ref_prefix="exo")
    dialer = make_dialer(other)
    request = a_request(fallback_providers=FALLBACK)
    provider.answers = [answer]
    await dialer.consume(request)
    await dialer.dial()
    await dialer.dial()
    (order,) = other.placed
    assert (order.ref, order.agent_id) == (f"exo_{request.call_id.hex}_2", "77")
    names = [event.data.model_dump()["provider"] for event in await dialer.told(request.call_id)]
    assert names == ["bolna", "exotel", "exotel"], "the second is dialing, and has accepted"


async def test_a_call_that_may_have_been_taken_goes_nowhere_else(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    other = ScriptedProvider(name="exotel", ref_prefix="exo")
    dialer = make_dialer(other)
    request = a_request(fallback_providers=FALLBACK)
    provider.answers = [Unknown("500")]
    await dialer.consume(request)
    for _ in range(3):
        await dialer.dial()
        await dialer.make_due()
        await dialer.recover()
    assert (len(provider.placed), other.placed) == (1, [])


async def test_calls_of_a_provider_that_is_left_alone_go_to_their_next_one(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    other = ScriptedProvider(name="exotel", ref_prefix="exo")
    dialer = make_dialer(other)
    provider.answers = [NotSent("dns")] * 5
    await dialer.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(5)))
    await dialer.dial()
    loyal = a_request(to_e164="+919991000001")
    await dialer.consume(loyal, a_request(to_e164="+919991000002", fallback_providers=FALLBACK))
    await dialer.dial()
    await dialer.dial()
    assert [order.to_e164 for order in other.placed] == ["+919991000002"]
    assert (await dialer.call(loyal.call_id)).state is CallState.QUEUED


async def test_no_call_has_more_attempts_than_an_event_can_number(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    """The claim would fail on it for ever, and with it everybody's calls."""
    dialer = make_dialer(pace=replace(PACE, attempts_limit=2))
    request = a_request(retry=Retry(max_attempts=3, on=("busy",), intervals_min=(1,)))
    provider.answers = [Throttled(None), Accepted("ex-1")]
    provider.executions["ex-1"] = a_snapshot(Phase.BUSY)
    await dialer.consume(request)
    for _ in range(2):
        await dialer.pool.execute("UPDATE dial_jobs SET next_at = now()")
        await dialer.dial()
    await dialer.make_due()
    await dialer.recover()
    assert (await dialer.call(request.call_id)).waits
    await dialer.pool.execute("UPDATE dial_jobs SET next_at = now()")
    assert await dialer.dial() == []
    call = await dialer.call(request.call_id)
    assert (call.status, call.ended_reason, len(call.attempts)) == ("busy", "busy", 2)


async def test_when_every_provider_refuses_the_call_ends(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    other = ScriptedProvider(name="exotel", ref_prefix="exo", answers=[Refused("402")])
    dialer = make_dialer(other)
    request = a_request(fallback_providers=FALLBACK)
    provider.answers = [Refused("403")]
    await dialer.consume(request)
    await dialer.dial()
    await dialer.dial()
    end = await dialer.end(request.call_id)
    assert isinstance(end, CallFailed)
    assert (end.ended_reason, end.attempts, end.provider) == ("provider_refused", 2, "exotel")
