"""India's goods and services tax, as far as prepaid calls meet it. Pure.

Wallets and prices include the tax, so a document divides what was paid: at 18 %, ₹118 is ₹100 and ₹18. Each line is
rounded by itself, half a paisa upwards, central and state tax alike; sums add rounded lines. The rate and the service's
accounting code are settings: have an accountant confirm them.
"""

import re
from dataclasses import dataclass

STATES = {
    "01": "Jammu and Kashmir",
    "02": "Himachal Pradesh",
    "03": "Punjab",
    "04": "Chandigarh",
    "05": "Uttarakhand",
    "06": "Haryana",
    "07": "Delhi",
    "08": "Rajasthan",
    "09": "Uttar Pradesh",
    "10": "Bihar",
    "11": "Sikkim",
    "12": "Arunachal Pradesh",
    "13": "Nagaland",
    "14": "Manipur",
    "15": "Mizoram",
    "16": "Tripura",
    "17": "Meghalaya",
    "18": "Assam",
    "19": "West Bengal",
    "20": "Jharkhand",
    "21": "Odisha",
    "22": "Chhattisgarh",
    "23": "Madhya Pradesh",
    "24": "Gujarat",
    "26": "Dadra and Nagar Haveli and Daman and Diu",
    "27": "Maharashtra",
    "29": "Karnataka",
    "30": "Goa",
    "31": "Lakshadweep",
    "32": "Kerala",
    "33": "Tamil Nadu",
    "34": "Puducherry",
    "35": "Andaman and Nicobar Islands",
    "36": "Telangana",
    "37": "Andhra Pradesh",
    "38": "Ladakh",
    "97": "Other Territory",
}
_GSTIN = re.compile(r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z]Z[0-9A-Z]")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_gstin(text: str) -> bool:
    """Whether it is a GSTIN: its form, its state, and its check digit."""
    return _GSTIN.fullmatch(text) is not None and text[:2] in STATES and text[14] == check_digit(text[:14])


def check_digit(first_14: str) -> str:
    """The fifteenth character: digits of base 36, every second one doubled, their digits added up."""
    total = 0
    for place, character in enumerate(first_14):
        product = _DIGITS.index(character) * (1 + place % 2)
        total += product // 36 + product % 36
    return _DIGITS[-total % 36]


@dataclass(frozen=True, slots=True)
class Tax:
    """What an amount consists of, in paise."""

    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int

    @property
    def tax_paise(self) -> int:
        """All of the tax."""
        return self.cgst_paise + self.sgst_paise + self.igst_paise

    @property
    def total_paise(self) -> int:
        """What was paid."""
        return self.taxable_paise + self.tax_paise

    def __add__(self, other: "Tax") -> "Tax":
        return Tax(
            self.taxable_paise + other.taxable_paise,
            self.cgst_paise + other.cgst_paise,
            self.sgst_paise + other.sgst_paise,
            self.igst_paise + other.igst_paise,
        )


NOTHING = Tax(0, 0, 0, 0)


def included(total_paise: int, *, rate_percent: int, within_state: bool) -> Tax:
    """The tax that an amount includes: half of it central and half the state's within a state, else integrated."""
    if within_state:
        half = _rounded(total_paise * rate_percent, 2 * (100 + rate_percent))
        return Tax(total_paise - 2 * half, half, half, 0)
    whole = _rounded(total_paise * rate_percent, 100 + rate_percent)
    return Tax(total_paise - whole, 0, 0, whole)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number, halves upwards."""
    return (2 * numerator + denominator) // (2 * denominator)


def shares(total: int, weights: list[int]) -> list[int]:
    """A total divided by weights into whole numbers that add up to it, none above its weight where the total is not."""
    found = [total * weight // sum(weights) for weight in weights]
    left = total - sum(found)
    for index, weight in enumerate(weights):
        if left and found[index] < weight:
            found[index] += 1
            left -= 1
    return found
