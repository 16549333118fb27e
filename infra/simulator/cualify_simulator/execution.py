"""One execution, and how Bolna shows it: the full object (GET and webhook), the trimmed list row, the log.

Field names and types are the documented ones, their drift included: `conversation_duration` is a float while
`telephony_data.duration` is a string of digits, `telephony_data` is null until the call is dialed, and time stamps
come with an offset or naive. Duration, cost, recording, transcript and extraction stay 0 or null until `completed`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from cualify_simulator.agents import Agent
from cualify_simulator.callbacks import Mailbox
from cualify_simulator.script import Conversation, Fact, Hangup, Life, hangup_of, stamps_are_naive, talked_sec

Json: TypeAlias = dict[str, Any]

PROVIDER: Final = "exotel"
CENTS_PER_SEC: Final = 0.1
COST_SHARES: Final = {"llm": 0.1, "network": 0.3, "platform": 0.4, "synthesizer": 0.1, "transcriber": 0.1}

NOT_YET_DIALED: Final = frozenset({"queued", "scheduled", "rescheduled"})
UNDIALED: Final = NOT_YET_DIALED | {"stopped", "balance-low"}
TERMINAL: Final = frozenset({"completed", "no-answer", "busy", "failed", "canceled", "stopped", "error", "balance-low"})


@dataclass(frozen=True, slots=True)
class ToldFact:
    fact: Fact
    tool_id: str
    at: datetime


@dataclass(slots=True, eq=False)
class Execution:
    id: str
    agent: Agent
    life: Life
    to_e164: str
    from_e164: str
    user_data: Json | None
    cualify_ref: str | None
    recordings_url: str
    created_at: datetime
    status: str
    mailbox: Mailbox
    call_terminate_sec: float
    updated_at: datetime = field(init=False)
    scheduled_at: datetime | None = None
    initiated_at: datetime | None = None
    holds_line: bool = False
    has_rung: bool = False
    told: tuple[ToldFact, ...] = ()
    redials_left: int = 0
    """How often the provider rings again by itself where nobody was reached."""
    callback_url: str | None = None
    """Where a provider with one address a call posts to; Bolna's agents have their own."""
    answered_at: datetime | None = None
    cut_after_sec: float | None = None
    """How long was talked when the client hung up."""

    def __post_init__(self) -> None:
        self.updated_at = self.created_at

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def duration_sec(self) -> float:
        """What Bolna reports as talked: 0 until post-processing is done."""
        if self.status != "completed":
            return 0.0
        if self.cut_after_sec is not None:
            return self.cut_after_sec
        return talked_sec(self.life.end, call_terminate_sec=self.call_terminate_sec)

    @property
    def by_voicemail(self) -> bool | None:
        """Known only at the end, and only of a call that was answered."""
        if self.status != "completed" or not isinstance(self.life.end, Conversation):
            return None
        return self.life.end.is_voicemail

    def reach(self, status: str, at: datetime) -> None:
        self.status = status
        self.updated_at = at
        self.has_rung = self.has_rung or status == "ringing"
        if status == "initiated":
            self.initiated_at = at

    def tell(self, fact: Fact, *, tool_id: str, at: datetime) -> ToldFact:
        told = ToldFact(fact, tool_id, at)
        self.told = (*self.told, told)
        self.updated_at = at
        return told


