"""What became of a call: one pure function folds everything that is learnt, from whichever of the three sources.

An answer to our request, a callback, and a look-up may come in any order, repeatedly, or never. So `fold` only ever
moves forward, ends a call once, and after its end changes nothing. Its rules:

- A last status in a callback is a hint: callbacks are unsigned. It makes the look-up due, which ends the call.
- A status unheard of, a 404, and silence end nothing by themselves. An attempt of which nobody knows whether it rang is
  parked, after a settling time and enough complete searches, as `outcome_unknown`; it is never asked for again.
- `completed` does not prove a conversation. With talking time it is `call.completed`; with 0 s it is `call.completed`
  of 0 s where the callee was seen to answer, else `call.failed` with `no_conversation`.
- A call goes to its next provider, or is rung again where the customer asked for it, under a new attempt: the first
  only where it is known that nobody was rung, the second only after `busy` or `no_answer`.
- What we ended ourselves, for the customer or at the time limit, ends as the provider then reports it. A conversation
  that took place is `completed` and costs what was talked; without one, the customer's wish makes it `canceled`.
- A call ends at the latest `max_duration_sec` and a minute after it was dialed, by the last look before that. Where it
  shows no end, a dropped line is `completed` with what was talked, a live conversation `completed` with what its limit
  allows (and an alarm), what was never answered `outcome_unknown`. Its attempt stays open, and so its line and number
  taken, until the provider shows its end. After the call's end only its artifacts are told.
- What can't be read back, or is not known at the provider, does not end at that time. It is looked for until parked.
  One that was seen to be talked on is not parked before its limit, whatever the provider has forgotten of it.
- That the provider has an attempt is told as soon as its execution's id is known, whoever told us of it.
- A call that was talked on has its `call.in_progress` and its facts before its end, also where no callback ever came.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import assert_never

from cualify_dialer import ends, facts, look_times
from cualify_dialer.facts import End
from cualify_dialer.model import (
    NOBODY_RUNG,
    Answered,
    Attempt,
    AttemptState,
    Begun,
    Call,
    CallState,
    CancelWanted,
    GivenUp,
    HangUpState,
    Heard,
    Learnt,
    LookedUp,
    Pace,
    Postponed,
    Rerouted,
)
from cualify_dialer.providers import (
    Accepted,
    Found,
    LookUp,
    Missing,
    NotSent,
    Phase,
    Refused,
    Snapshot,
    Stopped,
    Throttled,
    TooLate,
    Unclear,
    Unknown,
)
from cualify_shared.events import EventData, type_of
from cualify_shared.events.topics import CALL_ARTIFACTS


class Alarm(StrEnum):
    """What must not happen, and is to be told to somebody when it does."""

    OUTCOME_UNKNOWN = "outcome_unknown"
    SECOND_EXECUTION = "second_execution"
    LATE_NEWS = "late_news"
    OVERRUN = "overrun"


FACTS_LIMIT = 200
"""Facts of one attempt that are told; each is an event, and callbacks are unsigned."""

NOT_BY_THE_PROVIDER = NOBODY_RUNG | {"outcome_unknown"}
"""Results after which the provider must have nothing to say any more."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call after something was learnt, and what is to be told of it, in this order."""

    call: Call
    told: tuple[EventData, ...] = ()
    alarms: tuple[Alarm, ...] = ()


def fold(call: Call, learnt: Learnt, *, now: datetime, pace: Pace) -> Step:
    """Folds one thing into a call."""
    match learnt:
        case Begun():
            return _begun(call, learnt) if call.waits else Step(call)
        case GivenUp(reason):
            return _given_up(call, reason, now=now) if call.waits else Step(call)
        case Rerouted():
            return Step(_on_next_route(call)) if call.waits else Step(call)
        case Postponed(until):
            return Step(replace(call, next_at=max(call.next_at, until))) if call.waits else Step(call)
        case CancelWanted(at):
            return _cancel_wanted(call, at, now=now)
        case Answered() | Heard() | LookedUp():
            attempt = call.attempt(learnt.number)
            if attempt is None:
                return Step(call)
            if not attempt.is_open:
                return Step(call, alarms=_late_alarms(attempt, learnt))
            if call.state is CallState.ENDED:
                return _after_its_end(call, attempt, learnt, now=now, pace=pace)
            return _told_of_acceptance(attempt, _of_attempt(call, attempt, learnt, now=now, pace=pace))
        case _:
            assert_never(learnt)


