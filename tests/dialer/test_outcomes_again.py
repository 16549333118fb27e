"""When a call is rung again, or by another provider."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cualify_dialer.model import (
    Answered,
    Call,
    CancelWanted,
    GivenUp,
    LookedUp,
)
from cualify_dialer.providers import (
    Found,
    Phase,
    Throttled,
)
from cualify_shared.events.call import (
    CallFailed,
    CallRetryScheduled,
    Fallback,
    Retry,
)
from tests.dialer.histories import BEGUN, REF, T0, a_call, after, looked, names
from tests.dialer.support import a_snapshot


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
