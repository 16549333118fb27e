"""A call as the dialer keeps it: the job, its attempts, and what may be learnt about them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from cualify_dialer.providers import Answer, LookUp, Snapshot
from cualify_shared.events.call import CallRequested


class CallState(StrEnum):
    """A job's life. (A tombstone, in the table, is no call yet.)"""

    QUEUED = "queued"
    OPEN = "open"
    ENDED = "ended"


class AttemptState(StrEnum):
    """An attempt's life, forward only. All but the last are open: the callee's number is taken."""

    ASKING = "asking"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    DISCONNECTED = "disconnected"
    ENDED = "ended"

    @property
    def rank(self) -> int:
        """How far it is."""
        return list(AttemptState).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One time that the provider was asked. `result` says how it ended, in our words."""

    number: int
    ref: str
    state: AttemptState
    asked_at: datetime
    look_up_at: datetime
    empty_looks: int = 0
    execution_id: str | None = None
    provider_status: str | None = None
    started_at: datetime | None = None
    disconnected_at: datetime | None = None
    told: frozenset[str] = frozenset()
    result: str | None = None
    ended_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether its phone may ring or be talked on."""
        return self.state is not AttemptState.ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A job with all of its attempts. The sequences are those of the last events that were emitted."""

    request: CallRequested
    state: CallState
    next_at: datetime
    cancel_requested_at: datetime | None = None
    event_sequence: int = 0
    artifact_sequence: int = 0
    status: str | None = None
    ended_reason: str | None = None
    ended_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def call_id(self) -> UUID:
        """The natural key of everything."""
        return self.request.call_id

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn."""
        return self.state is CallState.QUEUED

    def attempt(self, number: int) -> Attempt | None:
        """An attempt by its number."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The gate let the call through; the attempt is committed before the provider is asked."""

    ref: str
    asked_at: datetime
    asking_until: datetime


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The gate let the call go: it is not dialed any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelWanted:
    """The customer does not want the call."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    """What the provider said to our request, or that we don't know."""

    number: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Heard:
    """A callback."""

    number: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What the provider said when we asked. `leased_until` is the fence: a look that was overtaken sets no new time."""

    number: int
    look: LookUp
    leased_until: datetime


Learnt: TypeAlias = Begun | GivenUp | CancelWanted | Answered | Heard | LookedUp


@dataclass(frozen=True, slots=True)
class Noted:
    """Something learnt about a call."""

    call_id: UUID
    learnt: Learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often we ask, and when we give up asking."""

    look_up_every_sec: float = 30.0
    settle_unknown_sec: float = 900.0
    look_up_soon_sec: float = 1.0
    empty_looks_enough: int = 3
    again_after_sec: tuple[float, ...] = (1, 2, 5, 10, 30, 60, 120, 300)
    attempts_limit: int = 100
