"""When a delivery is tried again, and when it is given up. Pure.

Ten attempts over 75 h 35 min. An answer with `Retry-After` is honoured in full and burns no attempt. Jitter is only
ever later, so that what failed together does not come back together.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

PAUSES_SEC = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After the first attempt, the second, …; after the tenth there is none."""
MAX_JITTER = 0.1
LONGEST_RETRY_AFTER_SEC = 86_400
PATIENCE, MOST_PATIENCE_SEC = 1 / 12, 300
"""A server that keeps asking for a second is asked again after a twelfth of the delivery's age, 5 min at most: it burns
nothing, so without that it would be asked a quarter of a million times before its endpoint is paused."""
GIVE_UP_AFTER = timedelta(days=4)
"""For a delivery this old `Retry-After` is still waited for, but burns attempts: it is not put off for ever."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again in so many seconds. `burned` is whether this attempt counts towards the ten."""

    in_sec: float
    burned: bool = True


@dataclass(frozen=True, slots=True)
class GivenUp:
    """That was the last attempt."""


def after_failure(*, burned: int, age: timedelta, retry_after_sec: float | None) -> Again | GivenUp:
    """What follows a failed attempt. `burned` counts the attempts burned before it; `age` is the delivery's."""
    asked_sec = min(retry_after_sec or 0.0, LONGEST_RETRY_AFTER_SEC)
    if retry_after_sec is not None and age < GIVE_UP_AFTER:
        patience_sec = min(age.total_seconds() * PATIENCE, MOST_PATIENCE_SEC)
        return Again(_jittered(max(asked_sec, patience_sec)), burned=False)
    if burned >= len(PAUSES_SEC):
        return GivenUp()
    return Again(_jittered(max(PAUSES_SEC[burned], asked_sec)))


def retry_after_sec(value: str, *, now: datetime) -> float | None:
    """The seconds that a `Retry-After` header asks for, at least 1; None if it is neither seconds nor a date.

    Any of HTTP's three forms of a date, of which one names no zone: all of them are GMT (RFC 9110, 5.6.7).
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return max(1.0, float(text[:9]))
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(1.0, (at - now).total_seconds())
    except (ValueError, OverflowError):  # A year of twenty digits is the latter.
        return None


def _jittered(seconds: float) -> float:
    return seconds * (1 + random.random() * MAX_JITTER)
