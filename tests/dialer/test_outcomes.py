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
    Call,
    CallState,
    CancelWanted,
    GivenUp,
    Heard,
    Learnt,
)
from cualify_dialer.outcomes import Alarm, fold
from cualify_dialer.providers import (
    LAST_PHASES,
    Accepted,
    Found,
    LookUp,
    Missing,
    NotSent,
    Phase,
    Refused,
    Throttled,
    ToolFact,
    Unclear,
    Unknown,
)
from cualify_shared.events.call import (
    CallCompleted,
    CallDisclosurePlayed,
    CallFailed,
    CallInProgress,
    CallProviderAccepted,
)
from tests.dialer.histories import BEGUN, REF, T0, TALKED, a_call, after, looked, names, seen_at, shown
from tests.dialer.support import PACE, a_snapshot


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


"""A second after the time limit of a call whose callee has not been seen to answer."""


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
