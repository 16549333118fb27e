"""What a delivery is made of, from its event to the result of an attempt."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

State = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a delivery goes, with what signs it."""

    id: UUID
    org_id: UUID
    url: str
    secret_sealed: bytes
    secret_key_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A delivery that this process has claimed. `burned` counts the attempts so far that count towards the ten."""

    event_id: UUID
    type: str
    body: bytes
    endpoint: Endpoint
    lease_token: UUID
    burned: int
    created_at: datetime
    out_of_order: bool


@dataclass(frozen=True, slots=True)
class Notification:
    """An event as it is told, and to which subject's row of events it belongs."""

    event_id: UUID
    org_id: UUID
    subject_id: UUID
    type: str
    sequence: int
    occurred_at: datetime
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """How one attempt ended. `state` pending means: again in `again_in_sec`."""

    job: Job
    state: State
    at: datetime
    duration_ms: int
    status_code: int | None
    failure_code: str | None
    again_in_sec: float
    burned: bool
    gone: bool
    """The server said that the URL is gone: the endpoint is paused."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A result that counted: its lease still held and its endpoint was there. `sequence` is that of its event."""

    n: int
    attempt: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Paused:
    """An endpoint that this batch has paused. `sequence` is that of the event which says so."""

    endpoint_id: UUID
    org_id: UUID
    sequence: int
