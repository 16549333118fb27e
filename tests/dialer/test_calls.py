"""Calls on a real database: claimed once, asked for once, ended once, whatever dies in between."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import orjson
import pytest

from cualify_dialer import recover
from cualify_dialer.model import AttemptState, CallState
from cualify_dialer.providers import (
    Accepted,
    Found,
    LookUp,
    Order,
    Phase,
    Refused,
    Snapshot,
    Stopped,
    Throttled,
    Unclear,
    Unfit,
    Unknown,
    Unreadable,
)
from cualify_dialer.retain import Retaining
from cualify_shared.clock import now as utc_now
from cualify_shared.events.call import CallCompleted, CallFailed
from cualify_shared.ids import new_id
from tests.dialer.support import Dialer, ScriptedProvider, a_request, a_snapshot, a_wish

MakeDialer = Callable[..., Dialer]


def completed(ref: str, execution_id: str = "ex-1") -> Snapshot:
    return replace(
        a_snapshot(Phase.COMPLETED, ref=ref, execution_id=execution_id),
        talked_sec=Decimal(60),
        recording_url="https://recordings.example/1",
    )


def said(status: str, *, ref: str | None, execution_id: str = "ex-1", **more: object) -> bytes:
    return orjson.dumps(
        {
            "id": execution_id,
            "status": status,
            "context_details": {"recipient_data": {"cualify_ref": ref} if ref else None},
            **more,
        }
    )


async def test_a_call_is_asked_for_once_and_ends_by_the_look_up(dialer: Dialer, provider: ScriptedProvider) -> None:
    request = a_request()
    ref = request.provider_call_id
    provider.answers = [Accepted("ex-1")]
    await dialer.consume(request)
    await dialer.dial()
    await dialer.hear(said("in-progress", ref=ref), said("completed", ref=ref, conversation_duration=3600))
    assert await dialer.names(request.call_id) == ["call.dialing", "call.provider_accepted", "call.in_progress"]
    provider.executions["ex-1"] = completed(ref)
    assert await dialer.recover() == 1
    end = await dialer.end(request.call_id)
    assert isinstance(end, CallCompleted)
    assert end.duration_sec == 60, "as it was read back, not as the callback had it"
    assert [order.ref for order in provider.placed] == [ref]
    assert await dialer.recover() == 0


async def test_replaying_call_requests_changes_nothing(dialer: Dialer, provider: ScriptedProvider) -> None:
    request, other = a_request(), a_request(to_e164="+919990000101")
    provider.answers = [Refused("400"), Accepted("ex-1")]
    for _ in range(3):
        await dialer.consume(request, other, request, a_wish(other))
        await dialer.dial()
    assert len(provider.placed) == 1
    assert await dialer.names(request.call_id) == ["call.dialing", "call.failed"]
    assert await dialer.names(other.call_id) == ["call.failed"]


async def test_a_cancellation_before_its_call_is_not_lost(dialer: Dialer, provider: ScriptedProvider) -> None:
    request = a_request()
    await dialer.consume(a_wish(request))
    await dialer.consume(request)
    await dialer.dial()
    end = await dialer.end(request.call_id)
    assert isinstance(end, CallFailed)
    assert (end.status, end.attempts, provider.placed) == ("canceled", 0, [])


async def test_a_call_that_waited_too_long_is_never_dialed_also_when_all_lines_are_busy(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    dialer = make_dialer(lines=1)
    busy, late = a_request(), a_request(to_e164="+919990000101", latest_at=utc_now() + timedelta(seconds=0.05))
    await dialer.consume(busy)
    await dialer.dial()
    await dialer.consume(late)
    await asyncio.sleep(0.06)
    await dialer.dial()
    end = await dialer.end(late.call_id)
    assert isinstance(end, CallFailed)
    assert (end.ended_reason, end.attempts, len(provider.placed)) == ("expired", 0, 1)


async def test_a_provider_that_nobody_configured_ends_the_call(dialer: Dialer) -> None:
    request = a_request(provider="twilio")
    await dialer.consume(request)
    await dialer.dial()
    end = await dialer.end(request.call_id)
    assert isinstance(end, CallFailed)
    assert end.ended_reason == "provider_not_configured"


async def test_a_number_is_rung_by_one_attempt_at_a_time(dialer: Dialer, provider: ScriptedProvider) -> None:
    first, second = a_request(), a_request()
    provider.answers = [Unknown("TimeoutError")]
    await dialer.consume(first, second)
    await dialer.dial()
    await dialer.dial()
    assert [order.ref for order in provider.placed] == [first.provider_call_id], "an unknown outcome holds the number"
    provider.executions["ex-1"] = completed(first.provider_call_id)
    await dialer.make_due()
    await dialer.recover()
    await dialer.dial()
    assert [order.ref for order in provider.placed] == [first.provider_call_id, second.provider_call_id]


async def test_no_more_calls_are_open_than_there_are_lines(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    dialer = make_dialer(lines=3)
    await dialer.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(10)))
    await dialer.dial()
    await dialer.dial()
    assert len(provider.placed) == 3


async def test_the_lines_are_shared_among_orgs_whoever_queued_first(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    dialer = make_dialer(lines=6)
    long_ago, orgs = utc_now() - timedelta(minutes=5), [new_id(), new_id(), new_id()]
    flood = [a_request(org_id=orgs[0], to_e164=f"+91999000{n:04d}", requested_at=long_ago) for n in range(50)]
    few = [a_request(org_id=org, to_e164=f"+91999100{n:04d}") for n, org in enumerate(orgs[1:] * 2)]
    await dialer.consume(*flood)
    await dialer.consume(*few)
    asked = [await dialer.dial(1) for _ in range(6)]
    assert Counter(one.org_id for batch in asked for one in batch) == dict.fromkeys(orgs, 2)


async def test_two_replicas_at_once_claim_each_job_once(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    one, two = make_dialer(), make_dialer()
    requests = [a_request(to_e164=f"+91999000{n:04d}") for n in range(60)]
    await one.consume(*requests)
    await asyncio.gather(*(replica.dial(10) for replica in (one, two) for _ in range(4)))
    assert sorted(order.ref for order in provider.placed) == sorted(request.provider_call_id for request in requests)


async def test_a_crash_before_the_request_left_or_before_its_answer_was_recorded_never_asks_again(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    sent, not_sent = a_request(), a_request(to_e164="+919990000101")
    await dialer.consume(sent, not_sent)
    assert len(await dialer.dialing.claim(10)) == 2
    provider.executions["ex-1"] = completed(sent.provider_call_id)
    assert await dialer.recover() == 0, "as long as somebody may be waiting for the answer, nobody looks"
    await dialer.make_due()
    await dialer.recover()
    assert isinstance(await dialer.end(sent.call_id), CallCompleted)
    assert (await dialer.call(not_sent.call_id)).attempts[0].state is AttemptState.UNKNOWN
    await dialer.dial()
    assert provider.placed == []


async def test_a_process_that_stood_still_after_its_commit_does_not_ask(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    await dialer.consume(request)
    (asking,) = await dialer.dialing.claim(10)
    await dialer.finish(replace(asking, claimed_at=utc_now() - timedelta(seconds=6)))
    assert provider.placed == []
    assert (await dialer.call(request.call_id)).state is CallState.QUEUED


async def test_an_attempt_that_nobody_knows_is_parked_in_the_end(
    make_dialer: MakeDialer, dialer: Dialer, provider: ScriptedProvider
) -> None:
    hasty = make_dialer(pace=replace(dialer.pace, settle_unknown_sec=0.0))
    request = a_request()
    provider.answers = [Unknown("500")]
    await hasty.consume(request)
    await hasty.dial()
    for _ in range(3):
        assert (await hasty.call(request.call_id)).state is CallState.OPEN
        await hasty.make_due()
        await hasty.recover()
    end = await hasty.end(request.call_id)
    assert isinstance(end, CallFailed)
    assert end.ended_reason == "outcome_unknown"


async def test_a_throttled_call_is_asked_for_again_under_a_new_reference(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    provider.answers = [Throttled(None), Accepted("ex-2")]
    await dialer.consume(request)
    await dialer.dial()
    await dialer.dial()
    assert len(provider.placed) == 1, "not before its pause is over"
    await dialer.pool.execute("UPDATE dial_jobs SET next_at = clock_timestamp()")
    await dialer.dial()
    assert [order.ref for order in provider.placed] == [request.provider_call_id, f"{request.provider_call_id}_2"]


async def test_callbacks_twice_reordered_and_before_the_answer_have_the_effect_of_one_of_each(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    ref = request.provider_call_id
    await dialer.consume(request)
    (asking,) = await dialer.dialing.claim(10)
    fact = {"id": "tool_1", "type": "handoff-requested", "at": "2026-11-23T10:00:00Z", "data": {}}
    bodies = [
        said("queued", ref=ref),
        said("call-disconnected", ref=ref),
        said("in-progress", ref=None),
        said("in-progress", ref=ref, cualify_event=fact),
        said("quantum-leap", ref=ref),
        said("completed", ref=ref),
    ]
    assert await dialer.hear(bodies[0]) == [True]
    provider.answers = [Accepted("ex-1")]
    await dialer.finish(asking)
    assert all(await dialer.hear(*bodies, *reversed(bodies)))
    provider.executions["ex-1"] = completed(ref)
    await dialer.recover()
    await dialer.hear(*bodies, said("ringing", ref=ref))
    told = await dialer.told(request.call_id)
    assert [event.type.name for event in told] == [
        "call.dialing",
        "call.provider_accepted",
        "call.in_progress",
        "call.handoff_requested",
        "call.recording_ready",
        "call.completed",
    ]
    assert [event.sequence for event in told if event.type.topic.name == "call.events"] == [1, 2, 3, 4, 5]
    assert [event.sequence for event in told if event.type.topic.name == "call.artifacts"] == [1]
    assert await dialer.pool.fetchval("SELECT count(*) FROM provider_events") == 7


async def test_a_callback_about_nobody_is_kept(dialer: Dialer) -> None:
    bodies = [said("completed", ref="boln_nobody"), b"no json", b'{"id": "x\\u0000", "status": "busy"}']
    assert await dialer.hear(*bodies) == [False, False, False]
    assert await dialer.pool.fetchval("SELECT count(*) FROM provider_events") == 3


async def test_a_call_of_which_no_callback_comes_is_found_by_asking(dialer: Dialer, provider: ScriptedProvider) -> None:
    request = a_request()
    provider.answers = [Accepted("ex-1")]
    await dialer.consume(request)
    await dialer.dial()
    provider.executions["ex-1"] = completed(request.provider_call_id)
    await dialer.make_due()
    await dialer.recover()
    assert await dialer.names(request.call_id) == [
        "call.dialing",
        "call.provider_accepted",
        "call.in_progress",
        "call.recording_ready",
        "call.completed",
    ]


async def test_two_replicas_look_an_attempt_up_once(make_dialer: MakeDialer, provider: ScriptedProvider) -> None:
    one, two = make_dialer(), make_dialer()
    await one.consume(*(a_request(to_e164=f"+91999000{n:04d}") for n in range(20)))
    await one.dial()
    await one.make_due()
    assert sum(await asyncio.gather(one.recover(), two.recover())) == 20
    assert len(provider.looks) == len(set(provider.looks)) == 20


async def test_a_provider_that_hangs_keeps_no_other_providers_calls_from_their_ends(
    make_dialer: MakeDialer, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(ScriptedProvider):
        async def look_up(self, order: Order, *, now: datetime) -> LookUp:
            self.looks.append(order.ref)
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    monkeypatch.setattr(recover, "LOOKS_AT_ONCE", 3)
    hanging = Hanging(name="exotel", ref_prefix="exo")
    dialer = make_dialer(hanging)
    others = [a_request(to_e164=f"+91999000{n:04d}", provider="exotel") for n in range(5)]
    request = a_request()
    provider.answers = [Accepted("ex-1")]
    provider.executions["ex-1"] = completed(request.provider_call_id)
    await dialer.consume(*others, request)
    await dialer.dial()
    await dialer.make_due()
    await dialer.pool.execute("UPDATE attempts SET look_up_at = now() - interval '1 minute' WHERE provider = 'exotel'")
    stop = asyncio.Event()
    looking = asyncio.create_task(dialer.recovering.run(stop))
    async with asyncio.timeout(10):
        while (await dialer.call(request.call_id)).state is not CallState.ENDED:
            await asyncio.sleep(0.01)
    assert len(hanging.looks) == 3, "as many at once as a provider may have"
    stop.set()
    await looking


async def test_a_canceled_call_is_hung_up_once_and_its_end_is_read_back(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    ref = request.provider_call_id
    provider.answers, provider.hang_ups = [Accepted("ex-1")], [Stopped()]
    await dialer.consume(request)
    await dialer.dial()
    provider.executions["ex-1"] = a_snapshot(Phase.PENDING, ref=ref)
    await dialer.consume(a_wish(request))
    assert await dialer.recover() == 1, "at once"
    provider.executions["ex-1"] = a_snapshot(Phase.CANCELED, ref=ref)
    await dialer.make_due()
    await dialer.recover()
    assert provider.hung_up == ["ex-1"]
    assert (await dialer.call(request.call_id)).status == "canceled"


async def test_a_call_beyond_its_time_is_hung_up_without_any_callback(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    now = [utc_now() + timedelta(seconds=1)]
    dialer = make_dialer(clock=lambda: now[0])
    request = a_request()
    provider.answers, provider.hang_ups = [Accepted("ex-1")], [Stopped()]
    await dialer.consume(request)
    await dialer.dial()
    provider.executions["ex-1"] = replace(a_snapshot(Phase.PENDING, ref=request.provider_call_id))
    now[0] += timedelta(seconds=344)
    await dialer.recover()
    assert provider.hung_up == []
    provider.executions["ex-1"] = completed(request.provider_call_id)
    now[0] += timedelta(seconds=1)
    assert await dialer.recover() == 1, "exactly then, whatever the usual time is"
    end = await dialer.end(request.call_id)
    assert (provider.hung_up, end.model_dump()["ended_reason"]) == (["ex-1"], "time_limit")


async def test_what_the_provider_still_has_in_its_queue_at_latest_at_is_stopped_and_never_rings_late(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    now = [utc_now() + timedelta(seconds=1)]
    dialer = make_dialer(clock=lambda: now[0])
    request = a_request(latest_at=now[0] + timedelta(seconds=50))
    provider.answers, provider.hang_ups = [Accepted("ex-1")], [Unclear("503"), Stopped()]
    await dialer.consume(request)
    await dialer.dial()
    waiting = replace(a_snapshot(Phase.PENDING, ref=request.provider_call_id), is_waiting=True)
    provider.executions["ex-1"] = waiting
    now[0] += timedelta(seconds=30)
    assert await dialer.recover() == 1
    assert provider.hung_up == []
    now[0] += timedelta(seconds=20)
    assert await dialer.recover() == 1, "exactly then, whatever the usual time is"
    assert provider.hung_up == ["ex-1"]
    now[0] += timedelta(seconds=30)
    assert await dialer.recover() == 1, "and again where the provider did not answer"
    provider.executions["ex-1"] = replace(waiting, phase=Phase.CANCELED, status="stopped", is_waiting=False)
    now[0] += timedelta(seconds=5)
    assert await dialer.recover() == 1
    end = await dialer.end(request.call_id)
    assert (provider.hung_up, end.model_dump()["ended_reason"]) == (["ex-1", "ex-1"], "expired")


async def test_a_phone_that_rings_already_at_latest_at_is_left_ringing(
    make_dialer: MakeDialer, provider: ScriptedProvider
) -> None:
    now = [utc_now() + timedelta(seconds=1)]
    dialer = make_dialer(clock=lambda: now[0])
    request = a_request(latest_at=now[0] + timedelta(seconds=20))
    provider.answers = [Accepted("ex-1")]
    await dialer.consume(request)
    await dialer.dial()
    provider.executions["ex-1"] = a_snapshot(Phase.PENDING, ref=request.provider_call_id)
    now[0] += timedelta(seconds=20)
    assert await dialer.recover() == 1
    assert provider.hung_up == []


async def test_of_two_executions_of_one_attempt_the_second_is_stopped_before_it_rings(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    ref = request.provider_call_id
    provider.answers = [Unknown("answered 504")]
    await dialer.consume(request)
    await dialer.dial()
    provider.executions = {one: a_snapshot(ref=ref, execution_id=one) for one in ("ex-1", "ex-2")}
    await dialer.make_due()
    await dialer.recover()
    assert provider.hung_up == ["ex-2"]
    (attempt,) = (await dialer.call(request.call_id)).attempts
    assert (attempt.execution_id, attempt.hang_up) == ("ex-1", None)


async def test_a_second_execution_that_a_callback_tells_of_is_read_back_and_stopped_before_it_rings(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request, other = a_request(), a_request(to_e164="+919990000101")
    ref = request.provider_call_id
    provider.answers = [Accepted("ex-1"), Accepted("ex-9")]
    await dialer.consume(request, other)
    await dialer.dial()
    waiting = replace(a_snapshot(), is_waiting=True)
    provider.executions = {
        "ex-1": replace(waiting, execution_id="ex-1", ref=ref),
        "ex-2": replace(waiting, execution_id="ex-2", ref=ref),
        "ex-9": replace(waiting, execution_id="ex-9", ref=other.provider_call_id),
    }
    await dialer.hear(said("queued", ref=ref, execution_id="ex-2"))
    assert await dialer.recover() == 1, "at once"
    assert provider.hung_up == ["ex-2"]
    await dialer.hear(said("queued", ref=ref, execution_id="ex-9"))
    assert await dialer.recover() == 1
    assert provider.hung_up == ["ex-2"], "what is another call's is left alone, whatever a callback says"
    (attempt,) = (await dialer.call(request.call_id)).attempts
    assert (attempt.execution_id, attempt.hang_up) == ("ex-1", None)


async def test_what_an_ended_call_was_carried_under_is_never_taken_for_the_next_one_to_its_number(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    first, second = a_request(), a_request()
    provider.answers = [Accepted("request-1"), Unknown("504")]
    await dialer.consume(first)
    await dialer.dial()
    seen = a_snapshot(Phase.BUSY, ref=first.provider_call_id, execution_id="request-1")
    provider.executions["request-1"] = replace(seen, carrier_id="call-1")
    await dialer.make_due()
    await dialer.recover()
    await dialer.consume(second)
    await dialer.dial()
    await dialer.make_due()
    (due,) = await dialer.recovering.claim(10)
    assert (due.call_id, due.not_ours) == (second.call_id, ["call-1"])


async def test_a_call_that_only_rings_the_same_number_is_not_stopped(
    dialer: Dialer, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(_: ScriptedProvider, order: Order, *, now: datetime) -> LookUp:
        return Found(a_snapshot(ref=None, execution_id="ex-1"), others=("somebody's",))

    monkeypatch.setattr(ScriptedProvider, "look_up", look_up)
    await dialer.consume(a_request())
    await dialer.dial()
    await dialer.make_due()
    await dialer.recover()
    assert provider.hung_up == []


async def test_the_id_of_the_request_that_placed_a_call_is_in_all_its_events(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request, early = a_request(), a_request(to_e164="+919990000101")
    provider.answers = [Refused("400")]
    await dialer.consume(a_wish(early))
    await dialer.consume(request, early)
    await dialer.dial()
    for one in (request, early):
        told = await dialer.told(one.call_id)
        assert {event.correlation_id for event in told} == {f"req_{one.call_id.hex}"}


async def test_an_agent_that_would_ring_again_by_itself_is_not_dialed_with(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request, other = a_request(), a_request(to_e164="+919990000101")
    provider.known = Unfit("auto_reschedule is on", "provider_misconfigured")
    await dialer.consume(request)
    await dialer.dial()
    end = await dialer.end(request.call_id)
    assert isinstance(end, CallFailed)
    assert (end.ended_reason, end.attempts, provider.placed) == ("provider_misconfigured", 0, [])
    provider.known = Unreadable("503")
    await dialer.consume(other)
    await dialer.dial()
    waiting = await dialer.call(other.call_id)
    assert (waiting.state, waiting.attempts) == (CallState.QUEUED, ())
    assert waiting.next_at > utc_now()


async def test_no_attempt_is_committed_before_its_agent_is_known(dialer: Dialer, provider: ScriptedProvider) -> None:
    """So that nothing but the request itself lies between the commit and the wire."""
    request = a_request()
    provider.known = None
    await dialer.consume(request)
    assert await dialer.dial() == []
    assert (await dialer.call(request.call_id)).attempts == ()
    await asyncio.sleep(0)
    assert len(await dialer.dial()) == 1


async def test_what_providers_said_is_forgotten_after_its_time_in_batches(dialer: Dialer) -> None:
    await dialer.hear(*(said("busy", ref=f"boln_{n}") for n in range(12)))
    await dialer.pool.execute("UPDATE provider_events SET received_at = now() - interval '31 days' WHERE id <= 10")
    retaining = Retaining(pool=dialer.pool, days=30)
    assert await retaining.forget(asyncio.Event(), at_once=3) == 10
    assert await dialer.pool.fetchval("SELECT count(*) FROM provider_events") == 2
