"""What becomes of a call, whatever is learnt in whatever order."""

import itertools
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cualify_dialer.apply import Changes
from cualify_dialer.model import (
    Answered,
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
)
from cualify_dialer.outcomes import Alarm, Step, fold
from cualify_dialer.providers import (
    LAST_PHASES,
    Accepted,
    Found,
    HangUp,
    LookUp,
    Missing,
    NotSent,
    Phase,
    Refused,
    Snapshot,
    Stopped,
    Throttled,
    TooLate,
    ToolFact,
    Unclear,
    Unknown,
)
from cualify_shared.events import EventData, type_of
from cualify_shared.events.call import (
    CallCompleted,
    CallDisclosurePlayed,
    CallFailed,
    CallInProgress,
    CallProviderAccepted,
    CallRetryScheduled,
    Fallback,
    Retry,
    TranscriptTurn,
)
from tests.dialer.support import PACE, a_request, a_snapshot

T0 = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
REF = "boln_1"
TALKED = replace(
    a_snapshot(Phase.COMPLETED, ref=REF),
    talked_sec=Decimal("141.2"),
    cost_cents=7.25,
    updated_at=T0 + timedelta(seconds=200),
    transcript=(TranscriptTurn(role="agent", text="Namaste"),),
    recording_url="https://recordings.example/1",
    facts=(ToolFact(tool_id="tool_1", type="disclosure-played", at=T0 + timedelta(seconds=20)),),
    ended_by="agent",
    answered_by="human",
    intent="demo_booked",
)


def a_call() -> Call:
    return Call(request=a_request(requested_at=T0), state=CallState.QUEUED, next_at=T0)


def after(call: Call, *learnt: Learnt, now: datetime = T0 + timedelta(seconds=300)) -> tuple[Call, list[EventData]]:
    told: list[EventData] = []
    for one in learnt:
        step = fold(call, one, now=now, pace=PACE)
        call, told = step.call, told + list(step.told)
    return call, told


def names(told: list[EventData]) -> list[str]:
    return [type_of(one).name for one in told]


BEGUN = Begun(ref=REF, asked_at=T0, asking_until=T0 + timedelta(seconds=15))


def looked(seen: Snapshot | LookUp, *, leased: datetime = T0) -> LookedUp:
    return LookedUp(1, Found(seen) if isinstance(seen, Snapshot) else seen, leased)


@pytest.mark.parametrize(
    ("phase", "status", "reason"),
    [
        (Phase.NO_ANSWER, "no_answer", "no_answer"),
        (Phase.BUSY, "busy", "busy"),
        (Phase.FAILED, "failed", "carrier_failed"),
        (Phase.CANCELED, "canceled", "canceled"),
        (Phase.ERROR, "failed", "provider_error"),
        (Phase.BALANCE_LOW, "failed", "balance_low"),
        (Phase.COMPLETED, "failed", "no_conversation"),
    ],
)
def test_each_last_phase_without_talk_is_a_failed_call_with_its_own_reason(
    phase: Phase, status: str, reason: str
) -> None:
    call, told = after(a_call(), BEGUN, looked(a_snapshot(phase, ref=REF)))
    assert names(told) == ["call.dialing", "call.provider_accepted", "call.failed"]
    assert (call.state, call.status, call.ended_reason) == (CallState.ENDED, status, reason)
    assert call.attempts[0].state is AttemptState.ENDED


@pytest.mark.parametrize("phase", [Phase.BALANCE_LOW, Phase.ERROR])
def test_a_call_that_the_provider_could_not_make_was_ended_by_the_provider(phase: Phase) -> None:
    _, told = after(a_call(), BEGUN, looked(a_snapshot(phase, ref=REF)))
    failed = told[-1]
    assert isinstance(failed, CallFailed)
    assert failed.ended_by == "provider"


@pytest.mark.parametrize("phase", sorted(set(Phase) - LAST_PHASES))
def test_no_other_phase_ends_a_call(phase: Phase) -> None:
    call, _ = after(a_call(), BEGUN, Heard(1, a_snapshot(phase)), looked(a_snapshot(phase, ref=REF)))
    assert call.state is CallState.OPEN