def _told_of_acceptance(before: Attempt, step: Step) -> Step:
    """Whatever it was that taught us the execution's id: it is told once, ahead of all else of that execution."""
    after = step.call.attempt(before.number)
    if before.execution_id is not None or after is None or after.execution_id is None:
        return step
    accepted = facts.provider_accepted(step.call, after, execution_id=after.execution_id)
    return replace(step, told=(accepted, *step.told))


def _of_attempt(
    call: Call, attempt: Attempt, learnt: Answered | Heard | LookedUp, *, now: datetime, pace: Pace
) -> Step:
    match learnt:
        case Answered():
            return _answered(call, attempt, learnt, now=now, pace=pace)
        case Heard(snapshot=snapshot):
            return _heard(call, attempt, snapshot, now=now, pace=pace)
        case LookedUp():
            return _looked_up(call, attempt, learnt, now=now, pace=pace)
        case _:
            assert_never(learnt)


def _after_its_end(
    call: Call, attempt: Attempt, learnt: Answered | Heard | LookedUp, *, now: datetime, pace: Pace
) -> Step:
    """The call was ended at its limit, its execution not yet: only the attempt goes on, and leaves its artifacts."""
    step = _of_attempt(call, attempt, learnt, now=now, pace=pace)
    seen = step.call.attempt(attempt.number) or attempt
    alarms = step.alarms
    if call.ended_reason == "outcome_unknown" and not seen.is_open and seen.result != "outcome_unknown":
        alarms = (*alarms, Alarm.LATE_NEWS)
    return Step(_with(call, seen), tuple(one for one in step.told if type_of(one).topic is CALL_ARTIFACTS), alarms)


def _begun(call: Call, begun: Begun) -> Step:
    attempt = Attempt(
        number=len(call.attempts) + 1,
        ref=begun.ref,
        provider=call.provider,
        agent_id=call.agent_id,
        state=AttemptState.ASKING,
        asked_at=begun.asked_at,
        look_up_at=begun.asking_until,
    )
    call = replace(call, state=CallState.OPEN, attempts=(*call.attempts, attempt))
    return Step(call, (facts.dialing(call, attempt),))


def _cancel_wanted(call: Call, at: datetime, *, now: datetime) -> Step:
    if call.state is CallState.ENDED:
        return Step(call)
    call = replace(call, cancel_requested_at=call.cancel_requested_at or at)
    if call.waits:
        return _ended(call, ends.canceled(now))
    attempt = call.attempts[-1]
    if look_times.is_to_be_hung_up(attempt):
        attempt = replace(attempt, look_up_at=min(now, attempt.look_up_at))
    return Step(_with(call, attempt))


def _given_up(call: Call, reason: str, *, now: datetime) -> Step:
    """Not dialed any more. One that had rung before, in vain, ends as it did then."""
    rung = [attempt for attempt in call.attempts if attempt.result in ends.RUNG_IN_VAIN]
    if not rung or reason not in ("expired", "provider_unavailable"):
        return _ended(call, End(status="failed", reason=reason, ended_at=now))
    result = rung[-1].result or reason
    return _ended(call, End(status=ends.RUNG_IN_VAIN[result], reason=result, ended_at=now))


def _on_next_route(call: Call) -> Call:
    """The next provider; after the last one the first again."""
    return replace(call, route=(call.route + 1) % len(call.routes))


