"""Which number leads to which life. Pure data and arithmetic: the same number always lives the same life.

The table is public documentation; all times are simulated seconds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

QUEUED_SEC = 1.0
"""From acceptance to dialing when a line is free."""

ROUTING_SEC = 1.0
"""From dialing to the first ring."""


class Answer(StrEnum):
    """How `POST /call` is answered."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    THROTTLED_TWICE = "throttled_twice"
    SERVER_ERROR = "server_error"
    GATEWAY_TIMEOUT = "gateway_timeout"
    DROPPED = "dropped"
    LATE = "late"
    NOT_JSON = "not_json"


class Callbacks(StrEnum):
    IN_ORDER = "in_order"
    NEVER = "never"
    TWICE_REORDERED = "twice_reordered"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something the agent tells us during the conversation, `after_sec` into it."""

    type: str
    after_sec: float
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hangup:
    by: str
    reason: str
    provider_code: int


BY_CALLEE = Hangup(by="Callee", reason="Normal Hangup", provider_code=4000)
BY_AGENT = Hangup(by="API Request", reason="llm_prompted_hangup", provider_code=4000)
BY_TIME_LIMIT = Hangup(by="API Request", reason="call_terminate", provider_code=4020)
BY_CARRIER = Hangup(by="Carrier", reason="Line Dropped", provider_code=3070)


@dataclass(frozen=True, slots=True)
class NeverDialed:
    status: str
    error_message: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    status: str
    ring_sec: float
    hangup: Hangup
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """`talk_sec` may be infinite: the agent's `call_terminate` ends every conversation."""

    talk_sec: float
    ring_sec: float = 4.0
    processing_sec: float = 3.0
    hangup: Hangup = BY_CALLEE
    is_voicemail: bool = False
    transcript: str = "assistant: Hello, this is an automated call. Is this a good time?\nuser: Yes, go ahead."
    extracted: Mapping[str, str] = field(
        default_factory=lambda: {"intent": "information", "sentiment": "neutral", "outcome": "answered"}
    )
    facts: tuple[Fact, ...] = ()
    odd_status: str | None = None
    """A status nobody has documented, half-way through the conversation."""


End: TypeAlias = NeverDialed | Unanswered | Conversation


@dataclass(frozen=True, slots=True)
class Life:
    end: End
    answer: Answer = Answer.ACCEPTED
    callbacks: Callbacks = Callbacks.IN_ORDER


DEMO_BOOKED = Conversation(
    talk_sec=142.0,
    ring_sec=8.0,
    hangup=BY_AGENT,
    transcript=(
        "assistant: Namaste, I am an automated assistant calling for your recent enquiry. This call is recorded.\n"
        "user: Yes, tell me.\n"
        "assistant: Would you like to see a demo this week?\n"
        "user: Yes, Thursday at four would be good.\n"
        "assistant: Done, Thursday at four. Thank you for your time."
    ),
    extracted={"intent": "demo_booked", "sentiment": "positive", "outcome": "demo_scheduled"},
    facts=(
        Fact(type="disclosure-played", after_sec=2.0),
        Fact(type="intent-detected", after_sec=95.0, data={"intent": "demo_booked"}),
    ),
)

HANDED_OVER = Conversation(
    talk_sec=90.0,
    transcript=(
        "assistant: Hello, this is an automated call. How can I help?\n"
        "user: I want to speak to a person.\n"
        "assistant: Of course, I am connecting you now."
    ),
    extracted={"intent": "human_requested", "sentiment": "neutral", "outcome": "handed_over"},
    facts=(Fact(type="handoff-requested", after_sec=20.0, data={"reason": "asked_for_a_person"}),),
)

VOICEMAIL = Conversation(
    talk_sec=5.0,
    hangup=BY_AGENT,
    is_voicemail=True,
    transcript="user: The person you are calling is not available. Please leave a message after the tone.",
    extracted={"intent": "none", "sentiment": "neutral", "outcome": "voicemail"},
)

A_MINUTE = Conversation(talk_sec=60.0)

