"""A dispatcher without Kafka: the real handler, the real worker, a real database, real HTTP to a server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import pytest_asyncio

from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.events.customer import CustomerCallCompleted, CustomerCallDialing, CustomerCallEvent
from cualify_shared.events.envelope import Event
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import endpoints
from cualify_webhook_dispatcher.consume import Consume
from cualify_webhook_dispatcher.deliver import Deliver
from cualify_webhook_dispatcher.endpoints import Registered
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Sender
from tests.webhook_dispatcher.receiver import Receiver, Respond, answer_ok

LOOPBACK = (ip_network("127.0.0.0/8"),)
SECRETS = Secrets(key=bytes(range(32)), key_id="1")


@dataclass(slots=True)
class Dispatcher:
    """One process's worth of it."""

    pool: Pool
    deliver: Deliver
    consume: Consume
    sender: Sender
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.running = asyncio.create_task(self.deliver.run(self.stop))

    async def arrive(self, *events: Event, hand_over: bool = True) -> None:
        """A batch comes from Kafka. Without `hand_over` the process dies right after the COMMIT."""
        async with self.pool.acquire() as connection, connection.transaction():
            after = await self.consume.on_customer_events(connection, events)
        if after is not None and hand_over:
            after()

    async def register(self, org_id: UUID, url: str, *events: str) -> tuple[UUID, str]:
        """An endpoint that is a minute old: its id and its secret."""
        made = await endpoints.register(self.pool, SECRETS, org_id=org_id, url=url, events=list(events or ("*",)))
        assert isinstance(made, Registered)
        await self.pool.execute(
            "UPDATE endpoints SET created_at = created_at - interval '1 minute' WHERE id = $1", made.shown["id"]
        )
        return made.shown["id"], made.secret

    async def row(self, event: Event) -> dict[str, Any] | None:
        row = await self.pool.fetchrow("SELECT * FROM deliveries WHERE event_id = $1", event.id)
        return None if row is None else dict(row)

    async def until(self, condition: str, *arguments: Any, seconds: float = 10) -> None:
        """Returns when an SQL condition holds."""
        async with asyncio.timeout(seconds):
            while not await self.pool.fetchval(f"SELECT {condition}", *arguments):
                await asyncio.sleep(0.005)

    async def until_state(self, state: str, *events: Event, seconds: float = 10) -> None:
        ids = [event.id for event in events]
        await self.until(
            "count(*) = cardinality($1::uuid[]) FROM deliveries WHERE event_id = ANY($1::uuid[]) AND state = $2",
            ids,
            state,
            seconds=seconds,
        )

    async def make_due(self) -> None:
        """The time until the next attempt has passed."""
        await self.pool.execute("UPDATE deliveries SET due_at = now() WHERE state = 'pending' AND NOT behind")
        await self.look_now()

    async def look_now(self) -> None:
        """A test has moved a due time by hand."""
        await self.pool.execute("UPDATE endpoints SET next_due_at = now() WHERE deleted_at IS NULL")
        self.deliver.wake()

    async def end(self) -> None:
        self.stop.set()
        if self.running:
            await asyncio.wait_for(self.running, 15)
        await self.sender.aclose()


MakeDispatcher = Callable[[], Awaitable[Dispatcher]]
Receive = Callable[[Respond], Awaitable[Receiver]]


def make_dispatcher(pool: Pool, *, timeout_sec: float = 2.0, max_in_flight: int = 200, replica: str = "") -> Dispatcher:
    sender = Sender(timeout_sec=timeout_sec, allowed=LOOPBACK)
    deliver = Deliver(
        pool=pool,
        sender=sender,
        secrets=SECRETS,
        max_in_flight=max_in_flight,
        committed=lambda: None,
        replica=replica,
    )
    return Dispatcher(pool, deliver, Consume(deliver), sender)


@pytest_asyncio.fixture(loop_scope="session")
async def pool(database: Callable[[str], Awaitable[str]], pool_for: Callable[[str], Awaitable[Pool]]) -> Pool:
    return await pool_for(await database("cualify_webhook_dispatcher"))


@pytest_asyncio.fixture(loop_scope="session")
async def idle(pool: Pool) -> AsyncIterator[Dispatcher]:
    """A dispatcher whose worker does not run yet."""
    made = make_dispatcher(pool)
    yield made
    await made.end()


@pytest_asyncio.fixture(loop_scope="session")
async def dispatcher(idle: Dispatcher) -> Dispatcher:
    idle.start()
    return idle


@pytest_asyncio.fixture(loop_scope="session")
async def receive() -> AsyncIterator[Receive]:
    made: list[Receiver] = []

    async def make(respond: Respond = answer_ok) -> Receiver:
        made.append(Receiver(respond))
        await made[-1].start()
        return made[-1]

    yield make
    for receiver in made:
        await receiver.stop()


def call_events(
    org_id: UUID,
    count: int = 1,
    *,
    call_id: UUID | None = None,
    age: timedelta = timedelta(),
    to_e164: str = "+919900000000",
) -> list[Event]:
    """The first events of one call, all but the last `dialing`."""
    call = call_id or new_id()
    kinds: list[type[CustomerCallEvent]] = [CustomerCallDialing] * (count - 1) + [CustomerCallCompleted]
    return [
        Event(
            data=kind(
                call_id=call,
                org_id=org_id,
                call={"id": str(call), "to_e164": to_e164, "status": "completed", "name": "नमस्ते"},
            ),
            org_id=org_id,
            key=call,
            subject=f"call/{call}",
            sequence=n,
            time=now() - age,
        )
        for n, kind in enumerate(kinds, 1)
    ]


def ids(events: Sequence[Event]) -> list[str]:
    return [f"evt_{event.id.hex}" for event in events]


AT = datetime(2026, 5, 31, 14, 22, 11, tzinfo=UTC)