@pytest.mark.parametrize(
    "source",
    [
        Answered(1, Accepted("ex-1")),
        Heard(1, a_snapshot(Phase.PENDING, ref=REF)),
        looked(a_snapshot(Phase.PENDING, ref=REF)),
    ],
    ids=["the answer", "a callback", "a look-up"],
)
def test_that_the_provider_has_it_is_told_once_by_whichever_says_so_first(source: Learnt) -> None:
    later: list[Learnt] = [
        Answered(1, Accepted("ex-1")),
        Heard(1, a_snapshot(Phase.IN_PROGRESS, ref=REF)),
        looked(TALKED),
    ]
    _, told = after(a_call(), BEGUN, source, *later)
    assert names(told)[:3] == ["call.dialing", "call.provider_accepted", "call.in_progress"]
    assert names(told).count("call.provider_accepted") == 1
    accepted = told[1]
    assert isinstance(accepted, CallProviderAccepted)
    assert (accepted.attempt, accepted.provider_call_id, accepted.provider_execution_id) == (1, REF, "ex-1")


def test_the_provider_had_a_call_before_it_was_talked_on_however_late_we_learnt_it() -> None:
    call, told = after(a_call(), BEGUN, looked(TALKED))
    accepted = told[1]
    assert isinstance(accepted, CallProviderAccepted)
    assert accepted.accepted_at == call.attempts[0].started_at


def test_a_completed_call_is_told_whole() -> None:
    call, told = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), looked(TALKED))
    assert names(told) == [
        "call.dialing",
        "call.provider_accepted",
        "call.in_progress",
        "call.disclosure_played",
        "call.transcript_ready",
        "call.recording_ready",
        "call.completed",
    ]
    end = told[-1]
    assert isinstance(end, CallCompleted)
    assert end.duration_sec == 142, "a begun second is a second"
    assert end.provider_cost_cents == 7.25
    assert end.artifacts == ("transcript", "recording")
    assert (end.ended_by, end.answered_by, end.llm_extracted_intent) == ("agent", "human", "demo_booked")
    assert end.terms == call.request.terms
    assert end.started_at is not None
    assert (end.ended_at - end.started_at) == timedelta(seconds=141.2)


def test_completed_with_no_talk_is_completed_where_the_callee_was_seen_to_answer() -> None:
    silent = a_snapshot(Phase.COMPLETED, ref=REF)
    _, told = after(a_call(), BEGUN, Heard(1, a_snapshot(Phase.IN_PROGRESS)), looked(silent))
    assert isinstance(told[-1], CallCompleted)
    assert told[-1].duration_sec == 0


@pytest.mark.parametrize("phase", sorted(LAST_PHASES))
def test_a_last_status_in_a_callback_only_makes_the_look_up_due(phase: Phase) -> None:
    now = T0 + timedelta(seconds=5)
    call, told = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), Heard(1, a_snapshot(phase)), now=now)
    assert names(told) == ["call.dialing", "call.provider_accepted"]
    assert call.attempts[0].look_up_at == now


def test_a_look_that_was_overtaken_by_a_hint_leaves_the_look_up_due() -> None:
    lease = T0 + timedelta(minutes=2)
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")))
    call = replace(call, attempts=(replace(call.attempts[0], look_up_at=lease),))
    now = T0 + timedelta(seconds=50)
    call, _ = after(call, Heard(1, a_snapshot(Phase.BUSY)), looked(a_snapshot(ref=REF), leased=lease), now=now)
    assert call.attempts[0].look_up_at == now


LIFE: list[Learnt] = [
    Answered(1, Accepted("ex-1")),
    Heard(1, a_snapshot(Phase.PENDING, ref=REF)),
    Heard(1, a_snapshot(Phase.IN_PROGRESS, ref=REF)),
    Heard(1, a_snapshot(Phase.DISCONNECTED, ref=REF)),
    Heard(1, TALKED),
    looked(TALKED),
]


