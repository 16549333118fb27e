"""A call as the api knows it: one row of `calls`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

STATUSES: Final = (
    "scheduled",
    "queued",
    "dialing",
    "in_progress",
    "completed",
    "failed",
    "no_answer",
    "busy",
    "canceled",
)

REF_PREFIX: Final[Mapping[str, str]] = {"bolna": "boln", "exotel": "exo", "plivo": "plvo", "twilio": "twil"}
"""How our reference begins at each provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was accepted, what became of it, and what the customer has been told."""

    id: UUID
    org_id: UUID
    agent_id: UUID
    status: str
    from_e164: str | None
    to_e164: str
    language: str
    metadata: dict[str, Any]
    external_id: str | None
    key_prefix: str
    request_id: str
    created_at: datetime
    earliest_at: datetime | None
    latest_at: datetime
    rate_paise_per_sec: int
    pulse_sec: int
    max_duration_sec: int
    hold_paise: int
    provider: str
    """The agent's, when the call was accepted."""
    provider_call_id: str
    """The last attempt's reference."""
    retry: dict[str, Any] | None = None
    """`{max_attempts, on, intervals_min}`; None: it rings once."""
    test: bool = False
    """Placed with a test key: rings nobody, costs nothing."""
    cancel_requested_at: datetime | None = None
    provider_execution_id: str | None = None
    carried_by: str | None = None
    """The provider of the last attempt, which may be one of the agent's fallbacks."""
    attempt: int = 0
    next_attempt_at: datetime | None = None
    """It rang in vain and waits to be rung again: not before this."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_sec: int | None = None
    ended_by: str | None = None
    ended_reason: str | None = None
    answered_by: str | None = None
    llm_extracted_intent: str | None = None
    llm_sentiment: str | None = None
    llm_outcome: str | None = None
    transcript_due: bool = False
    """The end of the call announced one."""
    has_transcript: bool = False
    recording_due: bool = False
    recording_url: str | None = None
    debited_paise: int | None = None
    """What the call cost; known once, and then the hold is gone."""
    terminal_at: datetime | None = None
    """When the end was folded in here."""
    end_told: bool = False
    customer_sequence: int = 0
    """How many notifications of this call there are."""

    @property
    def is_over(self) -> bool:
        """Whether the status can't change any more."""
        return self.terminal_at is not None

    @property
    def is_settled(self) -> bool:
        """Whether the cost is known and the hold released."""
        return self.debited_paise is not None

    @property
    def has_its_artifacts(self) -> bool:
        """Whether everything that the end announced is there."""
        return (self.has_transcript or not self.transcript_due) and (
            self.recording_url is not None or not self.recording_due
        )


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """Something that happened to a call. (source, sequence) names the event that it came from."""

    call_id: UUID
    org_id: UUID
    source: str
    sequence: int
    type: str
    at: datetime
    data: dict[str, Any]
