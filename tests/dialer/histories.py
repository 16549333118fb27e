"""A call and what is learnt of it, for tests of `outcomes`."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cualify_dialer.model import (
    Begun,
    Call,
    CallState,
    Learnt,
    LookedUp,
)
from cualify_dialer.outcomes import Step, fold
from cualify_dialer.providers import (
    Found,
    LookUp,
    Phase,
    Snapshot,
    ToolFact,
)
from cualify_shared.events import EventData, type_of
from cualify_shared.events.call import (
    TranscriptTurn,
)
from tests.dialer.support import PACE, a_request, a_snapshot

T0 = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
REF = "boln_1"
TALKED = replace(
    a_snapshot(Phase.COMPLETED, ref=REF),
    talked_sec=Decimal("141.2"),
    cost_cents=7.25,
    updated_at=T0 + timedelta(seconds=200),
    transcript=(TranscriptTurn(role="agent", text="Namaste"),),
    recording_url="https://recordings.example/1",
    facts=(ToolFact(tool_id="tool_1", type="disclosure-played", at=T0 + timedelta(seconds=20)),),
    ended_by="agent",
    answered_by="human",
    intent="demo_booked",
)


def a_call() -> Call:
    return Call(request=a_request(requested_at=T0), state=CallState.QUEUED, next_at=T0)


def after(call: Call, *learnt: Learnt, now: datetime = T0 + timedelta(seconds=300)) -> tuple[Call, list[EventData]]:
    told: list[EventData] = []
    for one in learnt:
        step = fold(call, one, now=now, pace=PACE)
        call, told = step.call, told + list(step.told)
    return call, told


def names(told: list[EventData]) -> list[str]:
    return [type_of(one).name for one in told]


BEGUN = Begun(ref=REF, asked_at=T0, asking_until=T0 + timedelta(seconds=15))


def looked(seen: Snapshot | LookUp, *, leased: datetime = T0) -> LookedUp:
    return LookedUp(1, Found(seen) if isinstance(seen, Snapshot) else seen, leased)


def shown(phase: Phase, at_sec: float, **more: object) -> Snapshot:
    return replace(a_snapshot(phase, ref=REF), updated_at=T0 + timedelta(seconds=at_sec), **more)  # type: ignore[arg-type]


def seen_at(call: Call, sec: float, seen: Snapshot | LookUp) -> Step:
    """The look that is due, at that time."""
    return fold(call, looked(seen, leased=call.attempts[0].look_up_at), now=T0 + timedelta(seconds=sec), pace=PACE)