def _answered(call: Call, attempt: Attempt, learnt: Answered, *, now: datetime, pace: Pace) -> Step:
    """Our own request's answer. Once the provider has spoken of the execution itself, a no is no longer believed."""
    match learnt.answer:
        case Accepted() as answer:
            return _accepted(call, attempt, answer, now=now, pace=pace)
        case Unknown():
            if attempt.state is not AttemptState.ASKING:
                return Step(call)
            soon = now + timedelta(seconds=min(pace.look_up_soon_sec, pace.look_up_every_sec))
            return Step(_with(call, replace(attempt, state=AttemptState.UNKNOWN, look_up_at=soon)))
        case Refused() | Throttled() | NotSent() if attempt.execution_id is not None:
            return Step(call, alarms=(Alarm.LATE_NEWS,))
        case Refused():
            return _refused(call, _closed(attempt, "refused", now), now=now)
        case Throttled(retry_after_sec):
            return _again(call, _closed(attempt, "throttled", now), retry_after_sec or 0.0, now=now, pace=pace)
        case NotSent():
            return _again(call, _closed(attempt, "not_sent", now), 0.0, now=now, pace=pace)
        case _:
            assert_never(learnt.answer)


def _accepted(call: Call, attempt: Attempt, answer: Accepted, *, now: datetime, pace: Pace) -> Step:
    """The answer to our own request is believed before a callback that came ahead of it with another id."""
    if attempt.execution_id == answer.execution_id:
        return Step(call)
    if attempt.execution_id is not None:
        told_before, attempt = attempt.execution_id, replace(attempt, execution_id=answer.execution_id)
        return _second_told_of(call, attempt, told_before, is_ours=True, now=now)
    attempt = _adopted(attempt, answer)
    next_look = look_times.next_look(call, attempt, now=now, pace=pace, is_new=True)
    return Step(_with(call, replace(attempt, look_up_at=next_look)))


def _refused(call: Call, attempt: Attempt, *, now: datetime) -> Step:
    """Nobody was rung: at once to the next provider, if there is one that was not asked yet."""
    call = _with(call, attempt)
    if call.cancel_requested_at is not None:
        return _ended(call, ends.canceled(now))
    if _may_turn_elsewhere(call):
        return Step(replace(_on_next_route(call), state=CallState.QUEUED, next_at=now))
    return _ended(call, End(status="failed", reason="provider_refused", ended_at=now, ended_by="provider"))


def _may_turn_elsewhere(call: Call) -> bool:
    """Whether a call of which its last attempt surely rang nobody has a provider that was not asked yet."""
    last = call.attempts[-1]
    return call.cancel_requested_at is None and last.started_at is None and call.route + 1 < len(call.routes)


def _again(call: Call, attempt: Attempt, at_least_sec: float, *, now: datetime, pace: Pace) -> Step:
    """Nobody was rung: back into the queue, under a new number, until `latest_at`. A pause after the last provider."""
    call = _with(call, attempt)
    if call.cancel_requested_at is not None:
        return _ended(call, ends.canceled(now))
    if attempt.number >= pace.attempts_limit:
        return _ended(call, End(status="failed", reason="provider_unavailable", ended_at=now, ended_by="provider"))
    call = _on_next_route(call)
    if call.route > 0:
        return Step(replace(call, state=CallState.QUEUED, next_at=now))
    pause_sec = pace.again_after_sec[min(attempt.number, len(pace.again_after_sec)) - 1]
    next_at = now + timedelta(seconds=max(pause_sec, at_least_sec))
    return Step(replace(call, state=CallState.QUEUED, next_at=next_at))


def _heard(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime, pace: Pace) -> Step:
    if attempt.execution_id not in (None, snapshot.execution_id, snapshot.carrier_id):
        return _second_told_of(call, attempt, snapshot.execution_id, is_ours=snapshot.ref == attempt.ref, now=now)
    was_nameless = attempt.execution_id is None
    attempt = _adopted(attempt, snapshot)
    if snapshot.is_last or (was_nameless and call.cancel_requested_at is not None):
        attempt = replace(attempt, look_up_at=min(now, attempt.look_up_at))
    if snapshot.is_last:
        return Step(_with(call, attempt))
    step = _advanced(call, attempt, snapshot, now=now)
    return replace(step, call=_in_time(step.call, attempt.number, pace=pace))


