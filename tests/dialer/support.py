"""A dialer in this process on a real database, with a provider that rings nobody and counts what it is asked."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from cualify_dialer import consume, queries
from cualify_dialer.callbacks import Callbacks
from cualify_dialer.dial import Asking, Dialing, Lines
from cualify_dialer.model import Call, Pace
from cualify_dialer.providers import (
    Accepted,
    Answer,
    Found,
    LookUp,
    Missing,
    Order,
    Phase,
    Snapshot,
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
        provider_agent_id=AGENT_ID,
        provider_call_id=f"boln_{call_id.hex}",
        terms=Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300),
        requested_at=at,
        latest_at=latest_at or at + timedelta(hours=1),
    )


def a_wish(request: CallRequested) -> CallCancelRequested:
    """That the customer does not want it any more."""
    return CallCancelRequested(call_id=request.call_id, org_id=request.org_id, requested_at=utc_now())


def an_event(data: CallRequested | CallCancelRequested, *, sequence: int = 1) -> Event:
    """As it comes from Kafka."""
    return Event(
        data=data, org_id=data.org_id, key=data.call_id, subject=str(data.call_id), sequence=sequence, time=utc_now()
    )


def a_snapshot(phase: Phase = Phase.PENDING, *, ref: str | None = None, execution_id: str = "ex-1") -> Snapshot:
    """What the provider shows; `replace` what matters."""
    return Snapshot(execution_id=execution_id, ref=ref, phase=phase, status=phase.value, updated_at=utc_now())


@dataclass(slots=True)
class ScriptedProvider:
    """Answers as it is told to, and has the executions it is told to have."""

    answers: list[Answer] = field(default_factory=list)
    executions: dict[str, Snapshot] = field(default_factory=dict)
    placed: list[Order] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    name: str = "bolna"
    ref_prefix: str = "boln"

    async def place(self, order: Order) -> Answer:
        self.placed.append(order)
        return self.answers.pop(0) if self.answers else Accepted(f"ex-{order.ref}")

    async def read(self, execution_id: str) -> LookUp:
        self.looks.append(execution_id)
        snapshot = self.executions.get(execution_id)
        return Found(snapshot) if snapshot else Missing()

    async def find(self, order: Order, *, now: datetime) -> LookUp:
        self.looks.append(order.ref)
        ours = [snapshot for snapshot in self.executions.values() if snapshot.ref == order.ref]
        return Found(ours[0], tuple(one.execution_id for one in ours[1:])) if ours else Missing()

    def heard(self, body: bytes) -> Snapshot | None:
        return Bolna(url="http://127.0.0.1:9", api_key="k", timeout_sec=1).heard(body)


class Dialer:
    """The parts of one replica, moved by hand."""

    def __init__(self, pool: Pool, provider: ScriptedProvider, *, lines: int = 100, pace: Pace = PACE) -> None:
        self.pool, self.provider, self.pace = pool, provider, pace
        providers = {provider.name: provider}
        self.dialing = Dialing(
            pool=pool,
            providers=providers,
            pace=pace,
            lines=Lines(max_concurrent_calls=lines, provider_timeout_sec=1),
            committed=_nothing,
            changed=_nothing,
            drain_sec=1,
        )
        self.recovering = Recovering(
            pool=pool,
            providers=providers,
            pace=pace,
            provider_timeout_sec=1,
            committed=_nothing,
            changed=_nothing,
            drain_sec=1,
        )
        self.callbacks = Callbacks(
            pool=pool, providers=providers, token=TOKEN, pace=pace, committed=_nothing, hinted=_nothing
        )
        self._read = consume.call_requests(pace=pace, queued=_nothing)

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

    async def hear(self, *bodies: bytes) -> list[bool]:
        """Callbacks that came together."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.callbacks.run(stop))
            heard = [await self.callbacks.take("bolna", body) for body in bodies]
            stop.set()
        return heard

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
