"""The table of numbers, as data."""

import math

import pytest

from cualify_simulator.script import (
    LIVES,
    Answer,
    Callbacks,
    Conversation,
    Reach,
    Tell,
    hangup_of,
    life_of,
    stamps_are_naive,
    steps_of,
    talked_sec,
)

ANSWERED = ["initiated", "ringing", "in-progress", "call-disconnected", "completed"]


def statuses(number: str, *, call_terminate_sec: float = 300.0) -> list[str]:
    steps = steps_of(life_of(number).end, call_terminate_sec=call_terminate_sec)
    return [step.status for step in steps if isinstance(step, Reach)]


@pytest.mark.parametrize("ending", [*range(105, 116), 142])
def test_an_answered_call_takes_every_status_in_order(ending: int) -> None:
    assert statuses(f"+919990000{ending}") == ANSWERED


@pytest.mark.parametrize(("ending", "last"), [(101, "busy"), (102, "no-answer"), (103, "failed")])
def test_an_unanswered_call_rings_and_ends(ending: int, last: str) -> None:
    assert statuses(f"+919990000{ending}") == ["initiated", "ringing", last]


def test_without_balance_nothing_is_dialed() -> None:
    assert statuses("+919990000116") == ["balance-low"]


def test_an_unknown_status_comes_in_mid_conversation() -> None:
    assert statuses("+919990000117") == [*ANSWERED[:3], "quantum-leap", *ANSWERED[3:]]


@pytest.mark.parametrize(
    ("ending", "sec"),
    [(142, 142), (105, 60), (106, 60), (107, 60), (108, 60), (109, 60), (110, 5), (112, 90), (113, 60), (114, 60),
     (115, 60), (117, 60), (111, 300), (101, 0), (116, 0)],
)  # fmt: skip
def test_a_number_talks_for_exactly_its_time(ending: int, sec: float) -> None:
    assert talked_sec(life_of(f"+919990000{ending}").end, call_terminate_sec=300.0) == sec


@pytest.mark.parametrize(("number", "sec"), [("+919812345678", 108), ("+14155550100", 30), ("+919812345699", 129)])
def test_any_other_number_talks_by_its_last_two_digits(number: str, sec: float) -> None:
    end = life_of(number).end
    assert isinstance(end, Conversation)
    assert end.talk_sec == sec


@pytest.mark.parametrize(
    ("ending", "answer"),
    [
        (104, Answer.REFUSED),
        (105, Answer.SERVER_ERROR),
        (106, Answer.DROPPED),
        (107, Answer.LATE),
        (113, Answer.THROTTLED_TWICE),
        (114, Answer.NOT_JSON),
        (142, Answer.ACCEPTED),
    ],
)
def test_a_number_decides_how_the_create_is_answered(ending: int, answer: Answer) -> None:
    assert life_of(f"+919990000{ending}").answer is answer


def test_only_two_numbers_tamper_with_callbacks() -> None:
    assert {number: life.callbacks for number, life in LIVES.items() if life.callbacks is not Callbacks.IN_ORDER} == {
        "+919990000108": Callbacks.NEVER,
        "+919990000109": Callbacks.TWICE_REORDERED,
    }


def test_the_demo_is_answered_after_eight_seconds_of_ringing() -> None:
    reached = {step.status: step.at_sec for step in _reached("+919990000142")}
    assert reached["in-progress"] - reached["ringing"] == 8
    assert reached["call-disconnected"] - reached["in-progress"] == 142
    assert reached["completed"] - reached["call-disconnected"] == 3


def test_a_dropped_line_completes_thirteen_minutes_later() -> None:
    reached = {step.status: step.at_sec for step in _reached("+919990000115")}
    assert reached["completed"] - reached["call-disconnected"] == 13 * 60


def test_no_answer_rings_for_thirty_seconds() -> None:
    reached = {step.status: step.at_sec for step in _reached("+919990000102")}
    assert reached["no-answer"] - reached["ringing"] == 30


@pytest.mark.parametrize("number", [*LIVES, "+919812345678"])
@pytest.mark.parametrize("call_terminate_sec", [1.0, 50.0, 300.0])
def test_every_life_goes_forward_and_ends(number: str, call_terminate_sec: float) -> None:
    steps = steps_of(life_of(number).end, call_terminate_sec=call_terminate_sec)
    times = [step.at_sec for step in steps]
    assert times == sorted(times)
    assert math.isfinite(times[-1])


@pytest.mark.parametrize(("ending", "by"), [(111, "call_terminate"), (142, "llm_prompted_hangup")])
def test_only_who_talks_too_long_is_cut_off(ending: int, by: str) -> None:
    hangup = hangup_of(life_of(f"+919990000{ending}").end, call_terminate_sec=300.0)
    assert hangup is not None
    assert hangup.reason == by


def test_what_would_be_told_after_the_cut_is_never_told() -> None:
    end = life_of("+919990000142").end
    told = [step.fact.type for step in steps_of(end, call_terminate_sec=50.0) if isinstance(step, Tell)]
    assert told == ["disclosure-played"]


def test_half_of_the_numbers_have_naive_time_stamps() -> None:
    assert [stamps_are_naive(f"+91999000014{digit}") for digit in range(4)] == [False, True, False, True]


def _reached(number: str) -> list[Reach]:
    return [step for step in steps_of(life_of(number).end, call_terminate_sec=300.0) if isinstance(step, Reach)]