def _second_told_of(call: Call, attempt: Attempt, execution_id: str, *, is_ours: bool, now: datetime) -> Step:
    """Looked at once, so that it is stopped before it rings, if it still waits and does carry our reference."""
    if is_ours:
        attempt = replace(attempt, second_id=execution_id, look_up_at=min(now, attempt.look_up_at))
    return Step(_with(call, attempt), alarms=(Alarm.SECOND_EXECUTION,))


def _in_time(call: Call, number: int, *, pace: Pace) -> Call:
    """Since the answer is known, the time limit is: it is looked at no later than that."""
    attempt = call.attempt(number)
    if attempt is None or attempt.started_at is None or attempt.disconnected_at is not None:
        return call
    return _with(
        call, replace(attempt, look_up_at=min(attempt.look_up_at, look_times.hang_up_at(call, attempt, pace=pace)))
    )


def _looked_up(call: Call, attempt: Attempt, learnt: LookedUp, *, now: datetime, pace: Pace) -> Step:
    if attempt.state is AttemptState.ASKING:
        attempt = replace(attempt, state=AttemptState.UNKNOWN)
    attempt = _hung_up(attempt, learnt)
    is_newest = attempt.look_up_at == learnt.leased_until
    step = _seen(call, attempt, learnt, is_newest=is_newest, now=now, pace=pace)
    seen = step.call.attempt(attempt.number)
    if seen is None or not seen.is_open:
        return step
    if now >= look_times.latest_end(call, attempt, pace=pace):
        return _parked(step.call, seen, step, now=now)
    if call.state is not CallState.ENDED and now >= look_times.last_look(call, attempt, pace=pace):
        step = _at_its_limit(step, seen, learnt.look, now=now)
        seen = step.call.attempt(attempt.number) or seen
    if is_newest:
        is_new = attempt.execution_id is None
        seen = replace(seen, look_up_at=look_times.next_look(call, seen, now=now, pace=pace, is_new=is_new))
        step = replace(step, call=_with(step.call, seen))
    return step


def _seen(call: Call, attempt: Attempt, learnt: LookedUp, *, is_newest: bool, now: datetime, pace: Pace) -> Step:
    match learnt.look:
        case Found(snapshot, others):
            step = _found(call, attempt, snapshot, now=now)
            return replace(step, alarms=(*step.alarms, *(Alarm.SECOND_EXECUTION for _ in others)))
        case Missing():
            return _missing(call, attempt, is_newest=is_newest, now=now, pace=pace)
        case Unclear():
            return Step(_with(call, attempt))
        case _:
            assert_never(learnt.look)


def _hung_up(attempt: Attempt, learnt: LookedUp) -> Attempt:
    match learnt.hang_up:
        case Stopped():
            return replace(attempt, hang_up=HangUpState.DONE)
        case TooLate() if attempt.hang_up is None:
            return replace(attempt, hang_up=HangUpState.TOO_LATE)
        case TooLate() | Unclear() | None:
            return attempt
        case _:
            assert_never(learnt.hang_up)


def _found(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime) -> Step:
    is_another = attempt.execution_id is not None and snapshot.execution_id not in (
        attempt.execution_id,
        attempt.carrier_id,
    )
    if is_another or snapshot.ref not in (None, attempt.ref):
        return Step(_with(call, attempt), alarms=(Alarm.SECOND_EXECUTION,) if is_another else ())
    attempt = replace(_adopted(attempt, snapshot), empty_looks=0)
    if snapshot.is_last:
        return _ended_by_provider(call, attempt, snapshot, now=now)
    return _advanced(call, attempt, snapshot, now=now)


