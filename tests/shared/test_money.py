"""Talking time becomes money by one formula."""

import pytest
from hypothesis import given, strategies as st

from cualify_shared.money import billable_sec, call_cost_paise


def test_142_seconds_at_10_paise_cost_1420() -> None:
    assert call_cost_paise(duration_sec=142, rate_paise_per_sec=10, pulse_sec=1) == 1420


@pytest.mark.parametrize(
    ("duration", "pulse", "billable"), [(0, 60, 0), (1, 60, 60), (60, 60, 60), (61, 30, 90), (61, 1, 61)]
)
def test_a_begun_pulse_is_a_whole_one(duration: int, pulse: int, billable: int) -> None:
    assert billable_sec(duration_sec=duration, pulse_sec=pulse) == billable


@given(st.integers(0, 10_000), st.integers(1, 3600))
def test_rounding_never_takes_a_second_away_nor_adds_a_whole_pulse(duration: int, pulse: int) -> None:
    assert 0 <= billable_sec(duration_sec=duration, pulse_sec=pulse) - duration < pulse


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        call_cost_paise(duration_sec=-1, rate_paise_per_sec=10, pulse_sec=1)


@pytest.mark.parametrize(
    ("duration", "pulse", "minimum", "billable"),
    [(0, 1, 30, 0), (1, 1, 30, 30), (30, 1, 30, 30), (31, 1, 30, 31), (1, 60, 30, 60), (1, 20, 30, 40)],
)
def test_a_call_that_was_talked_on_is_charged_for_the_minimum_and_none_for_silence(
    duration: int, pulse: int, minimum: int, billable: int
) -> None:
    assert billable_sec(duration_sec=duration, pulse_sec=pulse, min_billable_sec=minimum) == billable
