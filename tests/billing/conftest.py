"""A migrated billing database, ends of calls to send, and the questions every test of money asks."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio
from starlette.types import ASGIApp, Message

from cualify_billing import ledger
from cualify_billing.consume import READS
from cualify_billing.ledger import Contradicted, Credit, Credited, CreditKind
from cualify_billing.reconcile import differences
from cualify_billing.routes import billing_app
from cualify_shared.database import Pool, create_pool
from cualify_shared.dead_letters import Record
from cualify_shared.events import Event, Terms, decode, encode
from cualify_shared.events.call import CallCompleted, CallEnded, CallFailed
from cualify_shared.events.envelope import headers
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.reads import Reader
from tests.support.databases import Databases, MakeDatabase

MakePool = Callable[[str], Awaitable[Pool]]
TOKEN = "internal-token-of-the-tests"
AT = datetime(2026, 5, 31, 14, 22, 11, tzinfo=UTC)
TERMS = Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300)


@pytest_asyncio.fixture(loop_scope="session")
async def dsn(database: MakeDatabase) -> str:
    """A fresh billing database."""
    return await database("cualify_billing")


@pytest_asyncio.fixture(loop_scope="session")
async def pool(dsn: str, pool_for: MakePool) -> Pool:
    """Connections to it."""
    return await pool_for(dsn)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def untouched_pool(databases: Databases) -> AsyncIterator[Pool]:
    """Connections to a database that several tests share, because none of them writes to it."""
    pool = await create_pool(await databases.fresh("cualify_billing"), application_name="test", size=5)
    yield pool
    await asyncio.wait_for(pool.close(), 5)


class Caller:
    """Speaks HTTP to the app without a socket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        answer: list[Message] = []
        sent = raw if raw is not None else b"" if body is None else orjson.dumps(body)
        where, _, query = path.partition("?")
        sent_headers = [(b"content-type", b"application/json")]
        sent_headers += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        if token is not None:
            sent_headers.append((b"authorization", f"Bearer {token}".encode()))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": where,
            "raw_path": where.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": sent_headers,
            "server": ("test", 80),
            "client": ("test", 1),
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, send)
        return answer[0]["status"], orjson.loads(b"".join(part.get("body", b"") for part in answer[1:]))


@pytest_asyncio.fixture(loop_scope="session")
async def ask(pool: Pool) -> Caller:
    """The routes of billing over a fresh database."""
    return Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN))


@pytest.fixture
def ask_in_vain(untouched_pool: Pool) -> Caller:
    """The same, for what is refused."""
    return Caller(billing_app(pool=untouched_pool, committed=lambda: None, internal_token=TOKEN))


def ended(
    org_id: UUID,
    *,
    duration_sec: int = 142,
    call_id: UUID | None = None,
    status: str = "completed",
    terms: Terms = TERMS,
) -> Event:
    """The end of a call, as the dialer says it."""
    call = call_id or uuid4()
    model: type[CallEnded] = CallCompleted if status == "completed" else CallFailed
    data = model(
        call_id=call,
        org_id=org_id,
        agent_id=UUID(int=5),
        callee_token="hmac:v1:" + "0" * 32,
        status=status,
        ended_reason=status,
        duration_sec=duration_sec,
        ended_at=AT,
        attempts=1,
        provider="bolna",
        provider_call_id=f"boln_{call.hex}",
        terms=terms,
    )
    return Event(data=data, org_id=org_id, key=call, subject=f"call/{call}", sequence=3)


def call_of(event: Event) -> UUID:
    """Which call ended."""
    assert isinstance(event.data, CallEnded)
    return event.data.call_id


def records(events: Sequence[Event]) -> list[Record]:
    """What Kafka would hand over; each record has an offset of its own."""
    return [
        Record(CALL_EVENTS.name, 0, n, str(event.key).encode(), value, tuple(headers(value)))
        for n, event in enumerate(events)
        for value in [encode(event)]
    ]


async def consume(pool: Pool, events: Sequence[Event]) -> None:
    """One batch through the reads, as in the service: transaction, halving and dead letters included."""
    reader = Reader(READS[0], pool=pool, stop=asyncio.Event(), committed=lambda: None)
    await reader.handle(records(events))


async def top_up(
    pool: Pool, org_id: UUID, amount_paise: int, *, payment_id: str | None = None, kind: CreditKind = "top_up"
) -> Credited | Contradicted:
    """Money into a wallet, in a transaction of its own."""
    given = Credit(
        payment_id=payment_id or uuid4().hex, org_id=org_id, kind=kind, amount_paise=amount_paise, paid_at=AT
    )
    async with pool.acquire() as connection, connection.transaction():
        return await ledger.credit(connection, given)


async def balance(pool: Pool, org_id: UUID) -> int:
    """What a wallet holds, by its account."""
    found: int = await pool.fetchval("SELECT balance_paise FROM accounts WHERE org_id = $1", org_id)
    return found


async def said(pool: Pool) -> list[Event]:
    """The events that are to leave, in their order."""
    return [decode(row["payload"]) for row in await pool.fetch("SELECT payload FROM outbox ORDER BY id")]


async def assert_sound(pool: Pool) -> None:
    """The ledger agrees with itself, and each org's events count 1, 2, 3…"""
    async with pool.acquire() as connection:
        assert await differences(connection) == []
    sequences: defaultdict[UUID, list[int]] = defaultdict(list)
    for event in await said(pool):
        sequences[event.key].append(event.sequence)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in sequences.values()), sequences


async def everything(pool: Pool) -> dict[str, object]:
    """All that a batch could change, to be compared."""
    tables = (
        *("accounts", "transfers", "entries", "settlement_conflicts", "discrepancies", "low_balance_notices", "plans"),
        *("scheduled_plans", "plan_expiries", "plan_turns", "refunds", "outbox", "dead_letters"),
    )
    return {table: await pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}
