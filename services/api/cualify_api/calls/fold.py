"""What an event makes of a call. Pure; a repeat changes nothing, and the order of the topics makes no difference.

The status only ever rises, within an attempt: a call that rang in vain and will ring again is `scheduled` in between.
Each fact fills its own fields once. The end is told by whichever event completes the picture: the terminal status, the
debit, and the artifacts that the end announced.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias, assert_never

from cualify_api.calls.call import Call, TimelineEntry
from cualify_shared.clock import rfc3339
from cualify_shared.events import Event
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
from cualify_shared.events.wallet import WalletDebited

Fact: TypeAlias = (
    CallDialing
    | CallProviderAccepted
    | CallRetryScheduled
    | CallInProgress
    | CallDisclosurePlayed
    | CallIntentDetected
    | CallHandoffRequested
    | CallCompleted
    | CallFailed
    | CallTranscriptReady
    | CallRecordingReady
    | WalletDebited
)

Notification: TypeAlias = Literal[
    "call.dialing", "call.in_progress", "call.completed", "call.failed", "call.billed", "call.artifacts_ready"
]

_RANK: Final = {"scheduled": 0, "queued": 0, "dialing": 1, "in_progress": 2}
_OVER: Final = 3


@dataclass(frozen=True, slots=True)
class Folded:
    """The call after an event, and what its customer is to be told of it."""

    call: Call
    tell: Notification | None = None


def fold(call: Call, fact: Fact, *, at: datetime) -> Folded:
    """`call` after `fact`, which is folded in at `at`."""
    match fact:
        case CallDialing():
            return _dialing(call, fact)
        case CallProviderAccepted():
            return Folded(_carried(call, fact))
        case CallRetryScheduled():
            return Folded(_waiting(call, fact))
        case CallInProgress():
            return _raised(_answered(call, fact), "in_progress")
        case CallDisclosurePlayed() | CallIntentDetected() | CallHandoffRequested():
            return Folded(call)
        case CallCompleted() | CallFailed():
            return _told_if_complete(_ended(call, fact, at=at))
        case CallTranscriptReady():
            return _with_artifact(call, replace(call, has_transcript=True))
        case CallRecordingReady():
            return _with_artifact(call, replace(call, recording_url=call.recording_url or fact.recording_url))
        case WalletDebited():
            return _debited(call, fact)
        case _:
            assert_never(fact)


def told_late(call: Call) -> Folded:
    """The end of a call is told with what is known; the rest follows under names of its own."""
    return _tell_end(call) if call.is_over and not call.end_told else Folded(call)


def entry(event: Event, fact: Fact) -> TimelineEntry | None:
    """What the timeline says of an event."""
    match fact:
        case CallDialing():
            return _entry(event, fact, "dialing", event.time, attempt=fact.attempt)
        case CallProviderAccepted():
            accepted_at = min(event.time, fact.accepted_at or event.time)
            return _entry(event, fact, "provider-accepted", accepted_at, attempt=fact.attempt)
        case CallRetryScheduled():
            said = {"attempt": fact.attempt, "outcome": fact.outcome, "next_at": rfc3339(fact.next_at)}
            return _entry(event, fact, "retry-scheduled", event.time, **said)
        case CallInProgress():
            return _entry(event, fact, "in_progress", fact.started_at)
        case CallDisclosurePlayed():
            return _entry(event, fact, "disclosure-played", fact.at)
        case CallIntentDetected():
            return _entry(event, fact, "intent-detected", fact.at, intent=fact.intent)
        case CallHandoffRequested():
            return _entry(event, fact, "handoff-requested", fact.at)
        case CallCompleted() | CallFailed():
            end = {"ended_by": fact.ended_by, "ended_reason": fact.ended_reason, "duration_sec": fact.duration_sec}
            return _entry(event, fact, fact.status, fact.ended_at, **end)
        case CallTranscriptReady() | CallRecordingReady() | WalletDebited():
            return None
        case _:
            assert_never(fact)


def _dialing(call: Call, fact: CallDialing) -> Folded:
    """Of an attempt that was in vain nothing is dialing any more."""
    asked = _asked(call, fact)
    return Folded(asked) if asked.next_attempt_at is not None else _raised(asked, "dialing")


def _waiting(call: Call, fact: CallRetryScheduled) -> Call:
    """The last attempt was in vain. What is over, is talked on or was dialed again since is left alone."""
    if fact.attempt < call.attempt or _rank(call.status) > _RANK["dialing"]:
        return call
    return replace(_asked(call, fact), status="scheduled", next_attempt_at=fact.next_at)


def _asked(call: Call, fact: CallDialing | CallProviderAccepted | CallRetryScheduled | CallInProgress) -> Call:
    """An attempt's reference; that of the last attempt stays. An execution belongs to its attempt."""
    if fact.attempt <= call.attempt:
        return call
    return replace(
        call,
        attempt=fact.attempt,
        carried_by=fact.provider,
        provider_call_id=fact.provider_call_id,
        provider_execution_id=None,
        next_attempt_at=None,
    )


