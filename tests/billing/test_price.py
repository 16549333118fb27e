"""What a call costs."""

import pytest
from hypothesis import given, strategies as st

from cualify_billing.price import Bill, bill
from cualify_shared.events import Terms
from tests.billing.conftest import TERMS


def test_142_seconds_at_10_paise_a_second_are_1420_paise() -> None:
    assert bill(TERMS, duration_sec=142) == Bill(billable_sec=142, amount_paise=1420, capped=False)


@pytest.mark.parametrize(
    ("terms", "duration_sec", "expected"),
    [
        (TERMS, 0, Bill(0, 0, capped=False)),
        (TERMS, 300, Bill(300, 3000, capped=False)),
        (TERMS, 301, Bill(300, 3000, 10, capped=True)),
        (TERMS.model_copy(update={"hold_paise": 1000}), 142, Bill(142, 1000, 0, 420, capped=True)),
        (TERMS.model_copy(update={"pulse_sec": 30}), 61, Bill(90, 900, capped=False)),
        (TERMS.model_copy(update={"min_billable_sec": 30}), 1, Bill(30, 300)),
        (TERMS.model_copy(update={"min_billable_sec": 30}), 0, Bill(0, 0)),
        (TERMS.model_copy(update={"rate_paise_per_sec": 0, "hold_paise": 0}), 61, Bill(61, 0, capped=False)),
    ],
)
def test_seconds_beyond_the_longest_call_and_paise_beyond_the_hold_are_not_billed(
    terms: Terms, duration_sec: int, expected: Bill
) -> None:
    assert bill(terms, duration_sec=duration_sec) == expected


@given(
    terms=st.builds(
        Terms,
        rate_paise_per_sec=st.integers(0, 1_000_000),
        pulse_sec=st.integers(1, 3600),
        hold_paise=st.integers(0, 10**10),
        max_duration_sec=st.integers(1, 3600),
        min_billable_sec=st.integers(0, 600),
    ),
    duration_sec=st.integers(0, 10**6),
)
def test_no_call_costs_more_than_its_hold(terms: Terms, duration_sec: int) -> None:
    found = bill(terms, duration_sec=duration_sec)
    assert 0 <= found.amount_paise <= terms.hold_paise
    assert found.billable_sec < max(terms.max_duration_sec, terms.min_billable_sec) + terms.pulse_sec
    assert found.capped or found.amount_paise == found.billable_sec * terms.rate_paise_per_sec