BUSY = Unanswered("busy", ring_sec=4.0, hangup=Hangup("Carrier", "Busy Line", 3010))
NO_ANSWER = Unanswered("no-answer", ring_sec=30.0, hangup=Hangup("Carrier", "No Answer", 3000))
CARRIER_FAILED = Unanswered(
    "failed", ring_sec=4.0, hangup=Hangup("Carrier", "Network Error", 3040), error_message="call failed at the carrier"
)

LIVES: Mapping[str, Life] = {
    "+919990000142": Life(DEMO_BOOKED),
    "+919990000101": Life(BUSY),
    "+919990000102": Life(NO_ANSWER),
    "+919990000103": Life(CARRIER_FAILED),
    "+919990000104": Life(NeverDialed("refused", "recipient is blocked"), Answer.REFUSED),
    "+919990000105": Life(A_MINUTE, Answer.SERVER_ERROR),
    "+919990000106": Life(A_MINUTE, Answer.DROPPED),
    "+919990000107": Life(A_MINUTE, Answer.LATE),
    "+919990000108": Life(A_MINUTE, callbacks=Callbacks.NEVER),
    "+919990000109": Life(A_MINUTE, callbacks=Callbacks.TWICE_REORDERED),
    "+919990000110": Life(VOICEMAIL),
    "+919990000111": Life(Conversation(talk_sec=math.inf)),
    "+919990000112": Life(HANDED_OVER),
    "+919990000113": Life(A_MINUTE, Answer.THROTTLED_TWICE),
    "+919990000114": Life(A_MINUTE, Answer.NOT_JSON),
    "+919990000115": Life(Conversation(talk_sec=60.0, processing_sec=13 * 60.0, hangup=BY_CARRIER)),
    "+919990000116": Life(NeverDialed("balance-low", "wallet balance is too low")),
    "+919990000117": Life(Conversation(talk_sec=60.0, odd_status="quantum-leap")),
}


def life_of(to_e164: str) -> Life:
    return LIVES.get(to_e164) or Life(Conversation(talk_sec=30.0 + int(to_e164[-2:])))


def stamps_are_naive(to_e164: str) -> bool:
    """Bolna gives time stamps with an offset or without one; here an odd last digit means without."""
    return int(to_e164[-1]) % 2 == 1


def talked_sec(end: End, *, call_terminate_sec: float) -> float:
    return min(end.talk_sec, call_terminate_sec) if isinstance(end, Conversation) else 0.0


def hangup_of(end: End, *, call_terminate_sec: float) -> Hangup | None:
    if isinstance(end, NeverDialed):
        return None
    if isinstance(end, Conversation) and end.talk_sec > call_terminate_sec:
        return BY_TIME_LIMIT
    return end.hangup


@dataclass(frozen=True, slots=True)
class Reach:
    """The execution takes this status, `at_sec` after dialing began."""

    at_sec: float
    status: str


@dataclass(frozen=True, slots=True)
class Tell:
    at_sec: float
    fact: Fact
    tool_id: str


Step: TypeAlias = Reach | Tell


def steps_of(end: End, *, call_terminate_sec: float) -> tuple[Step, ...]:
    """The life from dialing on, in the order in which it happens."""
    if isinstance(end, NeverDialed):
        return (Reach(0.0, end.status),)
    dialed = (Reach(0.0, "initiated"), Reach(ROUTING_SEC, "ringing"))
    over_at = ROUTING_SEC + end.ring_sec
    if isinstance(end, Unanswered):
        return (*dialed, Reach(over_at, end.status))
    return (*dialed, *_conversation(end, over_at, talked_sec(end, call_terminate_sec=call_terminate_sec)))


def _conversation(end: Conversation, answered_at: float, talk_sec: float) -> tuple[Step, ...]:
    dropped_at = answered_at + talk_sec
    told: list[Step] = [
        Tell(answered_at + fact.after_sec, fact, f"tool_{number}")
        for number, fact in enumerate(end.facts, start=1)
        if fact.after_sec < talk_sec
    ]
    odd: list[Step] = [Reach(answered_at + talk_sec / 2, end.odd_status)] if end.odd_status else []
    return (
        Reach(answered_at, "in-progress"),
        *sorted((*told, *odd), key=lambda step: step.at_sec),
        Reach(dropped_at, "call-disconnected"),
        Reach(dropped_at + end.processing_sec, "completed"),
    )