def _missing(call: Call, attempt: Attempt, *, is_newest: bool, now: datetime, pace: Pace) -> Step:
    """The provider has nothing of it. That proves little at once, and still not everything after the settling time."""
    attempt = replace(attempt, empty_looks=attempt.empty_looks + is_newest)
    settled = now - attempt.asked_at >= timedelta(seconds=pace.settle_unknown_sec)
    may_talk = attempt.started_at is not None and now < look_times.last_look(call, attempt, pace=pace)
    if not settled or may_talk or attempt.empty_looks < pace.empty_looks_enough:
        return Step(_with(call, attempt))
    return _parked(call, attempt, Step(call), now=now)


def _at_its_limit(step: Step, attempt: Attempt, look: LookUp, *, now: datetime) -> Step:
    """The call's time is over, and what was read back of it shows no end: it ends by what is known of it."""
    if not isinstance(look, Found) or look.snapshot.execution_id != attempt.execution_id:
        return step
    if look.snapshot.ref not in (None, attempt.ref):
        return step
    is_live = look.snapshot.phase is Phase.IN_PROGRESS
    if attempt.disconnected_at is not None and not is_live:
        end = ends.dropped(step.call, attempt, look.snapshot, dropped_at=attempt.disconnected_at, now=now)
    else:
        end = ends.talking(step.call, attempt, look.snapshot, now=now)
    told, alarms = step.told, step.alarms
    if end.reason == "outcome_unknown":
        alarms = (*alarms, Alarm.OUTCOME_UNKNOWN)
    elif is_live:
        alarms = (*alarms, Alarm.OVERRUN)
    if attempt.started_at is None and end.snapshot is not None and end.snapshot.talked_sec > 0:
        attempt = replace(attempt, started_at=facts.started_at(end.snapshot, attempt, ended=end.ended_at, now=now))
        told = (*told, facts.in_progress(step.call, attempt, started_at=attempt.started_at or end.ended_at))
    ended = _ended(_with(step.call, attempt), end)
    return replace(ended, told=(*told, *ended.told), alarms=alarms)


def _parked(call: Call, attempt: Attempt, step: Step, *, now: datetime) -> Step:
    """Nobody knows how it ended, or whether it ever will."""
    call = _with(call, _closed(attempt, "outcome_unknown", now))
    end = _ended(call, ends.unknown(now))
    return replace(end, told=(*step.told, *end.told), alarms=(*step.alarms, Alarm.OUTCOME_UNKNOWN))


def _advanced(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime) -> Step:
    """The execution goes on. A status that comes late moves nothing back."""
    told: list[EventData] = []
    at = facts.plausible(snapshot.updated_at, attempt, now=now)
    attempt = replace(attempt, provider_status=snapshot.status)
    if snapshot.phase is Phase.IN_PROGRESS:
        if attempt.started_at is None:
            started_at = min(at, attempt.disconnected_at or at)
            attempt = replace(_at_least(attempt, AttemptState.IN_PROGRESS), started_at=started_at)
            told.append(facts.in_progress(call, attempt, started_at=started_at))
        attempt, heard = _with_facts(call, attempt, snapshot, now=now)
        told += heard
    if snapshot.phase is Phase.DISCONNECTED and attempt.disconnected_at is None:
        attempt = replace(_at_least(attempt, AttemptState.DISCONNECTED), disconnected_at=at)
    return Step(_with(call, attempt), tuple(told))


