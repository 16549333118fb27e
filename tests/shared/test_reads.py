"""Kafka in: poison is parked, what is behind it moves on, nothing is acknowledged before its COMMIT."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

import asyncpg
import pytest

from cualify_shared import dead_letters, reads
from cualify_shared.database import Connection, Pool
from cualify_shared.dead_letters import Record
from cualify_shared.events import EVENT_TYPES, Event, encode
from cualify_shared.events.call import CallDialing
from cualify_shared.events.envelope import headers
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.reads import Handler, Read, Reader, Stopping
from tests.shared.conftest import dialing

POISON_ATTEMPT = 13


async def remember(connection: Connection, events: Sequence[Event]) -> None:
    """A handler that is harmless to repeat, and chokes on one certain event."""
    await connection.executemany(
        "INSERT INTO seen VALUES ($1, $2) ON CONFLICT DO NOTHING", [(event.key, event.sequence) for event in events]
    )
    if any(event.sequence == POISON_ATTEMPT for event in events):
        raise ValueError("the handler can't do this one")


def record_of(event: Event, *, offset: int = 0) -> Record:
    value = encode(event)
    return Record(CALL_EVENTS.name, 0, offset, str(event.key).encode(), value, tuple(headers(value)))


def reader_for(pool: Pool, handler: Handler = remember, stop: asyncio.Event | None = None) -> Reader:
    read = Read(CALL_EVENTS, (CallDialing,), handler)
    return Reader(read, pool=pool, stop=stop or asyncio.Event(), committed=lambda: None)


async def test_a_record_that_can_not_be_handled_is_parked_and_the_rest_is_handled(pool: Pool) -> None:
    events = [dialing(n) for n in range(1, 21)]
    await reader_for(pool).handle([record_of(event, offset=n) for n, event in enumerate(events)])
    assert {row["n"] for row in await pool.fetch("SELECT n FROM seen")} == set(range(1, 21)) - {POISON_ATTEMPT}
    [letter] = await pool.fetch("SELECT * FROM dead_letters")
    assert letter["payload"] == encode(events[POISON_ATTEMPT - 1])
    assert "the handler can't do this one" in letter["error"]


@pytest.mark.parametrize("value", [None, b"", b"{", b"\x00\xff", b'{"type": "call.dialing"}'])
async def test_bytes_that_are_no_event_are_parked_unchanged(pool: Pool, value: bytes | None) -> None:
    strange = (("x", b"\xff\xfe"), ("y", None), ("nul \0 inside", b"\0"))
    good = record_of(dialing(1), offset=9)
    await reader_for(pool).handle([Record(CALL_EVENTS.name, 3, 8, b"\xffkey", value, strange), good])
    async with pool.acquire() as connection, connection.transaction():
        found = await dead_letters.locked(connection, await connection.fetchval("SELECT id FROM dead_letters"))
    assert found is not None
    assert found[0] == Record(CALL_EVENTS.name, 3, 8, b"\xffkey", value, strange)
    assert await pool.fetchval("SELECT count(*) FROM seen") == 1


async def test_the_same_poison_read_again_is_parked_once(pool: Pool) -> None:
    record = Record(CALL_EVENTS.name, 0, 1, None, b"{", ())
    await reader_for(pool).handle([record])
    await reader_for(pool).handle([record])
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 1


async def test_an_exception_that_can_not_be_stored_as_it_is_parks_its_record_all_the_same(pool: Pool) -> None:
    async def says_strange_things(_: Connection, __: Sequence[Event]) -> None:
        raise ValueError("nul \0, half a character \ud800")

    await reader_for(pool, says_strange_things).handle([record_of(dialing(1))])
    assert "half a character" in await pool.fetchval("SELECT error FROM dead_letters")


async def test_a_batch_that_can_not_even_be_parked_is_tried_again_and_never_passed_over(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_park, tries = dead_letters.park, 0

    async def park_fails_once(connection: Connection, letters: Sequence[tuple[Record, str]]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a bug of ours")
        await real_park(connection, letters)

    monkeypatch.setattr(dead_letters, "park", park_fails_once)
    await reader_for(pool).handle([Record(CALL_EVENTS.name, 0, 1, None, b"{", ())])
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 1


async def test_while_the_database_is_away_the_batch_waits_and_is_then_handled(pool: Pool) -> None:
    tries = 0

    async def away_twice(connection: Connection, events: Sequence[Event]) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise asyncpg.CannotConnectNowError("the database system is starting up")
        await remember(connection, events)

    await reader_for(pool, away_twice).handle([record_of(dialing(1))])
    assert tries == 3
    assert await pool.fetchval("SELECT count(*) FROM seen") == 1
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize(
    ("error", "longest_sec"),
    [(asyncpg.CannotConnectNowError("the database system is starting up"), 1.0), (RuntimeError("a bug of ours"), 30.0)],
)
async def test_a_database_that_was_away_for_long_is_found_again_within_a_second(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, error: Exception, longest_sec: float
) -> None:
    paused: list[float] = []

    async def pause(_: asyncio.Event, seconds: float) -> bool:
        paused.append(seconds)
        return False

    async def away_for_long(connection: Connection, letters: Sequence[tuple[Record, str]]) -> None:
        if len(paused) < 20:
            raise error

    monkeypatch.setattr(reads, "until_set", pause)
    monkeypatch.setattr(dead_letters, "park", away_for_long)
    await reader_for(pool).handle([record_of(dialing(1))])
    assert len(paused) == 20
    assert paused[:3] == [0.1, 0.2, 0.4]
    assert max(paused) == longest_sec
    assert await pool.fetchval("SELECT count(*) FROM seen") == 1


async def test_stopping_while_the_database_is_away_acknowledges_nothing(pool: Pool) -> None:
    stop = asyncio.Event()

    async def away(_: Connection, __: Sequence[Event]) -> None:
        stop.set()
        raise asyncpg.CannotConnectNowError("the database system is shutting down")

    with pytest.raises(Stopping):
        await reader_for(pool, away, stop).handle([record_of(dialing(1))])


async def test_what_is_to_be_done_after_the_commit_sees_the_commit(pool: Pool) -> None:
    told: list[int] = []

    async def tell_later(connection: Connection, events: Sequence[Event]) -> Callable[[], None]:
        await remember(connection, events)
        return lambda: told.append(len(events))

    await reader_for(pool, tell_later).handle([record_of(dialing(1)), record_of(dialing(2))])
    assert told == [2]


async def test_an_event_of_no_interest_is_not_even_decoded(pool: Pool) -> None:
    other = Record(CALL_EVENTS.name, 0, 1, None, b"{ not looked at", (("ce_type", b"call.in_progress"),))
    await reader_for(pool).handle([other])
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_a_redrive_of_what_is_of_no_interest_here_leaves_the_handler_alone(pool: Pool) -> None:
    """It was parked while it could not even be decoded, or before this service passed its type over."""

    async def never(_: Connection, __: Sequence[Event]) -> None:
        raise AssertionError("it does not know this event")

    call = uuid4()
    other = Event(
        data=EVENT_TYPES["call.in_progress"].example, org_id=call, key=call, subject=f"call/{call}", sequence=1
    )
    await reader_for(pool, never).redrive(record_of(other))


async def test_a_redrive_goes_through_the_same_handler(pool: Pool) -> None:
    event = dialing(POISON_ATTEMPT)
    reader = reader_for(pool)
    await reader.handle([record_of(event)])
    assert await pool.fetchval("SELECT count(*) FROM seen") == 0
    with pytest.raises(ValueError, match="can't do this one"):
        await reader.redrive(record_of(event))

    async def mended(connection: Connection, events: Sequence[Event]) -> None:
        await connection.execute("INSERT INTO seen VALUES ($1, $2)", uuid4(), len(events))

    await reader_for(pool, mended).redrive(record_of(event))
    assert await pool.fetchval("SELECT count(*) FROM seen") == 1
