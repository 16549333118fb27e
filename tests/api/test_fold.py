"""The fold alone: in whatever order facts come, and however often, the call ends the same."""

from dataclasses import replace
from datetime import timedelta
from typing import cast
from uuid import UUID

from hypothesis import given, settings, strategies

from cualify_api.calls.call import Call
from cualify_api.calls.fold import Fact, Folded, fold, told_late
from cualify_shared.events.call import CallCompleted, CallRetryScheduled
from cualify_shared.ids import new_id
from tests.api.world import AT, Org, debited, left_behind, life

ORG = Org(new_id(), str(new_id()), "")
CALL = Call(
    id=new_id(),
    org_id=ORG.id,
    agent_id=UUID(ORG.agent_id),
    status="queued",
    from_e164=None,
    to_e164="+919812345678",
    language="hi-IN",
    metadata={},
    external_id=None,
    key_prefix="abc12345",
    request_id="req_1",
    created_at=AT,
    earliest_at=None,
    latest_at=AT + timedelta(minutes=15),
    rate_paise_per_sec=10,
    pulse_sec=1,
    max_duration_sec=300,
    hold_paise=3000,
    provider="bolna",
    provider_call_id="boln_x",
)
FACTS = [
    cast("Fact", event.data) for event in [*life(ORG, CALL.id), *left_behind(ORG, CALL.id), debited(ORG, CALL.id, 1420)]
]


def folded(facts: list[Fact]) -> tuple[Call, list[str]]:
    call, told = CALL, list[str]()
    for fact in facts:
        step = fold(call, fact, at=AT)
        call = step.call
        told += [step.tell] if step.tell else []
    return call, told


@given(strategies.permutations(FACTS * 2))
@settings(max_examples=300, deadline=None)
def test_any_order_and_any_repeats_end_the_same(facts: list[Fact]) -> None:
    call, told = folded(facts)
    assert replace(call, customer_sequence=0) == replace(folded(FACTS)[0], customer_sequence=0)
    assert told.count("call.completed") == 1
    assert len(told) == len(set(told)) == call.customer_sequence


@given(strategies.permutations(FACTS), strategies.integers(0, len(FACTS)))
@settings(max_examples=300, deadline=None)
def test_told_late_or_in_time_the_end_is_told_once(facts: list[Fact], when: int) -> None:
    early, _ = folded(facts[:when])
    late = told_late(early)
    call, told = late.call, [late.tell] if late.tell else []
    for fact in facts[when:]:
        step = fold(call, fact, at=AT)
        call = step.call
        told += [step.tell] if step.tell else []
    assert told_late(call).tell is None
    assert told.count("call.completed") == (0 if early.end_told else 1)
    assert replace(call, customer_sequence=0) == replace(folded(FACTS)[0], customer_sequence=0)


def test_the_status_never_falls() -> None:
    over, _ = folded(FACTS)
    for fact in FACTS:
        assert fold(over, fact, at=AT) == fold(over, fact, at=AT + timedelta(hours=1))
        assert fold(over, fact, at=AT).call == over


def _attempt(fact: Fact, number: int) -> Fact:
    return fact.model_copy(update={"attempt": number, "provider_call_id": f"boln_x_{number}"})


def _in_vain(number: int) -> CallRetryScheduled:
    return CallRetryScheduled(
        call_id=CALL.id,
        org_id=ORG.id,
        attempt=number,
        provider="bolna",
        provider_call_id=f"boln_x_{number}",
        outcome="no_answer",
        next_at=AT + timedelta(minutes=number),
    )


DIALING, ACCEPTED = FACTS[:2]
IN_VAIN = [fact for n in (1, 2) for fact in (_attempt(DIALING, n), _attempt(ACCEPTED, n), _in_vain(n))]
RUNG_AGAIN = [
    *IN_VAIN,
    *(_attempt(fact, 3) for fact in FACTS[:3]),
    *(fact.model_copy(update={"attempts": 3}) if isinstance(fact, CallCompleted) else fact for fact in FACTS[3:]),
]


def test_a_call_that_rang_in_vain_is_scheduled_until_it_is_dialed_again() -> None:
    seen = [(call.status, call.next_attempt_at) for n in range(1, 10) for call, _ in [folded(RUNG_AGAIN[:n])]]
    waits = [("scheduled", AT + timedelta(minutes=n)) for n in (1, 2)]
    dialing = [("dialing", None)] * 2
    assert seen == [*dialing, waits[0], *dialing, waits[1], *dialing, ("in_progress", None)]
    assert folded(RUNG_AGAIN)[1] == ["call.dialing"] * 3 + ["call.in_progress", "call.completed"]


@given(strategies.integers(1, len(IN_VAIN)))
@settings(deadline=None)
def test_a_replay_of_what_was_in_vain_moves_nothing_back(far: int) -> None:
    call, _ = folded(RUNG_AGAIN[:far])
    for fact in RUNG_AGAIN[:far]:
        assert fold(call, fact, at=AT) == Folded(call)


@given(strategies.permutations(RUNG_AGAIN * 2))
@settings(max_examples=300, deadline=None)
def test_however_often_it_rang_in_vain_any_order_ends_the_same(facts: list[Fact]) -> None:
    call, told = folded(facts)
    assert replace(call, customer_sequence=0) == replace(folded(RUNG_AGAIN)[0], customer_sequence=0)
    assert told.count("call.completed") == 1
    assert len(told) == call.customer_sequence


def test_a_second_attempt_is_shown_under_its_own_reference() -> None:
    first, second = FACTS[0], FACTS[0].model_copy(update={"attempt": 2, "provider_call_id": "boln_x_2"})
    for facts in ([first, second], [second, first]):
        assert folded(facts)[0].provider_call_id == "boln_x_2"


def test_an_execution_is_shown_with_its_attempt() -> None:
    dialing, accepted = FACTS[0], FACTS[1]
    again = dialing.model_copy(update={"attempt": 2, "provider_call_id": "boln_x_2"})
    taken = accepted.model_copy(
        update={"attempt": 2, "provider_call_id": "boln_x_2", "provider_execution_id": "exec-2"}
    )
    assert folded([dialing, accepted])[0].provider_execution_id == "exec-1"
    assert folded([dialing, accepted, again])[0].provider_execution_id is None, "the provider was asked once more"
    for facts in ([dialing, accepted, again, taken], [again, taken, dialing, accepted], [taken, again, accepted]):
        assert folded(facts)[0].provider_execution_id == "exec-2"
