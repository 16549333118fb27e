"""What Bolna says, read tolerantly: unknown fields, nulls, names that drift, numbers as text, statuses unheard of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from typing import Any

import orjson

from cualify_dialer.providers import Phase, Snapshot, ToolFact
from cualify_shared.events.call import TranscriptTurn

PHASES: Mapping[str, Phase] = {
    "scheduled": Phase.PENDING,
    "prepared": Phase.PENDING,
    "queued": Phase.PENDING,
    "rescheduled": Phase.PENDING,
    "initiated": Phase.PENDING,
    "ringing": Phase.PENDING,
    "in-progress": Phase.IN_PROGRESS,
    "call-disconnected": Phase.DISCONNECTED,
    "completed": Phase.COMPLETED,
    "no-answer": Phase.NO_ANSWER,
    "busy": Phase.BUSY,
    "failed": Phase.FAILED,
    "canceled": Phase.CANCELED,
    "cancelled": Phase.CANCELED,
    "stopped": Phase.CANCELED,
    "error": Phase.ERROR,
    "balance-low": Phase.BALANCE_LOW,
}
"""Every status there is. Any other is unheard of: to call it failed would be to invite a second call."""

WAITING = frozenset({"scheduled", "prepared", "queued", "rescheduled"})
"""Statuses of what is not yet being dialed. Only such an execution can be stopped."""

ENDED_BY: Mapping[str, str] = {
    "callee": "callee",
    "api request": "agent",
    "caller": "agent",
    "carrier": "provider",
    "error": "provider",
    "plivo": "provider",
}
"""By `hangup_by`; `Unknown` and nothing say nothing."""

TIME_LIMIT_REASON = "call_terminate"
ROLES = {"assistant": "agent", "user": "callee"}
TURN = re.compile(r"^(assistant|user):[ \t]?", re.MULTILINE | re.IGNORECASE)
TURN_LIMIT_CHARS = 20_000
TURNS_LIMIT = 5_000
TRANSCRIPT_LIMIT_BYTES = 900_000
"""As JSON: a broker takes a record of a megabyte, and a larger one would never reach the customer."""
TURN_BYTES = len('{"role":"callee","text":,"at_ms":null},')
FACTS_LIMIT = 100
COST_LIMIT_CENTS = 1_000_000
ID_LIMIT_CHARS = 128


@dataclass(frozen=True, slots=True)
class ListedRow:
    """A row of the list: it never surely carries our reference."""

    execution_id: str
    to_number: str | None

    def may_ring(self, to_e164: str) -> bool:
        """Whether it does not surely ring somebody else."""
        return self.to_number is None or digits(self.to_number)[-10:] == digits(to_e164)[-10:]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list."""

    rows: Sequence[ListedRow]
    has_more: bool


def listed(body: Any) -> Page | None:
    """A page of the list; None if it is none, which is not the same as an empty one."""
    data, has_more = at(body, "data"), at(body, "has_more")
    if not isinstance(data, list) or not isinstance(has_more, bool):
        return None
    rows = [
        ListedRow(execution_id, text_at(row, "telephony_data", "to_number"))
        for row in data
        if (execution_id := execution_id_in(row))
    ]
    return Page(rows, has_more) if len(rows) == len(data) else None


def heard_in(body: Any) -> Snapshot | None:
    """Where an execution stands, and what its agent told; None if there is no id or status in it."""
    execution_id, status = execution_id_in(body), text_at(body, "status")
    if execution_id is None or status is None:
        return None
    word = status.lower().replace("_", "-")
    return Snapshot(
        execution_id=execution_id,
        ref=text_at(body, "context_details", "recipient_data", "cualify_ref"),
        phase=PHASES.get(word, Phase.UNHEARD_OF),
        status=status[:64],
        is_waiting=word in WAITING,
        updated_at=instant_at(body, "updated_at"),
        facts=_facts(body),
    )


def snapshot_in(body: Any) -> Snapshot | None:
    """All that is said of an execution; None if there is no id or status in it."""
    heard = heard_in(body)
    if heard is None:
        return None
    return replace(
        heard,
        created_at=instant_at(body, "created_at"),
        initiated_at=instant_at(body, "initiated_at"),
        talked_sec=_talked_sec(body),
        cost_cents=_cost_cents(body),
        ended_by=_ended_by(body),
        answered_by=_answered_by(body),
        transcript=turns_in(text_at(body, "transcript") or ""),
        recording_url=_recording_url(body),
        intent=text_at(body, "extracted_data", "intent"),
        sentiment=text_at(body, "extracted_data", "sentiment"),
        outcome=text_at(body, "extracted_data", "outcome"),
    )


def execution_id_in(body: Any) -> str | None:
    """`execution_id` where a call was asked for, `id` everywhere else."""
    found = text_at(body, "execution_id") or text_at(body, "id")
    return found if found and len(found) <= ID_LIMIT_CHARS else None