def test_in_any_order_and_repeated_a_call_goes_forward_and_ends_once() -> None:
    for order in itertools.permutations(LIFE):
        call, rank = a_call(), -1
        told: list[str] = []
        for learnt in [BEGUN, *order, *order]:
            step = fold(call, learnt, now=T0 + timedelta(seconds=300), pace=PACE)
            call, told = step.call, told + names(list(step.told))
            assert call.attempts[0].state.rank >= rank
            assert not step.alarms
            rank = call.attempts[0].state.rank
        assert max(Counter(told).values()) == 1
        assert told[-1] == "call.completed"


@pytest.mark.parametrize("answer", [Throttled(7.0), NotSent("refused")])
def test_where_nobody_was_rung_the_call_waits_for_another_attempt(answer: Throttled | NotSent) -> None:
    call, told = after(a_call(), BEGUN, Answered(1, answer), now=T0)
    assert names(told) == ["call.dialing"]
    assert call.waits
    assert call.next_at == T0 + timedelta(seconds=7 if isinstance(answer, Throttled) else 1)
    call, told = after(call, replace(BEGUN, ref="boln_1_2"))
    assert [attempt.number for attempt in call.attempts] == [1, 2]


def test_a_refusal_ends_the_call() -> None:
    call, told = after(a_call(), BEGUN, Answered(1, Refused("400")))
    assert isinstance(told[-1], CallFailed)
    assert call.ended_reason == "provider_refused"


def test_an_unknown_answer_is_looked_up_soon_and_never_queued_again() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Unknown("TimeoutError")), now=T0)
    assert call.state is CallState.OPEN
    assert call.attempts[0].state is AttemptState.UNKNOWN
    assert call.attempts[0].look_up_at == T0 + timedelta(seconds=1)


def test_a_callback_settles_an_unknown_attempt() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Unknown("500")), Heard(1, a_snapshot(Phase.PENDING, ref=REF)))
    assert (call.attempts[0].state, call.attempts[0].execution_id) == (AttemptState.ACCEPTED, "ex-1")


@pytest.mark.parametrize("answer", [Refused("400"), Throttled(None), NotSent("dns")])
def test_a_no_is_not_believed_once_the_provider_has_spoken_of_the_call(answer: Refused | Throttled | NotSent) -> None:
    call, _ = after(a_call(), BEGUN, Heard(1, a_snapshot(Phase.PENDING, ref=REF)))
    step = fold(call, Answered(1, answer), now=T0, pace=PACE)
    assert (step.call, step.alarms) == (call, (Alarm.LATE_NEWS,))


def test_an_attempt_is_parked_only_after_the_settling_time_and_three_complete_empty_looks() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Unknown("500")), now=T0)
    looks: list[tuple[int, LookUp]] = [(14, Missing()), (15, Unclear("503")), (16, Missing()), (17, Missing())]
    for minutes, look in looks:
        leased = call.attempts[0].look_up_at
        step = fold(call, looked(look, leased=leased), now=T0 + timedelta(minutes=minutes), pace=PACE)
        call = step.call
        assert (call.state is CallState.ENDED) is (minutes == 17)
    assert (call.status, call.ended_reason, step.alarms) == ("failed", "outcome_unknown", (Alarm.OUTCOME_UNKNOWN,))
    late = fold(call, Heard(1, a_snapshot(Phase.IN_PROGRESS, ref=REF)), now=T0, pace=PACE)
    assert (late.call, late.told, late.alarms) == (call, (), (Alarm.LATE_NEWS,))


@pytest.mark.parametrize("phase", [Phase.IN_PROGRESS, Phase.DISCONNECTED])
def test_a_call_that_is_talked_on_is_not_parked_because_the_provider_forgot_it(phase: Phase) -> None:
    """Its number would be free, and the phone rung while it is talked on."""
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), now=T0)
    terms = call.request.terms.model_copy(update={"max_duration_sec": 3600})
    call = replace(call, request=call.request.model_copy(update={"terms": terms}))
    call, _ = after(call, Heard(1, shown(Phase.IN_PROGRESS, 40)), Heard(1, shown(phase, 1000)), now=T0)
    for sec in (1200, 1230, 1260, 1290, 3654):
        call = seen_at(call, sec, Missing()).call
        assert (call.state, call.holds_its_number) == (CallState.OPEN, True)
    found = seen_at(call, 1300, replace(TALKED, updated_at=T0 + timedelta(seconds=1295))).call
    assert found.status == "completed"
    assert seen_at(call, 3655, Missing()).call.ended_reason == "outcome_unknown"


