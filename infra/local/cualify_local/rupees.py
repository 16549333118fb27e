"""Paise as people in India read money."""


def rupees(paise: int) -> str:
    """`₹1,01,144.30`; whole rupees without the point. Groups of two digits from the thousands on."""
    whole, rest = divmod(abs(paise), 100)
    head, tail = divmod(whole, 1000)
    groups = [f"{tail:03d}"] if head else [str(tail)]
    while head:
        head, two = divmod(head, 100)
        groups.append(f"{two:02d}" if head else str(two))
    return f"{'-' if paise < 0 else ''}₹{','.join(reversed(groups))}{f'.{rest:02d}' if rest else ''}"
