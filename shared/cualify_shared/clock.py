"""Time: always aware, always UTC."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current instant, in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """`2026-05-31T14:22:11.125Z`: UTC, milliseconds, a trailing Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