def _ended_by_provider(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime) -> Step:
    """The end, with everything before it that never came: the answer, the facts; and what the call left behind."""
    status, reason = facts.status_of(snapshot, was_answered=attempt.started_at is not None)
    status, reason, ended_by = ends.by_us(call, attempt, snapshot, status, reason)
    ended_at = facts.ended_at(snapshot, attempt, now=now)
    started_at = facts.started_at(snapshot, attempt, ended=ended_at, now=now)
    ended_at = max(ended_at, started_at or ended_at)
    told: list[EventData] = []
    if started_at is not None and attempt.started_at is None:
        told.append(facts.in_progress(call, attempt, started_at=started_at))
    attempt = replace(attempt, started_at=started_at, provider_status=snapshot.status)
    attempt, heard = _with_facts(call, attempt, snapshot, now=now)
    call = _with(call, _closed(attempt, reason, ended_at))
    if next_at := _rung_again_at(call, status, now=now):
        again = facts.retry_scheduled(call, attempt, outcome=status, next_at=next_at)
        return Step(replace(call, state=CallState.QUEUED, next_at=next_at), (*told, *heard, again))
    if snapshot.phase is Phase.BALANCE_LOW and _may_turn_elsewhere(call):
        return Step(replace(_on_next_route(call), state=CallState.QUEUED, next_at=now), tuple(heard))
    end = End(status=status, reason=reason, ended_at=ended_at, ended_by=ended_by, snapshot=snapshot)
    step = _ended(call, end)
    return replace(step, told=(*told, *heard, *step.told))


def _rung_again_at(call: Call, status: str, *, now: datetime) -> datetime | None:
    """When the call is rung again, where the customer asked for that and there is time for it."""
    retry = call.request.retry
    if (
        retry is None
        or status not in retry.on
        or status not in ends.RUNG_IN_VAIN
        or call.cancel_requested_at is not None
    ):
        return None
    last = call.attempts[-1]
    rung = sum(attempt.may_have_rung for attempt in call.attempts)
    if last.started_at is not None or rung >= retry.max_attempts:
        return None
    next_at = now + timedelta(minutes=retry.intervals_min[min(rung, len(retry.intervals_min)) - 1])
    return next_at if next_at < call.request.latest_at else None


def _with_facts(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime) -> tuple[Attempt, list[EventData]]:
    """Each fact once, by its tool's id, and no more of them than a conversation can have."""
    new = {fact.tool_id: fact for fact in snapshot.facts if fact.tool_id not in attempt.told}
    new = dict(islice(new.items(), max(0, FACTS_LIMIT - len(attempt.told))))
    if not new:
        return attempt, []
    return replace(attempt, told=attempt.told.union(new)), facts.told(call, attempt, new.values(), now=now)


def _ended(call: Call, end: End) -> Step:
    """Exactly once: nothing folds into a call that has ended."""
    event = facts.ended(call, end)
    call = replace(call, state=CallState.ENDED, status=end.status, ended_reason=end.reason, ended_at=end.ended_at)
    return Step(call, (*facts.artifacts(call, end.snapshot), event))


def _closed(attempt: Attempt, result: str, at: datetime) -> Attempt:
    return replace(attempt, state=AttemptState.ENDED, result=result, ended_at=at)


def _adopted(attempt: Attempt, shown: Snapshot | Accepted) -> Attempt:
    carrier_id = (shown.carrier_id if isinstance(shown, Snapshot) else None) or attempt.carrier_id
    attempt = _at_least(attempt, AttemptState.ACCEPTED)
    if (attempt.execution_id, attempt.carrier_id) == (shown.execution_id, carrier_id):
        return attempt
    return replace(attempt, execution_id=shown.execution_id, carrier_id=carrier_id)


def _at_least(attempt: Attempt, state: AttemptState) -> Attempt:
    return replace(attempt, state=state) if state.rank > attempt.state.rank else attempt


def _with(call: Call, attempt: Attempt) -> Call:
    others: Sequence[Attempt] = [one for one in call.attempts if one.number != attempt.number]
    return replace(call, attempts=tuple(sorted((*others, attempt), key=lambda one: one.number)))


def _late_alarms(attempt: Attempt, learnt: Answered | Heard | LookedUp) -> tuple[Alarm, ...]:
    """News of an attempt that we had closed ourselves: perhaps somebody was rung after all."""
    if attempt.result not in NOT_BY_THE_PROVIDER:
        return ()
    match learnt:
        case Heard() | Answered(answer=Accepted()) | LookedUp(look=Found()):
            return (Alarm.LATE_NEWS,)
        case _:
            return ()
