"""Time: always aware, always UTC."""

from datetime import UTC, datetime

import orjson


def now() -> datetime:
    """The current instant, in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """`2026-05-31T14:22:11.125Z`: UTC, milliseconds, a trailing Z."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    whole = orjson.dumps(utc, option=orjson.OPT_OMIT_MICROSECONDS).decode()  # Thrice as quick as isoformat().
    return f"{whole[1:20]}.{utc.microsecond // 1000:03d}Z"


def unix_ms(at: datetime) -> int:
    """Milliseconds since 1970. For arrays of instants: a driver takes four times as long to encode a datetime."""
    return round(at.timestamp() * 1000)