def test_a_second_execution_is_an_alarm_and_the_first_is_kept() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")))
    step = fold(call, Heard(1, a_snapshot(Phase.BUSY, execution_id="ex-2")), now=T0, pace=PACE)
    assert (step.call, step.alarms) == (call, (Alarm.SECOND_EXECUTION,))
    found = fold(call, looked(Found(a_snapshot(ref=REF), ("ex-2",))), now=T0, pace=PACE)
    assert found.alarms == (Alarm.SECOND_EXECUTION,)


def test_the_answer_to_our_request_is_believed_before_a_callback_with_another_id() -> None:
    """A forged callback may be here first. What it named is looked at, and stopped only if it is read back as ours."""
    forged = a_snapshot(Phase.IN_PROGRESS, ref=REF, execution_id="somebody's")
    call, _ = after(a_call(), BEGUN, Heard(1, forged), now=T0)
    step = fold(call, Answered(1, Accepted("ex-1")), now=T0, pace=PACE)
    attempt = step.call.attempts[0]
    assert (attempt.execution_id, attempt.second_id, attempt.look_up_at) == ("ex-1", "somebody's", T0)
    assert step.alarms == (Alarm.SECOND_EXECUTION,)
    call, told = after(step.call, looked(TALKED))
    assert (call.status, call.attempts[0].execution_id) == ("completed", "ex-1")
    assert isinstance(told[-1], CallCompleted)


def test_no_call_ends_at_its_limit_by_what_another_call_shows() -> None:
    call, _ = after(a_call(), BEGUN, Heard(1, shown(Phase.IN_PROGRESS, 40)), now=T0 + timedelta(seconds=41))
    step = seen_at(call, 355, shown(Phase.IN_PROGRESS, 40, ref="boln_another", talked_sec=Decimal(300)))
    assert (step.call.state, step.told) == (CallState.OPEN, ())


def test_a_call_found_by_its_own_id_and_heard_of_by_its_requests_is_one_execution() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Unknown("504")), looked(a_snapshot(execution_id="call-1")), now=T0)
    heard = replace(a_snapshot(Phase.BUSY, execution_id="request-1"), carrier_id="call-1")
    step = fold(call, Heard(1, heard), now=T0 + timedelta(seconds=9), pace=PACE)
    assert step.alarms == ()
    attempt = step.call.attempts[0]
    assert (attempt.execution_id, attempt.carrier_id, attempt.look_up_at) == (
        "request-1",
        "call-1",
        T0 + timedelta(seconds=1),
    )
    late = fold(step.call, looked(a_snapshot(Phase.BUSY, execution_id="call-1")), now=T0, pace=PACE)
    assert (late.call.status, late.alarms) == ("busy", ())


def test_another_calls_execution_changes_nothing() -> None:
    call, _ = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")))
    unchanged, told = after(call, looked(replace(TALKED, ref="boln_another")))
    assert (unchanged, told) == (call, [])


def test_a_canceled_call_that_waits_ends_at_once_and_is_never_begun() -> None:
    call, told = after(a_call(), CancelWanted(T0), CancelWanted(T0), BEGUN)
    assert names(told) == ["call.failed"]
    assert (call.status, call.ended_reason, call.attempts) == ("canceled", "canceled", ())


def test_an_open_call_that_is_canceled_is_marked_and_not_dialed_again() -> None:
    call, told = after(a_call(), BEGUN, CancelWanted(T0))
    assert (call.state, call.cancel_requested_at, names(told)) == (CallState.OPEN, T0, ["call.dialing"])
    call, _ = after(call, Answered(1, Throttled(None)))
    assert call.status == "canceled"


def test_a_call_given_up_by_the_gate_fails_with_its_reason() -> None:
    call, told = after(a_call(), GivenUp("expired"))
    assert (call.status, call.ended_reason, names(told)) == ("failed", "expired", ["call.failed"])


