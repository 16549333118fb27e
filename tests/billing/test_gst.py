"""The tax that an amount includes, to the paisa; and who is registered."""

import pytest
from hypothesis import given, strategies as st

from cualify_billing.gst import Tax, included, is_gstin, shares


@pytest.mark.parametrize(
    ("paise", "within_state", "tax"),
    [
        (118_00, True, Tax(100_00, 9_00, 9_00, 0)),
        (118_00, False, Tax(100_00, 0, 0, 18_00)),
        (100_00, True, Tax(84_74, 7_63, 7_63, 0)),
        (100_00, False, Tax(84_75, 0, 0, 15_25)),
        (1, True, Tax(1, 0, 0, 0)),
        (0, False, Tax(0, 0, 0, 0)),
    ],
)
def test_tax_is_taken_out_of_what_was_paid(paise: int, within_state: bool, tax: Tax) -> None:
    assert included(paise, rate_percent=18, within_state=within_state) == tax


@given(st.integers(0, 10**12), st.integers(0, 100), st.booleans())
def test_value_and_tax_always_make_up_the_total(paise: int, rate: int, within_state: bool) -> None:
    tax = included(paise, rate_percent=rate, within_state=within_state)
    assert tax.total_paise == paise
    assert tax.cgst_paise == tax.sgst_paise
    assert min(tax.taxable_paise, tax.cgst_paise, tax.igst_paise) >= 0
    assert abs(tax.tax_paise * 100 - tax.taxable_paise * rate) <= 200, "at most a paisa off the rate"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("27AAPFU0939F1ZV", True),
        ("27AAPFU0939F1ZW", False),
        ("72AAPFU0939F1ZV", False),
        ("00AAPFU0939F1ZV", False),
        ("27aapfu0939f1zv", False),
        ("27AAPFU0939F1Z", False),
        ("27AAPFU0939F1ZV\n", False),
        ("", False),
    ],
)
def test_a_gstin_has_a_state_and_a_check_digit(text: str, valid: bool) -> None:
    assert is_gstin(text) == valid


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8), st.integers(0, 10**9))
def test_a_divided_discount_adds_up_and_never_outgrows_its_line(weights: list[int], discount: int) -> None:
    discount = min(discount, sum(weights))
    parts = shares(discount, weights)
    assert sum(parts) == discount
    assert all(0 <= part <= weight for part, weight in zip(parts, weights, strict=True))
