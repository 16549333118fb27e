"""A call as the dialer keeps it: the job, its attempts, and what may be learnt about them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from cualify_dialer.providers import Answer, HangUp, LookUp, Snapshot
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
        return _RANKS[self]


_RANKS = {state: place for place, state in enumerate(AttemptState)}


class HangUpState(StrEnum):
    """What came of our wish to end an execution. None, in an attempt: we did not ask, or do not know."""

    DONE = "done"
    TOO_LATE = "too_late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One time that a provider was asked. `result` says how it ended, in our words."""

    number: int
    ref: str
    provider: str
    agent_id: str
    state: AttemptState
    asked_at: datetime
    look_up_at: datetime
    empty_looks: int = 0
    execution_id: str | None = None
    carrier_id: str | None = None
    """What the provider lists the call under, where that is another id."""
    second_id: str | None = None
    """A second execution of this attempt that the provider told of: there must never be one."""
    provider_status: str | None = None
    started_at: datetime | None = None
    disconnected_at: datetime | None = None
    told: frozenset[str] = frozenset()
    hang_up: HangUpState | None = None
    result: str | None = None
    ended_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether its phone may ring or be talked on."""
        return self.state is not AttemptState.ENDED

    @property
    def may_have_rung(self) -> bool:
        """Whether it is not known that nobody was rung."""
        return self.result not in NOBODY_RUNG


NOBODY_RUNG = frozenset({"refused", "throttled", "not_sent"})
"""Results that prove it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A job with all of its attempts. The sequences are those of the last events that were emitted.

    `route` counts the providers that were passed over: 0 is the one that the request names.
    """

    request: CallRequested
    state: CallState
    next_at: datetime
    cancel_requested_at: datetime | None = None
    event_sequence: int = 0
    artifact_sequence: int = 0
    route: int = 0
    correlation_id: str | None = None
    status: str | None = None
    ended_reason: str | None = None
    ended_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def call_id(self) -> UUID:
        """The natural key of everything."""
        return self.request.call_id

    @property
    def routes(self) -> tuple[tuple[str, str], ...]:
        """(provider, agent id) of each provider that may be asked, in order."""
        own = (self.request.provider, self.request.provider_agent_id)
        return (own, *((one.provider, one.provider_agent_id) for one in self.request.fallback_providers or ()))

    @property
    def provider(self) -> str:
        """Who is asked next."""
        return self.routes[self.route][0]

    @property
    def agent_id(self) -> str:
        """The agent there."""
        return self.routes[self.route][1]

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn."""
        return self.state is CallState.QUEUED

    @property
    def holds_its_number(self) -> bool:
        """Whether one of its attempts is open: no other call may ring there. That may be so after its end."""
        return any(attempt.is_open for attempt in self.attempts)

    @property
    def lines(self) -> int:
        """How many lines its attempts take: one that dropped is free."""
        return sum(attempt.is_open and attempt.state is not AttemptState.DISCONNECTED for attempt in self.attempts)

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
class Rerouted:
    """The provider whose turn it is can't be asked for now: on to the next one, without an attempt."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """It can't be known now whether it may be dialed; it waits, and others go first."""

    until: datetime


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
    """What the provider said when we asked. `leased_until` is the fence: a look that was overtaken sets no new time.

    `hang_up` is what it had said just before, if we asked it to end the call.
    """

    number: int
    look: LookUp
    leased_until: datetime
    hang_up: HangUp | None = None


Learnt: TypeAlias = Begun | GivenUp | Rerouted | Postponed | CancelWanted | Answered | Heard | LookedUp


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
    overtime_sec: float = 60.0
    """A call ends `max_duration_sec` and so long after it was dialed, ringing included, if not before."""
    hang_up_early_sec: float = 15.0
    """So long before that it is hung up, unless its talking time was over before."""
    last_look_early_sec: float = 5.0
    """So long before that it is looked at for the last time, and ended by what is known of it."""
    give_up_after_sec: float = 3600.0
    """So long after that an attempt that never ends, or that can not be read, is parked as `outcome_unknown`."""

    @property
    def hang_up_after_sec(self) -> float:
        """An attempt is hung up `max_duration_sec` and so long after it was dialed."""
        return self.overtime_sec - self.hang_up_early_sec


def time_limit(
    *, asked_at: datetime, started_at: datetime | None, max_duration_sec: int, overtime_sec: float
) -> datetime:
    """When a call is to be hung up: its talking time after the answer, else that and the overtime after the dialing."""
    latest = asked_at + timedelta(seconds=max_duration_sec + overtime_sec)
    return min(latest, started_at + timedelta(seconds=max_duration_sec)) if started_at else latest