def render(execution: Execution) -> Json:
    """The whole object, as `GET /executions/{id}` gives it and every webhook carries it."""
    conversation = execution.life.end if isinstance(execution.life.end, Conversation) else None
    finished = conversation if execution.status == "completed" else None
    cost_cents = round(execution.duration_sec * CENTS_PER_SEC, 4)
    return {
        "id": execution.id,
        "agent_id": execution.agent.id,
        "batch_id": None,
        "provider": PROVIDER,
        "status": execution.status,
        "error_message": _error_message(execution),
        "created_at": _stamp(execution, execution.created_at),
        "updated_at": _stamp(execution, execution.updated_at),
        "scheduled_at": _stamp(execution, execution.scheduled_at),
        "initiated_at": _stamp(execution, execution.initiated_at),
        "user_number": execution.to_e164,
        "agent_number": execution.from_e164,
        "conversation_duration": execution.duration_sec,
        "total_cost": cost_cents if finished else 0,
        "cost_breakdown": _cost_breakdown(cost_cents) if finished else None,
        "answered_by_voice_mail": execution.by_voicemail,
        "transcript": finished.transcript if finished else None,
        "extracted_data": dict(finished.extracted) if finished else None,
        "telephony_data": _telephony_data(execution),
        "transfer_call_data": None,
        "batch_run_details": None,
        "context_details": {
            "recipient_data": execution.user_data,
            "recipient_phone_number": execution.to_e164,
        },
        "tool_call_logs": [_tool_call(told) for told in execution.told] if finished else [],
        "retry_count": 0,
        "termination_reason": None,
    }


def render_event(execution: Execution, told: ToldFact) -> Json:
    """The agent's own tool calling the webhook in mid-conversation: the object, and what there is to tell."""
    return {
        **render(execution),
        "status": "in-progress",
        "cualify_event": {
            "id": told.tool_id,
            "type": told.fact.type,
            "at": told.at.isoformat(),
            "data": dict(told.fact.data),
        },
    }


def render_row(execution: Execution) -> Json:
    """A list row: trimmed, and in particular without our reference."""
    return {
        "id": execution.id,
        "status": execution.status,
        "conversation_duration": execution.duration_sec,
        "created_at": _stamp(execution, execution.created_at),
        "telephony_data": None
        if execution.status in UNDIALED
        else {"to_number": execution.to_e164, "from_number": execution.from_e164, "provider": PROVIDER},
    }


def render_log(execution: Execution) -> Json:
    finished = execution.life.end if execution.status == "completed" else None
    spoken = finished.transcript.splitlines() if isinstance(finished, Conversation) else []
    return {
        "data": [
            {
                "created_at": _stamp(execution, execution.updated_at),
                "component": "llm" if line.startswith("assistant:") else "transcriber",
                "type": "response" if line.startswith("assistant:") else "request",
                "provider": "simulator",
                "data": line.partition(": ")[2],
            }
            for line in spoken
        ],
        "status": execution.status,
    }


def _telephony_data(execution: Execution) -> Json | None:
    if execution.status in UNDIALED:
        return None
    hangup = _hangup(execution)
    return {
        "duration": str(int(execution.duration_sec)),
        "to_number": execution.to_e164,
        "from_number": execution.from_e164,
        "recording_url": _recording_url(execution),
        "hosted_telephony": False,
        "provider_call_id": execution.id.replace("-", ""),
        "call_type": "outbound",
        "provider": PROVIDER,
        "hangup_by": hangup.by if hangup else None,
        "hangup_reason": hangup.reason if hangup else None,
        "hangup_provider_code": hangup.provider_code if hangup else None,
        "ring_duration": None,
        "post_dial_delay": None,
        "to_number_carrier": None,
    }


def _hangup(execution: Execution) -> Hangup | None:
    if not execution.is_over and execution.status != "call-disconnected":
        return None
    return hangup_of(execution.life.end, call_terminate_sec=execution.call_terminate_sec)


def _recording_url(execution: Execution) -> str | None:
    return f"{execution.recordings_url}/{execution.id}" if execution.status == "completed" else None


def _error_message(execution: Execution) -> str | None:
    if isinstance(execution.life.end, Conversation) or not execution.is_over or execution.status == "stopped":
        return None
    return execution.life.end.error_message


def _cost_breakdown(cost_cents: float) -> Json:
    return {part: round(cost_cents * share, 4) for part, share in COST_SHARES.items()}


def _tool_call(told: ToldFact) -> Json:
    return {
        "id": told.tool_id,
        "name": "cualify_event",
        "created_at": told.at.isoformat(),
        "arguments": {"type": told.fact.type, "data": dict(told.fact.data)},
    }


def _stamp(execution: Execution, at: datetime | None) -> str | None:
    if at is None:
        return None
    return (at.replace(tzinfo=None) if stamps_are_naive(execution.to_e164) else at).isoformat()