def test_a_time_that_can_not_be_true_is_replaced_by_ours() -> None:
    now = T0 + timedelta(seconds=30)
    ancient = replace(a_snapshot(Phase.IN_PROGRESS), updated_at=T0 - timedelta(days=1))
    _, told = after(a_call(), BEGUN, Heard(1, ancient), now=now)
    assert isinstance(told[-1], CallInProgress)
    assert told[-1].started_at == now


@pytest.mark.parametrize("wrong_by_hours", [5.5, -5.5])
def test_a_provider_whose_dialing_time_can_not_be_true_leaves_the_talking_time_whole(wrong_by_hours: float) -> None:
    wrong = replace(TALKED, initiated_at=T0 + timedelta(hours=wrong_by_hours), created_at=None)
    _, told = after(a_call(), BEGUN, Answered(1, Accepted("ex-1")), looked(wrong))
    end = told[-1]
    assert isinstance(end, CallCompleted)
    assert end.started_at is not None
    assert (end.ended_at - end.started_at) == timedelta(seconds=141.2)


def test_a_fact_at_a_time_that_can_not_be_true_is_told_with_ours() -> None:
    now = T0 + timedelta(seconds=30)
    facts = tuple(
        ToolFact(tool_id=f"tool_{n}", type="disclosure-played", at=at)
        for n, at in enumerate([datetime.min.replace(tzinfo=UTC), T0 + timedelta(days=365), T0 + timedelta(seconds=9)])
    )
    seen = replace(a_snapshot(Phase.IN_PROGRESS, ref=REF), facts=facts)
    _, told = after(a_call(), BEGUN, Heard(1, seen), now=now)
    at = [event.at for event in told if isinstance(event, CallDisclosurePlayed)]
    assert at == [T0 + timedelta(seconds=9), now, now]


def test_an_attempt_tells_a_limited_number_of_facts_however_many_callbacks_come() -> None:
    facts = [ToolFact(tool_id=f"tool_{n}", type="disclosure-played", at=T0) for n in range(1000)]
    heard = [
        Heard(1, replace(a_snapshot(Phase.IN_PROGRESS, ref=REF), facts=tuple(facts[n : n + 90])))
        for n in range(0, 1000, 90)
    ]
    call, told = after(a_call(), BEGUN, *heard, *heard)
    assert names(told).count("call.disclosure_played") == len(call.attempts[0].told) == 200
    assert after(call, looked(TALKED))[0].status == "completed"


LATE = T0 + timedelta(seconds=361)
"""A second after the time limit of a call whose callee has not been seen to answer."""


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


def shown(phase: Phase, at_sec: float, **more: object) -> Snapshot:
    return replace(a_snapshot(phase, ref=REF), updated_at=T0 + timedelta(seconds=at_sec), **more)  # type: ignore[arg-type]


def seen_at(call: Call, sec: float, seen: Snapshot | LookUp) -> Step:
    """The look that is due, at that time."""
    return fold(call, looked(seen, leased=call.attempts[0].look_up_at), now=T0 + timedelta(seconds=sec), pace=PACE)


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


def test_only_what_frees_a_line_or_a_number_or_queues_a_call_again_makes_room() -> None:
    def makes_room(call: Call, *learnt: Learnt) -> bool:
        changed, _ = after(call, *learnt)
        return Changes({call.call_id: call}, {call.call_id: changed}).makes_room

    asked, _ = after(a_call(), BEGUN)
    taken, _ = after(asked, Answered(1, Accepted("ex-1")))
    assert not makes_room(asked, Answered(1, Accepted("ex-1")))
    assert not makes_room(asked, Answered(1, Unknown("TimeoutError")))
    assert not makes_room(taken, looked(a_snapshot(Phase.IN_PROGRESS, ref=REF)))
    assert makes_room(asked, Answered(1, Throttled(None)))
    assert makes_room(asked, Answered(1, Refused("400")))
    assert makes_room(taken, looked(a_snapshot(Phase.DISCONNECTED, ref=REF)))
    assert makes_room(taken, looked(TALKED))


