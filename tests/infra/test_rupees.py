"""The demo shows money as people in India read it."""

import pytest

from cualify_local.rupees import rupees


@pytest.mark.parametrize(
    ("paise", "read"),
    [
        (0, "₹0"),
        (5, "₹0.05"),
        (99_999, "₹999.99"),
        (100_000, "₹1,000"),
        (10_114_430, "₹1,01,144.30"),
        (1_000_000_700, "₹1,00,00,007"),
        (-10_000_050, "-₹1,00,000.50"),
    ],
)
def test_money_is_grouped_by_thousand_and_then_by_hundreds(paise: int, read: str) -> None:
    assert rupees(paise) == read
