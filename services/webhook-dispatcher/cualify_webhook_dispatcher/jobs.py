"""What a delivery is made of, from its event to the result of an attempt."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from cualify_shared.values import quick_thing, quick_value

State = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a delivery goes, with what signs it."""

    id: UUID
    org_id: UUID
    url: str
    secret_sealed: bytes
    secret_key_id: str
    old_secret_sealed: bytes | None = None
    """The secret before the last rotation. It signs beside the other until `old_secret_until`."""
    old_secret_key_id: str | None = None
    old_secret_until: datetime | None = None
    recovered_at: datetime | None = None
    """When its breaker last closed: what follows starts slowly."""


@quick_thing
class Job:
    """A delivery that this process has claimed. `burned` counts the attempts so far that count towards the ten."""

    event_id: UUID
    type: str
    body: bytes
    endpoint_id: UUID
    lease_token: UUID
    burned: int
    created_at: datetime
    out_of_order: bool
    low: bool = False
    """Sent again for a replay: after everything that is new."""
    probe: bool = False
    """Sent although the breaker is open, to see whether the endpoint is back."""


@quick_value
class Notification:
    """An event as it is told, and to which subject's row of events it belongs."""

    event_id: UUID
    org_id: UUID
    subject_id: UUID
    type: str
    sequence: int
    occurred_at: datetime
    body: bytes


@quick_thing
class Result:
    """How one attempt ended. What follows for its delivery is decided when it is recorded."""

    job: Job
    endpoint: Endpoint
    at: datetime
    duration_ms: int
    status_code: int | None
    failure_code: str | None
    asked_sec: float | None
    """What `Retry-After` asked for."""
    response: bytes | None
    """How the answer's body begins."""

    @property
    def gone(self) -> bool:
        """The server said that the URL is gone: the endpoint is paused."""
        return self.status_code == 410


@quick_value
class Verdict:
    """What an attempt means for its delivery. `state` pending means: again in `again_in_sec`."""

    state: State
    again_in_sec: float
    burned: bool
    asked: bool
    """Its server asked for that time: it is not brought forward."""


@quick_value
class Recorded:
    """A result that counted: its lease still held and its endpoint was there. `sequence` is that of its event."""

    n: int
    attempt: int
    sequence: int
    final: bool


@dataclass(frozen=True, slots=True)
class Paused:
    """An endpoint that this batch has paused. `sequence` is that of the event which says so."""

    endpoint_id: UUID
    org_id: UUID
    reason: str
    sequence: int