def redials_by_itself(agent: Any, *, depth: int = 0) -> str | None:
    """The switch of an agent, wherever it stands, that has Bolna ring again or at another hour; None if all are off."""
    if depth > 8:
        return None
    if isinstance(agent, list):
        return next((found for one in agent if (found := redials_by_itself(one, depth=depth + 1))), None)
    if not isinstance(agent, dict):
        return None
    if agent.get("auto_reschedule") not in (None, False):
        return "auto_reschedule"
    retry = agent.get("retry_config")
    if retry and not (isinstance(retry, dict) and retry.get("enabled") in (None, False)):
        return "retry_config"
    guardrails = agent.get("calling_guardrails")
    if isinstance(guardrails, dict):
        guardrails = [hour for hour in guardrails.values() if hour is not None]
    if guardrails:
        return "calling_guardrails"
    return next((found for one in agent.values() if (found := redials_by_itself(one, depth=depth + 1))), None)


def turns_in(transcript: str) -> tuple[TranscriptTurn, ...]:
    """`assistant: …\\nuser: …` as turns. Lines without a speaker belong to the turn before them."""
    parts = TURN.split(transcript)
    spoken = [(ROLES[role.lower()], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)]
    if parts[0].strip():
        spoken.insert(0, ("agent", parts[0].strip()))
    turns = [TranscriptTurn(role=role, text=text[:TURN_LIMIT_CHARS]) for role, text in spoken[:TURNS_LIMIT] if text]
    sizes = accumulate(len(orjson.dumps(turn.text)) + TURN_BYTES for turn in turns)
    return tuple(turn for turn, size in zip(turns, sizes, strict=True) if size <= TRANSCRIPT_LIMIT_BYTES)


def digits(number: str) -> str:
    """Only the digits of a phone number."""
    return re.sub(r"\D", "", number)


def at(body: Any, *path: str) -> Any:
    """What stands at a path; None where anything on the way is missing, null or no object."""
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


def text_at(body: Any, *path: str) -> str | None:
    """A text that is not empty, or a number as text."""
    value = at(body, *path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    # PostgreSQL takes no NUL in a text.
    return value.replace("\x00", "").strip() or None if isinstance(value, str) else None


def instant_at(body: Any, *path: str) -> datetime | None:
    """A time stamp; without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(text_at(body, *path) or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _talked_sec(body: Any) -> Decimal:
    """`conversation_duration`, `conversation_time` in older accounts; to the last digit, because it becomes money."""
    for name in ("conversation_duration", "conversation_time"):
        try:
            found = Decimal(str(at(body, name)))
        except InvalidOperation:
            continue
        if found.is_finite() and 0 <= found <= 86_400:
            return found
    return Decimal(0)


def _cost_cents(body: Any) -> float | None:
    """`total_cost`, in US cents; 0 until the call is completed."""
    try:
        found = float(text_at(body, "total_cost") or "nan")
    except ValueError:
        return None
    return found if 0 <= found <= COST_LIMIT_CENTS else None


def _ended_by(body: Any) -> str | None:
    if text_at(body, "telephony_data", "hangup_reason") == TIME_LIMIT_REASON:
        return "platform"
    return ENDED_BY.get((text_at(body, "telephony_data", "hangup_by") or "").lower())


def _answered_by(body: Any) -> str | None:
    """Null has been seen on a real voicemail, so it says nothing."""
    answer = at(body, "answered_by_voice_mail")
    return "voicemail" if answer is True else "human" if answer is False else None


def _recording_url(body: Any) -> str | None:
    url = text_at(body, "telephony_data", "recording_url")
    return url if url and len(url) <= 2048 and url.startswith(("https://", "http://")) else None


def _facts(body: Any) -> tuple[ToolFact, ...]:
    """What the agent told: the one of this callback, else all that are in the execution's log of tool calls."""
    told = at(body, "cualify_event")
    logged = at(body, "tool_call_logs")
    calls = logged if isinstance(logged, list) else []
    found = [_fact(told, type_at=("type",), data_at=("data",), time_at="at")] if isinstance(told, dict) else []
    found += [
        _fact(call, type_at=("arguments", "type"), data_at=("arguments", "data"), time_at="created_at")
        for call in calls[:FACTS_LIMIT]
        if text_at(call, "name") == "cualify_event"
    ]
    return tuple(fact for fact in found if fact is not None)


def _fact(told: Any, *, type_at: Sequence[str], data_at: Sequence[str], time_at: str) -> ToolFact | None:
    tool_id, kind = text_at(told, "id"), text_at(told, *type_at)
    if tool_id is None or kind is None:
        return None
    return ToolFact(
        tool_id=tool_id[:ID_LIMIT_CHARS],
        type=kind,
        at=instant_at(told, time_at),
        intent=text_at(told, *data_at, "intent"),
    )
