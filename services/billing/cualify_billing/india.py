"""The Indian calendar of billing: months turn at midnight in Kolkata, financial years on the first of April. Pure."""

from datetime import UTC, date, datetime, timedelta, timezone

IST = timezone(timedelta(hours=5, minutes=30), "Asia/Kolkata")
"""India has one zone and no summer time."""


def month_turn_after(at: datetime) -> datetime:
    """The first instant of the next month in Kolkata, as UTC."""
    local = at.astimezone(IST)
    first = date(local.year + local.month // 12, local.month % 12 + 1, 1)
    return start_of(first)


def month_start(at: datetime) -> datetime:
    """The first instant of the month that `at` lies in, in Kolkata, as UTC."""
    return start_of(at.astimezone(IST).date().replace(day=1))


def start_of(day: date) -> datetime:
    """Midnight in Kolkata, as UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=IST).astimezone(UTC)


def financial_year(day: date) -> str:
    """`2627` for the year from 1 April 2026 to 31 March 2027."""
    begins = day.year if day.month >= 4 else day.year - 1
    return f"{begins % 100:02d}{(begins + 1) % 100:02d}"
