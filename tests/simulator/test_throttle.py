"""The throttled number: twice for each call, by callee and reference."""

from cualify_simulator.throttle import REMEMBERED, Throttle

NUMBER = "+919990000113"


def test_a_call_is_refused_twice_then_always_passes() -> None:
    throttle = Throttle()
    assert [throttle.refusals_so_far(NUMBER, "boln_a") for _ in range(4)] == [1, 2, None, None]


def test_another_call_to_the_same_number_has_its_own_count() -> None:
    throttle = Throttle()
    assert [throttle.refusals_so_far(NUMBER, ref) for ref in ("boln_a", "boln_b", "boln_a", "boln_b")] == [1, 1, 2, 2]


def test_a_second_attempt_of_a_call_goes_on_with_its_count() -> None:
    throttle = Throttle()
    assert [throttle.refusals_so_far(NUMBER, ref) for ref in ("boln_a", "boln_a_2", "boln_a_3")] == [1, 2, None]


def test_without_a_reference_every_third_passes() -> None:
    throttle = Throttle()
    assert [throttle.refusals_so_far(NUMBER, None) for _ in range(6)] == [1, 2, None, 1, 2, None]


def test_only_so_many_calls_are_remembered() -> None:
    throttle = Throttle()
    for number in range(REMEMBERED + 1):
        throttle.refusals_so_far(NUMBER, f"boln_{number:x}z")
    assert throttle.refusals_so_far(NUMBER, "boln_0z") == 1
