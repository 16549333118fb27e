"""How a call ends where the provider's last word alone does not say it: because of us, or at its limit. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from cualify_dialer.facts import End
from cualify_dialer.model import Attempt, Call, HangUpState
from cualify_dialer.providers import Phase, Snapshot

RUNG_IN_VAIN = {"busy": "busy", "no_answer": "no_answer"}
"""Results after which a call may be rung again, and the status of each where it is not."""

BY_PROVIDER = {Phase.BALANCE_LOW: "provider", Phase.ERROR: "provider"}
"""Who ended it where nobody hung up: there was no line."""


def by_us(call: Call, attempt: Attempt, snapshot: Snapshot, status: str, reason: str) -> tuple[str, str, str | None]:
    """Status, reason and who ended it, where the provider ended it because we asked."""
    if attempt.hang_up is not HangUpState.DONE or status in RUNG_IN_VAIN:
        return (status, reason, snapshot.ended_by or BY_PROVIDER.get(snapshot.phase))
    wanted = call.cancel_requested_at is not None
    if status == "completed":
        return (status, "canceled", "customer") if wanted else (status, "time_limit", "platform")
    return ("canceled", "canceled", "customer") if wanted else ("failed", "expired", "platform")


def dropped(call: Call, attempt: Attempt, snapshot: Snapshot, *, dropped_at: datetime, now: datetime) -> End:
    """The provider still works on what was said. Known are the times at which it was seen to begin and to end."""
    talked_sec = snapshot.talked_sec
    if talked_sec == 0 and attempt.started_at is not None:
        talked_sec = _seconds(dropped_at - attempt.started_at)
    if talked_sec == 0 and attempt.started_at is None:
        return unknown(now)
    shown = replace(_without_artifacts(snapshot), talked_sec=talked_sec)
    status, reason, ended_by = by_us(call, attempt, shown, "completed", "completed")
    return End(status=status, reason=reason, ended_at=dropped_at, ended_by=ended_by, snapshot=shown)


def talking(call: Call, attempt: Attempt, snapshot: Snapshot, *, now: datetime) -> End:
    """The provider has it live. What was talked on for the whole of its time is worth that time, and no more."""
    if snapshot.phase is not Phase.IN_PROGRESS or attempt.started_at is None:
        return unknown(now)
    limit = timedelta(seconds=call.request.terms.max_duration_sec)
    ended_at = min(now, attempt.started_at + limit)
    shown = replace(_without_artifacts(snapshot), talked_sec=_seconds(ended_at - attempt.started_at))
    return End(status="completed", reason="time_limit", ended_at=ended_at, ended_by="platform", snapshot=shown)


def unknown(now: datetime) -> End:
    """Nobody knows whether anybody was rung."""
    return End(status="failed", reason="outcome_unknown", ended_at=now)


def canceled(now: datetime) -> End:
    """By the customer, before anybody was spoken to."""
    return End(status="canceled", reason="canceled", ended_at=now, ended_by="customer")


def _without_artifacts(snapshot: Snapshot) -> Snapshot:
    """They are complete only with the provider's own end, and are told with that."""
    return replace(snapshot, transcript=(), recording_url=None)


def _seconds(span: timedelta) -> Decimal:
    return Decimal(str(max(0.0, span.total_seconds())))
