"""How a call is hung up: because it was canceled, or because its time is over. And what its limit makes of it."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from cualify_dialer.model import (
    Answered,
    CallState,
    CancelWanted,
    HangUpState,
    Heard,
    LookedUp,
)
from cualify_dialer.outcomes import Alarm, fold
from cualify_dialer.providers import (
    Accepted,
    Found,
    HangUp,
    LookUp,
    Missing,
    Phase,
    Snapshot,
    Stopped,
    TooLate,
    Unclear,
    Unknown,
)
from cualify_shared.events.call import (
    CallCompleted,
    CallFailed,
)
from tests.dialer.histories import BEGUN, REF, T0, TALKED, a_call, after, looked, names, seen_at, shown
from tests.dialer.support import PACE, a_snapshot

LATE = T0 + timedelta(seconds=361)


def hung_up(seen: Snapshot, hang_up: HangUp | None = None) -> LookedUp:
    return LookedUp(1, Found(seen), T0, hang_up or Stopped())


def test_a_canceled_open_call_is_looked_up_at_once_and_ends_canceled_where_nobody_was_spoken_to() -> None:
    now = T0 + timedelta(seconds=20)
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), CancelWanted(T0), now=now)
    assert call.attempts[0].look_up_at == now
    call, told = after(call, hung_up(a_snapshot(Phase.CANCELED, ref=REF)), now=now)
    assert isinstance(told[-1], CallFailed)
    assert (call.status, call.ended_reason, told[-1].ended_by) == ("canceled", "canceled", "customer")


def test_a_cancellation_before_the_answer_takes_effect_with_it() -> None:
    call, _ = after(a_call(), BEGUN, CancelWanted(T0), now=T0)
    assert call.attempts[0].look_up_at == BEGUN.asking_until, "while we ask there is nothing to end"
    for late in (timedelta(), timedelta(seconds=90)):
        accepted, _ = after(call, Answered(1, Accepted("ex-1")), now=T0 + late)
        assert accepted.attempts[0].look_up_at == T0 + late + timedelta(seconds=1)
    searched, _ = after(call, Answered(1, Unknown("504")), now=T0 + timedelta(seconds=90))
    found = seen_at(searched, 91, a_snapshot(Phase.PENDING, ref=REF)).call
    assert found.attempts[0].look_up_at == T0 + timedelta(seconds=92), "as soon as it is known what is to be ended"


def test_a_conversation_that_we_ended_is_billed_as_far_as_it_went() -> None:
    _, told = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), CancelWanted(T0), hung_up(TALKED))
    end = told[-1]
    assert isinstance(end, CallCompleted)
    assert (end.duration_sec, end.ended_reason, end.ended_by) == (142, "canceled", "customer")


def test_a_call_that_can_not_be_hung_up_any_more_ends_as_it_ends_and_is_not_asked_again() -> None:
    live = a_snapshot(Phase.IN_PROGRESS, ref=REF)
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), CancelWanted(T0), hung_up(live, TooLate()))
    assert call.attempts[0].hang_up is HangUpState.TOO_LATE
    call, told = after(call, looked(TALKED))
    assert isinstance(told[-1], CallCompleted)
    assert (told[-1].ended_reason, told[-1].ended_by) == ("completed", "agent")


def test_a_canceled_call_whose_line_has_dropped_is_not_asked_about_more_often_than_any_other() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), now=T0)
    call, _ = after(call, Heard(1, shown(Phase.DISCONNECTED, 20)), now=T0 + timedelta(seconds=21))
    call = fold(call, CancelWanted(T0 + timedelta(seconds=22)), now=T0 + timedelta(seconds=22), pace=PACE).call
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=30), "there is no line to hang up"
    call = seen_at(call, 30, shown(Phase.DISCONNECTED, 20)).call
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=60)


def test_a_hang_up_that_the_provider_does_not_answer_is_tried_again_ever_more_rarely() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), CancelWanted(T0), now=T0)
    looks: list[float] = []
    while (sec := (call.attempts[0].look_up_at - T0).total_seconds()) < 200:
        looks.append(sec)
        call = fold(
            call,
            LookedUp(1, Found(shown(Phase.IN_PROGRESS, 5)), call.attempts[0].look_up_at, Unclear("503")),
            now=call.attempts[0].look_up_at,
            pace=PACE,
        ).call
    assert looks[:3] == [0, 1, 2]
    assert 10 < len(looks) < 20
    assert looks[-1] - looks[-2] == PACE.look_up_every_sec


def test_a_call_is_looked_at_when_its_time_is_over_and_ended_by_the_platform() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), now=T0 + timedelta(seconds=330))
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=345), "max_duration_sec and most of a minute"
    answered = replace(a_snapshot(Phase.IN_PROGRESS, ref=REF), updated_at=T0 + timedelta(seconds=40))
    call, _ = after(call, looked(answered, leased=call.attempts[0].look_up_at), now=T0 + timedelta(seconds=335))
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=340), "as soon as the answer is known, its own time"
    call, told = after(call, hung_up(TALKED), now=LATE)
    assert isinstance(told[-1], CallCompleted)
    assert (told[-1].ended_reason, told[-1].ended_by) == ("time_limit", "platform")


def test_what_still_waits_at_the_provider_after_its_time_is_stopped_and_expired() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")))
    call, told = after(call, hung_up(a_snapshot(Phase.CANCELED, ref=REF)), now=LATE)
    assert isinstance(told[-1], CallFailed)
    assert (call.status, call.ended_reason, told[-1].ended_by) == ("failed", "expired", "platform")


ACCEPTED = (BEGUN, Answered(1, Accepted("ex-1")))


def test_without_any_callback_the_looks_reach_each_limit_of_a_call_that_never_ends() -> None:
    call, _ = after(a_call(), *ACCEPTED, now=T0)
    looks: list[float] = []
    for _ in range(30):
        looks.append((call.attempts[0].look_up_at - T0).total_seconds())
        look = shown(Phase.IN_PROGRESS, 40) if looks[-1] >= 60 else shown(Phase.PENDING, 5)
        call = seen_at(call, looks[-1], look).call
        if call.state is CallState.ENDED:
            break
    assert looks == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330, 340, 355], "340: it has talked for 300 s"


def test_a_conversation_that_is_live_at_its_limit_is_completed_and_costs_what_its_limit_allows() -> None:
    call, _ = after(a_call(), *ACCEPTED, looked(shown(Phase.IN_PROGRESS, 40)), now=T0 + timedelta(seconds=60))
    live = shown(Phase.IN_PROGRESS, 40, talked_sec=Decimal(9999))
    assert seen_at(call, 354, live).call.state is CallState.OPEN
    step = seen_at(call, 355, live)
    (end,) = step.told
    assert isinstance(end, CallCompleted)
    assert (end.duration_sec, end.ended_reason, end.ended_by) == (300, "time_limit", "platform")
    assert (end.ended_at, step.alarms) == (T0 + timedelta(seconds=340), (Alarm.OVERRUN,))


def test_a_conversation_that_began_late_costs_no_more_than_it_had() -> None:
    call, _ = after(a_call(), *ACCEPTED, looked(shown(Phase.IN_PROGRESS, 100)), now=T0 + timedelta(seconds=120))
    (end,) = seen_at(call, 355, shown(Phase.IN_PROGRESS, 100)).told
    assert isinstance(end, CallCompleted)
    assert end.duration_sec == 255


def test_a_line_that_dropped_is_completed_at_its_limit_and_leaves_its_artifacts_when_the_provider_is_done() -> None:
    call, _ = after(a_call(), *ACCEPTED, looked(shown(Phase.IN_PROGRESS, 8)), now=T0 + timedelta(seconds=30))
    dropped = shown(Phase.DISCONNECTED, 68, transcript=TALKED.transcript)
    call, _ = after(call, looked(dropped), now=T0 + timedelta(seconds=90))
    step = seen_at(call, 355, dropped)
    (end,) = step.told
    assert isinstance(end, CallCompleted)
    assert (end.duration_sec, end.ended_reason, end.ended_at) == (60, "completed", T0 + timedelta(seconds=68))
    assert (end.artifacts, step.alarms) == ((), ()), "what was said is told once it is whole"
    step = seen_at(step.call, 848, replace(TALKED, talked_sec=Decimal(60)))
    assert names(list(step.told)) == ["call.transcript_ready", "call.recording_ready"]
    assert (step.call.attempts[0].is_open, step.alarms) == (False, ())
    assert (step.call.status, step.call.ended_at) == ("completed", T0 + timedelta(seconds=68)), "and ends once"


def test_a_line_of_which_a_callback_said_that_it_dropped_is_live_where_it_is_read_back_as_live() -> None:
    call, _ = after(a_call(), *ACCEPTED, looked(shown(Phase.IN_PROGRESS, 8)), now=T0 + timedelta(seconds=30))
    call, _ = after(call, Heard(1, shown(Phase.DISCONNECTED, 40)), now=T0 + timedelta(seconds=41))
    step = seen_at(call, 355, shown(Phase.IN_PROGRESS, 8))
    (end,) = step.told
    assert isinstance(end, CallCompleted)
    assert (end.duration_sec, end.ended_reason, step.alarms) == (300, "time_limit", (Alarm.OVERRUN,))


def test_a_line_that_dropped_before_anybody_was_seen_to_answer_is_completed_only_with_talking_time() -> None:
    call, _ = after(a_call(), *ACCEPTED, now=T0)
    talked = seen_at(call, 355, shown(Phase.DISCONNECTED, 300, talked_sec=Decimal("59.2")))
    assert names(list(talked.told)) == ["call.in_progress", "call.completed"]
    assert (talked.call.status, talked.call.attempts[0].started_at) == ("completed", T0 + timedelta(seconds=240.8))
    silent = seen_at(call, 355, shown(Phase.DISCONNECTED, 300))
    assert (silent.call.ended_reason, silent.alarms) == ("outcome_unknown", (Alarm.OUTCOME_UNKNOWN,))


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.UNHEARD_OF])
@pytest.mark.parametrize("answered", [False, True])
def test_what_shows_no_conversation_at_its_limit_ends_unknown_and_costs_nothing(phase: Phase, answered: bool) -> None:
    call, _ = after(a_call(), *ACCEPTED, now=T0)
    if answered:
        call, _ = after(call, Heard(1, shown(Phase.IN_PROGRESS, 40)), now=T0 + timedelta(seconds=41))
    step = seen_at(call, 355, shown(phase, 50))
    assert isinstance(step.told[-1], CallFailed)
    assert (step.told[-1].ended_reason, step.told[-1].duration_sec) == ("outcome_unknown", 0)
    assert step.alarms == (Alarm.OUTCOME_UNKNOWN,)
    late = seen_at(step.call, 400, replace(TALKED, updated_at=T0 + timedelta(seconds=390)))
    assert late.alarms == (Alarm.LATE_NEWS,)
    assert names(list(late.told)) == ["call.transcript_ready", "call.recording_ready"]


def test_after_the_calls_end_its_line_and_number_stay_taken_until_the_provider_ends_it() -> None:
    call, _ = after(a_call(), *ACCEPTED, looked(shown(Phase.IN_PROGRESS, 40)), now=T0 + timedelta(seconds=60))
    call = seen_at(call, 355, shown(Phase.IN_PROGRESS, 40)).call
    assert (call.state, call.holds_its_number) == (CallState.ENDED, True)
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=385), "and is looked at as before"
    heard = fold(call, Heard(1, shown(Phase.COMPLETED, 370)), now=T0 + timedelta(seconds=371), pace=PACE)
    assert heard.call.attempts[0].look_up_at == T0 + timedelta(seconds=371), "at once, when its end is hinted at"
    later = seen_at(heard.call, 372, shown(Phase.IN_PROGRESS, 40, facts=TALKED.facts))
    assert (later.told, later.alarms, later.call.holds_its_number) == ((), (), True)
    step = seen_at(later.call, 402, shown(Phase.BUSY, 400))
    assert (step.told, step.alarms, step.call.holds_its_number) == ((), (), False)
    assert (step.call.state, step.call.status) == (CallState.ENDED, "completed")
    given_up = seen_at(later.call, 3960, shown(Phase.IN_PROGRESS, 40))
    assert (given_up.told, given_up.call.holds_its_number) == ((), False)
    assert given_up.alarms == (Alarm.OUTCOME_UNKNOWN,)


@pytest.mark.parametrize("look", [Unclear("503"), Missing()])
def test_what_can_not_be_read_back_does_not_end_at_its_limit_but_is_parked_long_after_it(look: LookUp) -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), now=T0)
    before = fold(call, looked(look), now=T0 + timedelta(seconds=3959), pace=replace(PACE, settle_unknown_sec=1e6))
    assert before.call.state is CallState.OPEN
    last = fold(call, looked(look), now=T0 + timedelta(seconds=3960), pace=replace(PACE, settle_unknown_sec=1e6))
    assert (last.call.ended_reason, last.alarms) == ("outcome_unknown", (Alarm.OUTCOME_UNKNOWN,))
    assert names(list(last.told))[-1] == "call.failed"
    assert not last.call.holds_its_number
