"""What a telephony provider is to the dialer: it is asked once, it can be asked what happened, and it tells by itself.

`Answer` is the whole point: of a request to ring somebody we know that it was taken, that it was not, or that we don't
know. Only an adapter may say which, and it says `Unknown` whenever bytes may have left.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, TypeAlias

from cualify_shared.events.call import TranscriptTurn


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt as the provider is to know it. `ref` comes back in everything that the provider says of it.

    `callback_url` is the attempt's own, unguessable; `not_ours` are executions that belong to other attempts.
    """

    ref: str
    agent_id: str
    to_e164: str
    from_e164: str | None
    asked_at: datetime
    max_duration_sec: int
    callback_url: str = ""
    execution_id: str | None = None
    carrier_id: str | None = None
    not_ours: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took the call, under this id."""

    execution_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody is rung, and asking again would change nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Nobody is rung; the provider wants to be asked later."""

    retry_after_sec: float | None


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte of the request left: nobody is rung. `by_us`: and the provider has nothing to do with it."""

    reason: str
    by_us: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """Somebody may be rung. Never ask again; look it up."""

    why: str


Answer: TypeAlias = Accepted | Refused | Throttled | NotSent | Unknown


class Phase(StrEnum):
    """Where a call stands at the provider, in our words."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    DISCONNECTED = "disconnected"
    """The line dropped; what was said is still being worked on. Not an end."""
    COMPLETED = "completed"
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    FAILED = "failed"
    CANCELED = "canceled"
    ERROR = "error"
    BALANCE_LOW = "balance_low"
    UNHEARD_OF = "unheard_of"
    """A status that nobody has documented. It is kept and means nothing."""


LAST_PHASES = frozenset(
    {Phase.COMPLETED, Phase.NO_ANSWER, Phase.BUSY, Phase.FAILED, Phase.CANCELED, Phase.ERROR, Phase.BALANCE_LOW}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFact:
    """Something the agent told us in mid-conversation. `tool_id` is unique within the attempt."""

    tool_id: str
    type: str
    at: datetime | None
    intent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An execution as the provider showed it at one moment."""

    execution_id: str
    ref: str | None
    phase: Phase
    status: str
    """The provider's own word."""
    is_waiting: bool = False
    """It is in the provider's queue: nobody has been rung yet, and it can be stopped for certain."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    initiated_at: datetime | None = None
    talked_sec: Decimal = Decimal(0)
    carrier_id: str | None = None
    """What the provider lists the call under, where that is another than `execution_id`."""
    cost_cents: float | None = None
    """What the provider charges us, in US cents, where it says so."""
    ended_by: str | None = None
    answered_by: str | None = None
    transcript: tuple[TranscriptTurn, ...] = ()
    recording_url: str | None = None
    intent: str | None = None
    sentiment: str | None = None
    outcome: str | None = None
    facts: tuple[ToolFact, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether nothing follows at the provider."""
        return self.phase in LAST_PHASES


@dataclass(frozen=True, slots=True)
class Found:
    """`others` are further executions of the same attempt: there must never be one. Where the provider repeats our
    reference they are surely the same attempt's; else they only ring the same number at that time."""

    snapshot: Snapshot
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """The provider answered completely, and has nothing of the kind."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """The provider could not be asked, or its answer not be understood; nothing follows from it."""

    why: str


LookUp: TypeAlias = Found | Missing | Unclear


@dataclass(frozen=True, slots=True)
class Stopped:
    """The provider ends the execution because we asked; what it reports then is its end."""


@dataclass(frozen=True, slots=True)
class TooLate:
    """The provider can't end it any more, and never will."""


HangUp: TypeAlias = Stopped | TooLate | Unclear


@dataclass(frozen=True, slots=True)
class Ready:
    """The agent may be dialed with."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """It must not be: what the provider would do with the call is not what was asked for, or there is no such agent."""

    why: str
    ended_reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The provider could not be asked."""

    why: str


Readiness: TypeAlias = Ready | Unfit | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRequest:
    """An HTTP request to the callback route. `url` is the one that we had given to the provider, `ref` that in it."""

    url: str
    ref: str | None
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class NotACall:
    """A callback that says nothing about a call, or nothing that can be understood."""


@dataclass(frozen=True, slots=True)
class Forged:
    """It does not come from the provider."""

    why: str


Callback: TypeAlias = Snapshot | NotACall | Forged


class Provider(Protocol):
    """One telephony provider."""

    @property
    def name(self) -> str:
        """As events call it: `bolna`."""

    @property
    def ref_prefix(self) -> str:
        """What our references start with there: `boln`."""

    @property
    def dial_timeout_sec(self) -> float:
        """How long `dial` may take."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Opens the connections, and closes them in the end."""

    def readiness(self, agent_id: str) -> Readiness | None:
        """Whether this agent may be dialed with, as far as that is known and fresh; None if it is not."""

    async def find_out(self, agent_id: str) -> None:
        """Makes `readiness` known. Rings nobody, never raises but for cancellation."""

    async def dial(self, order: Order) -> Answer:
        """Asks once to ring somebody. Never raises but for cancellation, never sends anything twice."""

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        """What became of an order: read by the execution's id, searched for where we never got one."""

    async def hang_up(self, execution_id: str) -> HangUp:
        """Asks to end an execution, whether it waits, rings or is talked on."""

    def parse_callback(self, request: CallbackRequest) -> Callback:
        """What the provider tells by itself."""
