"""Money is a whole number of paise. One formula turns talking time into money, for holds and for debits alike."""


def billable_sec(*, duration_sec: int, pulse_sec: int, min_billable_sec: int = 0) -> int:
    """At least the minimum, rounded up to whole pulses: 61 s at a pulse of 30 s is 90 s; no talk is 0 s."""
    if min(duration_sec, min_billable_sec) < 0 or pulse_sec < 1:
        raise ValueError(f"a duration is never negative and a pulse at least a second: {duration_sec=} {pulse_sec=}")
    charged_sec = max(duration_sec, min_billable_sec) if duration_sec else 0
    return -(-charged_sec // pulse_sec) * pulse_sec


def call_cost_paise(*, duration_sec: int, rate_paise_per_sec: int, pulse_sec: int, min_billable_sec: int = 0) -> int:
    """What `duration_sec` of talk costs at a rate: 142 s at 10 paise a second, pulse 1 s, is 1420 paise."""
    charged_sec = billable_sec(duration_sec=duration_sec, pulse_sec=pulse_sec, min_billable_sec=min_billable_sec)
    return charged_sec * rate_paise_per_sec
