"""When an attempt is asked about at its provider, and by when it has to have ended. Pure."""

from datetime import datetime, timedelta

from cualify_dialer.model import Attempt, Call, HangUpState, Pace, time_limit

HANG_UP_SEEN_WITHIN = timedelta(seconds=5)
"""So soon the provider shows that it has hung up."""


def hang_up_at(call: Call, attempt: Attempt, *, pace: Pace) -> datetime:
    """When a call has had its time: it is hung up where the provider can."""
    return time_limit(
        asked_at=attempt.asked_at,
        started_at=attempt.started_at,
        max_duration_sec=call.request.terms.max_duration_sec,
        overtime_sec=pace.hang_up_after_sec,
    )


def last_look(call: Call, attempt: Attempt, *, pace: Pace) -> datetime:
    """So long before a call has to have ended that what is read back can be written down by then."""
    longest_sec = call.request.terms.max_duration_sec + pace.overtime_sec - pace.last_look_early_sec
    return attempt.asked_at + timedelta(seconds=longest_sec)


def latest_end(call: Call, attempt: Attempt, *, pace: Pace) -> datetime:
    """When an attempt that can't be read back, or never ends, is given up."""
    longest_sec = call.request.terms.max_duration_sec + pace.overtime_sec + pace.give_up_after_sec
    return attempt.asked_at + timedelta(seconds=longest_sec)


def next_look(call: Call, attempt: Attempt, *, now: datetime, pace: Pace, is_new: bool = False) -> datetime:
    """After the usual time, but at the next of its limits at the latest; soon where we have yet to hang up.

    One that still waits at the provider is stopped at `latest_at`. `is_new`: its execution is known since just now.
    """
    usual = now + timedelta(seconds=pace.look_up_every_sec)
    if call.cancel_requested_at is not None and is_to_be_hung_up(attempt):
        wanted_for = timedelta() if is_new else now - call.cancel_requested_at
        return min(usual, now + max(timedelta(seconds=pace.look_up_soon_sec), wanted_for / 2))
    if attempt.hang_up is HangUpState.DONE:
        return min(usual, now + HANG_UP_SEEN_WITHIN)
    limits = [hang_up_at(call, attempt, pace=pace), last_look(call, attempt, pace=pace)]
    if attempt.started_at is None:
        limits.append(call.request.latest_at)
    return min([usual, *(limit for limit in limits if limit > now)])


def is_to_be_hung_up(attempt: Attempt) -> bool:
    """Whether its line may be live, and the provider has not yet said whether it can end it."""
    return attempt.execution_id is not None and attempt.hang_up is None and attempt.disconnected_at is None
