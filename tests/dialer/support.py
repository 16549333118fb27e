"""A dialer in this process on a real database, with a provider that rings nobody and counts what it is asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cualify_dialer import consume, queries
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.callbacks import Callbacks
from cualify_dialer.dial import Asking, Capacity, Dialing, Lines
from cualify_dialer.model import Call, Pace
from cualify_dialer.providers import (
    Accepted,
    Answer,
    Callback,
    CallbackRequest,
    Found,
    HangUp,
    LookUp,
    Missing,
    Order,
    Phase,
    Provider,
    Readiness,
    Ready,
    Snapshot,
    TooLate,
)
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.recover import Recovering
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.events import Event, EventData, Terms, decode
from cualify_shared.events.call import CallCancelRequested, CallRequested
from cualify_shared.ids import new_id

AGENT_ID = "123e4567-e89b-12d3-a456-426614174000"
PACE = Pace(look_up_every_sec=30, settle_unknown_sec=900)
TOKEN = "t" * 24


def a_request(
    *,
    org_id: UUID | None = None,
    to_e164: str = "+919990000142",
    requested_at: datetime | None = None,
    latest_at: datetime | None = None,
    provider: str = "bolna",
    provider_agent_id: str = AGENT_ID,
    **more: Any,
) -> CallRequested:
    """A call as the api asks for it."""
    call_id, at = new_id(), requested_at or utc_now()
    return CallRequested(
        call_id=call_id,
        org_id=org_id or new_id(),
        agent_id=new_id(),
        to_e164=to_e164,
        callee_token="hmac:v1:" + "0" * 32,
        language="hi-IN",
        provider=provider,
        provider_agent_id=provider_agent_id,
        provider_call_id=f"boln_{call_id.hex}",
        terms=Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300),
        requested_at=at,
        latest_at=latest_at or at + timedelta(hours=1),
        **more,
    )


def a_wish(request: CallRequested) -> CallCancelRequested:
    """That the customer does not want it any more."""
    return CallCancelRequested(call_id=request.call_id, org_id=request.org_id, requested_at=utc_now())


def an_event(data: CallRequested | CallCancelRequested, *, sequence: int = 1) -> Event:
    """As it comes from Kafka."""
    return Event(
        data=data,
        org_id=data.org_id,
        key=data.call_id,
        subject=str(data.call_id),
        sequence=sequence,
        time=utc_now(),
        correlation_id=f"req_{data.call_id.hex}",
    )


def a_snapshot(phase: Phase = Phase.PENDING, *, ref: str | None = None, execution_id: str = "ex-1") -> Snapshot:
    """What the provider shows; `replace` what matters."""
    return Snapshot(execution_id=execution_id, ref=ref, phase=phase, status=phase.value, updated_at=utc_now())


def a_callback(body: bytes, *, ref: str | None = None) -> CallbackRequest:
    """As it comes by HTTP."""
    return CallbackRequest(url="https://dialer.example/callbacks", ref=ref, headers={}, body=body)


@dataclass(slots=True)
class ScriptedProvider:
    """Answers as it is told to, and has the executions it is told to have."""

    answers: list[Answer] = field(default_factory=list)
    executions: dict[str, Snapshot] = field(default_factory=dict)
    placed: list[Order] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    hang_ups: list[HangUp] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    known: Readiness | None = field(default_factory=Ready)
    to_find_out: Readiness = field(default_factory=Ready)
    name: str = "bolna"
    ref_prefix: str = "boln"
    dial_timeout_sec: float = 1.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    def readiness(self, agent_id: str) -> Readiness | None:
        return self.known

    async def find_out(self, agent_id: str) -> None:
        self.known = self.to_find_out

    async def dial(self, order: Order) -> Answer:
        self.placed.append(order)
        return self.answers.pop(0) if self.answers else Accepted(f"ex-{order.ref}")

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        if order.execution_id is not None:
            self.looks.append(order.execution_id)
            snapshot = self.executions.get(order.execution_id)
            return Found(snapshot) if snapshot else Missing()
        self.looks.append(order.ref)
        ours = [snapshot for snapshot in self.executions.values() if snapshot.ref == order.ref]
        return Found(ours[0], tuple(one.execution_id for one in ours[1:])) if ours else Missing()

    async def hang_up(self, execution_id: str) -> HangUp:
        self.hung_up.append(execution_id)
        return self.hang_ups.pop(0) if self.hang_ups else TooLate()

    def parse_callback(self, request: CallbackRequest) -> Callback:
        return Bolna(url="http://127.0.0.1:9", api_key="k", timeout_sec=1).parse_callback(request)


class Dialer:
    """The parts of one replica, moved by hand."""

    def __init__(
        self,
        pool: Pool,
        *provided: Provider,
        lines: int = 100,
        org_lines: int = 100,
        calls_per_sec: float = 1000.0,
        pace: Pace = PACE,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.pool, self.pace = pool, pace
        providers = {provider.name: provider for provider in provided}
        urls = CallbackUrls(public_url="https://dialer.example", token=TOKEN)
        capacity = Capacity(lines=lines, calls_per_sec=calls_per_sec)
        self.dialing = Dialing(
            pool=pool,
            providers=providers,
            pace=pace,
            lines=Lines(providers=dict.fromkeys(providers, capacity), org_lines=org_lines),
            urls=urls,
            committed=_nothing,
            changed=_nothing,
            drain_sec=1,
            clock=clock,
        )
        self.recovering = Recovering(
            pool=pool,
            providers=providers,
            pace=pace,
            provider_timeout_sec=1,
            committed=_nothing,
            changed=_nothing,
            drain_sec=1,
            clock=clock,
        )
        self.callbacks = Callbacks(
            pool=pool,
            providers=providers,
            urls=urls,
            guards={},
            pace=pace,
            committed=_nothing,
            hinted=_nothing,
            clock=clock,
        )
        self._read = consume.call_requests(pace=pace, changed=_nothing, clock=clock)

    async def consume(self, *data: CallRequested | CallCancelRequested) -> None:
        """One batch of `call.requests`."""
        async with self.pool.acquire() as connection, connection.transaction():
            await self._read.handler(connection, [an_event(one) for one in data])

    async def dial(self, limit: int = 100) -> list[Asking]:
        """Claims whose turn it is, asks for each, and records the answers."""
        asked = await self.dialing.claim(limit)
        await self.finish(*asked)
        return asked

    async def finish(self, *asked: Asking) -> None:
        """Asks for what was claimed, and records the answers."""
        await self._recording(self.dialing, [self.dialing.dial(one) for one in asked])

    async def recover(self) -> int:
        """Looks up what is due now; says how much that was."""
        due = await self.recovering.claim(100)
        await self._recording(self.recovering, [self.recovering.look_up(one) for one in due])
        return len(due)

    async def hear(self, *bodies: bytes, provider: str = "bolna") -> list[bool]:
        """Callbacks that came together."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.callbacks.run(stop))
            heard = [await self.callbacks.take(provider, a_callback(body)) for body in bodies]
            stop.set()
        return [bool(one) for one in heard]

    async def make_due(self) -> None:
        """Moves time to the next look-up of every open attempt."""
        await self.pool.execute("UPDATE attempts SET look_up_at = clock_timestamp() WHERE state <> 'ended'")

    async def call(self, call_id: UUID) -> Call:
        """The call as the tables have it."""
        async with self.pool.acquire() as connection, connection.transaction():
            return (await queries.locked_calls(connection, [call_id]))[call_id]

    async def told(self, call_id: UUID) -> list[Event]:
        """Everything that was told of a call, in order."""
        rows = await self.pool.fetch("SELECT payload FROM outbox WHERE key = $1 ORDER BY id", str(call_id))
        return [decode(row["payload"]) for row in rows]

    async def names(self, call_id: UUID) -> list[str]:
        """The names of it."""
        return [event.type.name for event in await self.told(call_id)]

    async def end(self, call_id: UUID) -> EventData:
        """The one terminal event."""
        (end,) = [
            event.data for event in await self.told(call_id) if event.type.name in ("call.completed", "call.failed")
        ]
        return end

    async def _recording(self, loop: Dialing | Recovering, work: Sequence[Awaitable[None]]) -> None:
        async def all_of_it(_: asyncio.Event) -> None:
            await asyncio.gather(*work)

        await loop.record_beside(all_of_it, asyncio.Event())


def _nothing() -> None: ...
