"""A call as customers see it: the same in `GET`, in the list, and in every notification."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cualify_api.calls.call import REF_PREFIX, Call, TimelineEntry
from cualify_shared.clock import rfc3339
from cualify_shared.ids import provider_ref


def view(call: Call) -> dict[str, Any]:
    """The resource, without transcript and timeline. JSON-ready."""
    return {
        "id": str(call.id),
        "status": call.status,
        "direction": "outbound",
        "agent_id": str(call.agent_id),
        "from_e164": call.from_e164,
        "to_e164": call.to_e164,
        "language": call.language,
        "duration_sec": call.duration_sec,
        "max_duration_sec": call.max_duration_sec,
        "credits_debited_paise": call.debited_paise,
        "hold_paise": None if call.is_settled else call.hold_paise,
        "recording_url": call.recording_url,
        "llm_extracted_intent": call.llm_extracted_intent,
        "llm_sentiment": call.llm_sentiment,
        "llm_outcome": call.llm_outcome,
        "ended_by": call.ended_by,
        "ended_reason": call.ended_reason,
        "answered_by": call.answered_by,
        "provider": call.carried_by or call.provider,
        "provider_call_id": call.provider_call_id,
        "provider_execution_id": call.provider_execution_id,
        "external_id": call.external_id,
        "metadata": call.metadata,
        "test": call.test,
        "schedule": {"earliest_at": _instant(call.earliest_at), "latest_at": _instant(call.latest_at)},
        "retry": call.retry,
        "next_attempt_at": _instant(call.next_attempt_at),
        "cancel_requested_at": _instant(call.cancel_requested_at),
        "started_at": _instant(call.started_at),
        "ended_at": _instant(call.ended_at),
        "created_at": _instant(call.created_at),
    }


def detail(call: Call, *, transcript: Any, timeline: Sequence[TimelineEntry]) -> dict[str, Any]:
    """The resource with the transcript, once completed, and the timeline, oldest first."""
    return {
        **view(call),
        "transcript": transcript if call.status == "completed" else None,
        "events": events(timeline),
    }


def told(call: Call, *, timeline: Sequence[TimelineEntry]) -> dict[str, Any]:
    """What notifications say: the resource with the timeline, without the transcript."""
    return {**view(call), "events": events(timeline)}


def events(timeline: Sequence[TimelineEntry]) -> list[dict[str, Any]]:
    """The timeline, line by line."""
    return [{"type": entry.type, "at": rfc3339(entry.at), "data": entry.data} for entry in timeline]


def accepted(call: Call) -> dict[str, Any]:
    """The answer to the request that placed the call: made of what never changes, so that it can be given again."""
    return {
        "id": str(call.id),
        "status": "queued" if call.earliest_at is None else "scheduled",
        "direction": "outbound",
        "agent_id": str(call.agent_id),
        "to_e164": call.to_e164,
        "from_e164": call.from_e164,
        "language": call.language,
        "max_duration_sec": call.max_duration_sec,
        "hold_paise": call.hold_paise,
        "provider": call.provider,
        "provider_call_id": provider_ref(prefix=REF_PREFIX[call.provider], call_id=call.id, attempt=1),
        "external_id": call.external_id,
        "metadata": call.metadata,
        "test": call.test,
        "schedule": {"earliest_at": _instant(call.earliest_at), "latest_at": _instant(call.latest_at)},
        "retry": call.retry,
        "created_at": _instant(call.created_at),
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)
