"""Amounts as they are written in India: grouped by lakh and crore, and in words. Pure."""


def in_paise(paise: int) -> str:
    """`1,420 paise`; lakhs and crores are grouped as in India: `12,34,567 paise`."""
    return f"{grouped(paise)} paise"


def grouped(number: int) -> str:
    """A whole number in the Indian grouping: 1,23,45,678."""
    sign, digits = ("-" if number < 0 else ""), str(abs(number))
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
    return sign + ",".join([*pairs, tail])


def rupees(paise: int) -> str:
    """`1,23,456.78`."""
    whole, fraction = divmod(abs(paise), 100)
    return f"{'-' if paise < 0 else ''}{grouped(whole)}.{fraction:02d}"


def in_words(paise: int) -> str:
    """`Rupees One Lakh Twenty-Three Thousand and Forty-Five Paise Only`."""
    whole, fraction = divmod(paise, 100)
    after = f" and {_words(fraction)} Paise" if fraction else ""
    return f"Rupees {_words(whole)}{after} Only"


_ONES = [
    *("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"),
    *("Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen"),
]
_TENS = ["-", "-", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety"]
_UNITS = ((10_000_000, "Crore"), (100_000, "Lakh"), (1000, "Thousand"), (100, "Hundred"))


def _words(number: int) -> str:
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    size, unit = next(found for found in _UNITS if number >= found[0])
    head, rest = divmod(number, size)
    return f"{_words(head)} {unit}" + (f" {_words(rest)}" if rest else "")