def _carried(call: Call, fact: CallProviderAccepted | CallInProgress) -> Call:
    """The provider's own id for the last attempt. After the end it stays as the end has it."""
    call = _asked(call, fact)
    if call.is_over or fact.attempt < call.attempt:
        return call
    return replace(call, provider_execution_id=call.provider_execution_id or fact.provider_execution_id)


def _answered(call: Call, fact: CallInProgress) -> Call:
    return replace(_carried(call, fact), started_at=call.started_at or fact.started_at)


def _raised(call: Call, status: Literal["dialing", "in_progress"]) -> Folded:
    if _rank(call.status) >= _RANK[status]:
        return Folded(call)
    return _tell(
        replace(call, status=status, next_attempt_at=None),
        "call.dialing" if status == "dialing" else "call.in_progress",
    )


def _ended(call: Call, fact: CallCompleted | CallFailed, *, at: datetime) -> Call:
    """The first end stays: there is one."""
    if call.is_over:
        return call
    is_last_attempt = fact.attempts >= call.attempt
    known_id = call.provider_execution_id if fact.attempts <= call.attempt else None
    return replace(
        call,
        status=fact.status,
        next_attempt_at=None,
        attempt=max(call.attempt, fact.attempts),
        carried_by=fact.provider if is_last_attempt else call.carried_by,
        provider_call_id=fact.provider_call_id if is_last_attempt else call.provider_call_id,
        provider_execution_id=fact.provider_execution_id or known_id,
        started_at=fact.started_at or call.started_at,
        ended_at=fact.ended_at,
        duration_sec=fact.duration_sec,
        ended_by=fact.ended_by,
        ended_reason=fact.ended_reason,
        answered_by=fact.answered_by,
        llm_extracted_intent=fact.llm_extracted_intent,
        llm_sentiment=fact.llm_sentiment,
        llm_outcome=fact.llm_outcome,
        transcript_due=ARTIFACT_TRANSCRIPT in fact.artifacts,
        recording_due=ARTIFACT_RECORDING in fact.artifacts,
        terminal_at=at,
    )


def _debited(call: Call, fact: WalletDebited) -> Folded:
    if call.is_settled:
        return Folded(call)
    settled = replace(call, debited_paise=fact.amount_paise)
    return _tell(settled, "call.billed") if call.end_told else _told_if_complete(settled)


def _with_artifact(before: Call, after: Call) -> Folded:
    if after == before:
        return Folded(before)
    if not before.end_told:
        return _told_if_complete(after)
    return _tell(after, "call.artifacts_ready") if after.has_its_artifacts else Folded(after)


def _told_if_complete(call: Call) -> Folded:
    complete = call.is_over and call.is_settled and call.has_its_artifacts
    return _tell_end(call) if complete and not call.end_told else Folded(call)


def _tell_end(call: Call) -> Folded:
    return _tell(replace(call, end_told=True), "call.completed" if call.status == "completed" else "call.failed")


def _tell(call: Call, name: Notification) -> Folded:
    return Folded(replace(call, customer_sequence=call.customer_sequence + 1), name)


def _rank(status: str) -> int:
    return _RANK.get(status, _OVER)


def _entry(event: Event, fact: Fact, name: str, at: datetime, **data: object) -> TimelineEntry:
    known = {key: value for key, value in data.items() if value is not None}
    return TimelineEntry(fact.call_id, fact.org_id, event.type.topic.name, event.sequence, name, at, known)
