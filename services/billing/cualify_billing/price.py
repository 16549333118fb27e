"""What a call costs: its talking time at the terms it was accepted at, never more than its hold. Pure."""

from dataclasses import dataclass

from cualify_shared.events.model import Terms
from cualify_shared.money import billable_sec, call_cost_paise


@dataclass(frozen=True, slots=True)
class Bill:
    """`duration_beyond_max_paise` and `price_beyond_hold_paise` are what the call would have cost more: we bear it."""

    billable_sec: int
    amount_paise: int
    duration_beyond_max_paise: int = 0
    price_beyond_hold_paise: int = 0
    capped: bool = False


NOTHING = Bill(billable_sec=0, amount_paise=0)


def bill(terms: Terms, *, duration_sec: int) -> Bill:
    """142 s at 10 paise a second, pulse 1 s, is 1420 paise; seconds beyond `max_duration_sec` are not billed."""
    talked_sec = min(duration_sec, terms.max_duration_sec)
    uncapped_paise, cost_paise = _cost_paise(terms, duration_sec), _cost_paise(terms, talked_sec)
    return Bill(
        billable_sec=billable_sec(
            duration_sec=talked_sec, pulse_sec=terms.pulse_sec, min_billable_sec=terms.min_billable_sec
        ),
        amount_paise=min(cost_paise, terms.hold_paise),
        duration_beyond_max_paise=uncapped_paise - cost_paise,
        price_beyond_hold_paise=max(0, cost_paise - terms.hold_paise),
        capped=talked_sec < duration_sec or terms.hold_paise < cost_paise,
    )


def _cost_paise(terms: Terms, duration_sec: int) -> int:
    return call_cost_paise(
        duration_sec=duration_sec,
        rate_paise_per_sec=terms.rate_paise_per_sec,
        pulse_sec=terms.pulse_sec,
        min_billable_sec=terms.min_billable_sec,
    )