def a_persistent_call(**retry: object) -> Call:
    policy = Retry.model_validate({"max_attempts": 3, "on": ["busy", "no_answer"], "intervals_min": [5, 20], **retry})
    call = a_call()
    return replace(call, request=call.request.model_copy(update={"retry": policy}))


def test_a_busy_call_is_rung_again_only_if_asked_for_and_ends_once_at_the_very_end() -> None:
    call, told = a_persistent_call(), []
    for number, (minutes, phase) in enumerate([(5, Phase.BUSY), (20, Phase.NO_ANSWER), (0, Phase.BUSY)], start=1):
        begun = replace(BEGUN, ref=f"boln_{number}")
        seen = a_snapshot(phase, ref=begun.ref, execution_id=f"ex-{number}")
        call, new = after(call, begun, LookedUp(number, Found(seen), T0), now=T0)
        told += new
        assert call.waits is (number < 3)
        assert number == 3 or call.next_at == T0 + timedelta(minutes=minutes)
    rung = ["call.dialing", "call.provider_accepted"]
    assert names(told) == [*rung, "call.retry_scheduled", *rung, "call.retry_scheduled", *rung, "call.failed"]
    again = [fact for fact in told if isinstance(fact, CallRetryScheduled)]
    assert [(fact.attempt, fact.outcome, fact.next_at - T0) for fact in again] == [
        (1, "busy", timedelta(minutes=5)),
        (2, "no_answer", timedelta(minutes=20)),
    ]
    assert isinstance(told[-1], CallFailed)
    assert (call.status, told[-1].attempts) == ("busy", 3)


@pytest.mark.parametrize(
    ("retry", "phase", "status"),
    [
        ({"on": ["no_answer"]}, Phase.BUSY, "busy"),
        ({"max_attempts": 1}, Phase.BUSY, "busy"),
        ({"intervals_min": [120]}, Phase.BUSY, "busy"),
        ({}, Phase.FAILED, "failed"),
    ],
)
def test_a_call_is_not_rung_again_for_another_reason_too_often_or_too_late(
    retry: dict[str, object], phase: Phase, status: str
) -> None:
    call, _ = after(a_persistent_call(**retry), BEGUN, looked(a_snapshot(phase, ref=REF)), now=T0)
    assert call.status == status


def test_a_call_that_waits_to_be_rung_again_ends_as_it_rang_last_or_canceled() -> None:
    waiting, _ = after(a_persistent_call(), BEGUN, looked(a_snapshot(Phase.BUSY, ref=REF)), now=T0)
    assert after(waiting, GivenUp("expired"))[0].status == "busy"
    assert after(waiting, CancelWanted(T0))[0].status == "canceled"


def test_a_provider_without_balance_has_rung_nobody_and_the_next_one_is_asked() -> None:
    call = a_call()
    fallback = (Fallback(provider="exotel", provider_agent_id="7"),)
    call = replace(call, request=call.request.model_copy(update={"fallback_providers": fallback}))
    poor = looked(replace(a_snapshot(Phase.BALANCE_LOW, ref=REF)))
    waiting, told = after(call, BEGUN, poor)
    assert (waiting.waits, waiting.provider, names(told)) == (
        True,
        "exotel",
        ["call.dialing", "call.provider_accepted"],
    )
    assert after(call, BEGUN, CancelWanted(T0), poor)[0].status == "failed"
    ended, _ = after(waiting, replace(BEGUN, ref="exo_2"), LookedUp(2, Found(a_snapshot(Phase.BALANCE_LOW)), T0))
    assert ended.ended_reason == "balance_low", "and nobody else is left"


def test_an_attempt_that_was_not_rung_is_not_one_of_those_that_were_asked_for() -> None:
    call, _ = after(a_persistent_call(max_attempts=2), BEGUN, Answered(1, Throttled(None)), now=T0)
    call, _ = after(call, replace(BEGUN, ref="boln_2"), now=T0)
    call, _ = after(call, LookedUp(2, Found(a_snapshot(Phase.BUSY, ref="boln_2")), T0), now=T0)
    assert call.waits
