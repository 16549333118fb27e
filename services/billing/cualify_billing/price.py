"""What a call costs: its talking time at the terms it was accepted at, never more than its hold. Pure."""

from dataclasses import dataclass

from cualify_shared.events.model import Terms
from cualify_shared.money import billable_sec, call_cost_paise


@dataclass(frozen=True, slots=True)
class Bill:
    """`capped` says that the call talked longer, or cost more, than it was accepted for: we bear the rest."""

    billable_sec: int
    amount_paise: int
    capped: bool


NOTHING = Bill(billable_sec=0, amount_paise=0, capped=False)


def bill(terms: Terms, *, duration_sec: int) -> Bill:
    """142 s at 10 paise a second, pulse 1 s, is 1420 paise; seconds beyond `max_duration_sec` are not billed."""
    talked_sec = min(duration_sec, terms.max_duration_sec)
    cost_paise = call_cost_paise(
        duration_sec=talked_sec, rate_paise_per_sec=terms.rate_paise_per_sec, pulse_sec=terms.pulse_sec
    )
    return Bill(
        billable_sec=billable_sec(duration_sec=talked_sec, pulse_sec=terms.pulse_sec),
        amount_paise=min(cost_paise, terms.hold_paise),
        capped=talked_sec < duration_sec or terms.hold_paise < cost_paise,
    )
