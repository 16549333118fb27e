"""The words in which a call's life is told: events built from what the dialer knows. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cualify_dialer.model import Attempt, Call
from cualify_dialer.providers import Phase, Snapshot, ToolFact
from cualify_shared.events.call import (
    ARTIFACT_RECORDING,
    ARTIFACT_TRANSCRIPT,
    CallCompleted,
    CallDialing,
    CallDisclosurePlayed,
    CallFailed,
    CallHandoffRequested,
    CallInProgress,
    CallIntentDetected,
    CallProviderAccepted,
    CallRecordingReady,
    CallRetryScheduled,
    CallTranscriptReady,
)
from cualify_shared.events.model import EventData

CLOCKS_DIFFER_BY = timedelta(seconds=60)

ENDS = {
    Phase.COMPLETED: ("completed", "completed"),
    Phase.NO_ANSWER: ("no_answer", "no_answer"),
    Phase.BUSY: ("busy", "busy"),
    Phase.FAILED: ("failed", "carrier_failed"),
    Phase.CANCELED: ("canceled", "canceled"),
    Phase.ERROR: ("failed", "provider_error"),
    Phase.BALANCE_LOW: ("failed", "balance_low"),
}
"""Status and `ended_reason` of each last phase. `completed` is looked at once more in `status_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a call ended. `snapshot` is what the provider showed, where it was the provider who ended it."""

    status: str
    reason: str
    ended_at: datetime
    ended_by: str | None = None
    snapshot: Snapshot | None = None


def dialing(call: Call, attempt: Attempt) -> CallDialing:
    """The attempt is committed, the provider is being asked."""
    return CallDialing(
        call_id=call.call_id,
        org_id=call.request.org_id,
        attempt=attempt.number,
        provider=attempt.provider,
        provider_call_id=attempt.ref,
    )


def provider_accepted(call: Call, attempt: Attempt, *, execution_id: str) -> CallProviderAccepted:
    """The provider has the attempt: since the conversation began, or the end, at the latest."""
    seen = [at for at in (attempt.started_at, attempt.ended_at) if at is not None]
    return CallProviderAccepted(
        call_id=call.call_id,
        org_id=call.request.org_id,
        attempt=attempt.number,
        provider=attempt.provider,
        provider_call_id=attempt.ref,
        provider_execution_id=execution_id,
        accepted_at=min(seen, default=None),
    )


def retry_scheduled(call: Call, attempt: Attempt, *, outcome: str, next_at: datetime) -> CallRetryScheduled:
    """The phone rang in vain, and will ring again."""
    return CallRetryScheduled(
        call_id=call.call_id,
        org_id=call.request.org_id,
        attempt=attempt.number,
        provider=attempt.provider,
        provider_call_id=attempt.ref,
        outcome=outcome,
        next_at=next_at,
    )


def in_progress(call: Call, attempt: Attempt, *, started_at: datetime) -> CallInProgress:
    """The callee answered."""
    return CallInProgress(
        call_id=call.call_id,
        org_id=call.request.org_id,
        attempt=attempt.number,
        provider=attempt.provider,
        provider_call_id=attempt.ref,
        provider_execution_id=attempt.execution_id,
        started_at=started_at,
    )


def told(call: Call, attempt: Attempt, facts: Iterable[ToolFact], *, now: datetime) -> list[EventData]:
    """The timeline facts, in the order of their times. What the catalogue has no event for is passed over."""
    timed = sorted(((plausible(fact.at, attempt, now=now), fact) for fact in facts), key=lambda pair: pair[0])
    events = [_told(call, fact, at) for at, fact in timed]
    return [event for event in events if event is not None]


def _told(call: Call, fact: ToolFact, at: datetime) -> EventData | None:
    call_id, org_id = call.call_id, call.request.org_id
    match fact.type:
        case "disclosure-played":
            return CallDisclosurePlayed(call_id=call_id, org_id=org_id, at=at)
        case "intent-detected":
            return CallIntentDetected(call_id=call_id, org_id=org_id, at=at, intent=(fact.intent or "unknown")[:200])
        case "handoff-requested":
            return CallHandoffRequested(call_id=call_id, org_id=org_id, at=at)
        case _:
            return None


def artifacts(call: Call, snapshot: Snapshot | None) -> list[CallTranscriptReady | CallRecordingReady]:
    """What the call left behind."""
    found: list[CallTranscriptReady | CallRecordingReady] = []
    if snapshot is not None and snapshot.transcript:
        found.append(
            CallTranscriptReady(call_id=call.call_id, org_id=call.request.org_id, transcript=snapshot.transcript)
        )
    if snapshot is not None and snapshot.recording_url:
        found.append(
            CallRecordingReady(call_id=call.call_id, org_id=call.request.org_id, recording_url=snapshot.recording_url)
        )
    return found


def ended(call: Call, end: End) -> CallCompleted | CallFailed:
    """The whole of it, so that nobody has to call back. `call` is as it is after its last attempt ended."""
    last, seen = (call.attempts[-1] if call.attempts else None), end.snapshot
    model = CallCompleted if end.status == "completed" else CallFailed
    return model(
        call_id=call.call_id,
        org_id=call.request.org_id,
        agent_id=call.request.agent_id,
        callee_token=call.request.callee_token,
        status=end.status,
        ended_reason=end.reason,
        ended_by=end.ended_by,
        duration_sec=duration_sec(seen),
        started_at=last.started_at if last else None,
        ended_at=end.ended_at,
        attempts=len(call.attempts),
        provider=last.provider if last else call.request.provider,
        provider_call_id=last.ref if last else call.request.provider_call_id,
        provider_execution_id=last.execution_id if last else None,
        answered_by=seen.answered_by if seen and end.status == "completed" else None,
        terms=call.request.terms,
        provider_cost_cents=seen.cost_cents if seen else None,
        artifacts=_names(call, seen),
        llm_extracted_intent=_cut(seen.intent if seen else None, 200),
        llm_sentiment=_cut(seen.sentiment if seen else None, 64),
        llm_outcome=_cut(seen.outcome if seen else None, 200),
    )


def status_of(snapshot: Snapshot, *, was_answered: bool) -> tuple[str, str]:
    """Status and reason of a last snapshot."""
    if snapshot.phase is Phase.COMPLETED and snapshot.talked_sec == 0 and not was_answered:
        return ("failed", "no_conversation")
    return ENDS[snapshot.phase]


def duration_sec(snapshot: Snapshot | None) -> int:
    """Talking time in whole seconds, a begun second counted whole."""
    return math.ceil(snapshot.talked_sec) if snapshot else 0


def ended_at(snapshot: Snapshot, attempt: Attempt, *, now: datetime) -> datetime:
    """When the line dropped; the provider's last change is when it had worked on what was said."""
    return attempt.disconnected_at or plausible(snapshot.updated_at, attempt, now=now)


def started_at(snapshot: Snapshot, attempt: Attempt, *, ended: datetime, now: datetime) -> datetime | None:
    """When the callee answered: as it was seen, else counted back from the end. None where nobody talked."""
    if attempt.started_at is not None or snapshot.talked_sec == 0:
        return attempt.started_at
    times = (snapshot.initiated_at, snapshot.created_at)
    dialed_at = next((at for at in times if at and is_plausible(at, attempt, now=now)), attempt.asked_at)
    return min(ended, max(dialed_at, ended - timedelta(seconds=float(snapshot.talked_sec))))


def plausible(at: datetime | None, attempt: Attempt, *, now: datetime) -> datetime:
    """The provider's time where it can be true, else ours."""
    return at if at is not None and is_plausible(at, attempt, now=now) else now


def is_plausible(at: datetime, attempt: Attempt, *, now: datetime) -> bool:
    """Whether something of the attempt can have been then, by a clock that differs a little from ours."""
    return attempt.asked_at - CLOCKS_DIFFER_BY <= at <= now + CLOCKS_DIFFER_BY


def _names(call: Call, snapshot: Snapshot | None) -> tuple[str, ...]:
    names: dict[type[EventData], str] = {
        CallTranscriptReady: ARTIFACT_TRANSCRIPT,
        CallRecordingReady: ARTIFACT_RECORDING,
    }
    return tuple(names[type(artifact)] for artifact in artifacts(call, snapshot))


def _cut(text: str | None, chars: int) -> str | None:
    return text[:chars] if text else None
