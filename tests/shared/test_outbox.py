"""Events leave once committed, in order per key, from one relay, and again after a crash."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import DefaultPartitioner

from cualify_local.kafka.broker import Kafka
from cualify_shared import outbox
from cualify_shared.database import Pool, connect
from cualify_shared.events import Event, decode
from cualify_shared.events.create_topics import create_topics
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.outbox import RELAY_LOCK, Relay
from tests.shared.conftest import dialing


@asynccontextmanager
async def relaying(dsn: str, kafka: Kafka, prefix: str) -> AsyncIterator[Relay]:
    relay = Relay(dsn=dsn, service="test", bootstrap_servers=kafka.bootstrap_servers, topic_prefix=prefix)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    yield relay
    stop.set()
    await asyncio.wait_for(running, 20)


async def make_topics(kafka: Kafka) -> str:
    prefix = f"t{uuid4().hex[:8]}."
    if kafka.kind != "embedded":
        await create_topics(kafka.bootstrap_servers, prefix=prefix)
    return prefix


async def published(kafka: Kafka, prefix: str, count: int) -> list[tuple[UUID, int]]:
    """(key, sequence) of records in order of partitions' offsets, until there are `count` different ones."""
    consumer = AIOKafkaConsumer(
        prefix + CALL_EVENTS.name, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[tuple[UUID, int]] = []
    try:
        async with asyncio.timeout(20):
            while len(set(found)) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    events = [decode(record.value) for record in records]
                    found += [(event.key, event.sequence) for event in events]
    finally:
        await consumer.stop()
    return found


async def put(pool: Pool, *events: Event) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await outbox.put(connection, events)


async def until_empty(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while await pool.fetchval("SELECT count(*) FROM outbox"):
            await asyncio.sleep(0.01)


async def test_committed_events_leave_in_order_per_key(dsn: str, pool: Pool, kafka: Kafka) -> None:
    prefix = await make_topics(kafka)
    calls = [uuid4() for _ in range(20)]
    for n in range(1, 11):
        await put(pool, *(dialing(n, call_id=call) for call in calls))
    async with relaying(dsn, kafka, prefix):
        await until_empty(pool)
    found = await published(kafka, prefix, 200)
    assert len(found) == 200
    for call in calls:
        assert [sequence for key, sequence in found if key == call] == list(range(1, 11))


async def test_a_record_says_when_it_happened_and_what_it_is_and_lies_where_its_key_belongs(
    dsn: str, pool: Pool, kafka: Kafka
) -> None:
    prefix = await make_topics(kafka)
    event = dialing(3)
    await put(pool, event)
    async with relaying(dsn, kafka, prefix):
        await until_empty(pool)
    topic = prefix + CALL_EVENTS.name
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    record = await asyncio.wait_for(consumer.getone(), 20)
    partitions = sorted(consumer.partitions_for_topic(topic) or ())
    await consumer.stop()
    key = str(event.key).encode()
    assert record.key == key
    assert record.timestamp == round(decode(record.value).time.timestamp() * 1000)
    assert record.partition == DefaultPartitioner()(key, partitions, partitions), "where any client would put the key"
    described = dict(record.headers)
    assert described["content-type"] == b"application/cloudevents+json; charset=UTF-8"
    assert (described["ce_specversion"], described["ce_type"]) == (b"1.0", b"call.dialing")
    assert (described["ce_id"], described["ce_sequence"]) == (str(event.id).encode(), b"0000000003")


async def test_what_was_rolled_back_never_leaves(dsn: str, pool: Pool, kafka: Kafka) -> None:
    prefix = await make_topics(kafka)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await outbox.put(connection, [dialing(1)])
        await transaction.rollback()
    kept = dialing(2)
    await put(pool, kept)
    async with relaying(dsn, kafka, prefix):
        await until_empty(pool)
    assert await published(kafka, prefix, 1) == [(kept.key, 2)]


async def test_an_event_committed_late_with_a_lower_id_is_not_passed_over(dsn: str, pool: Pool, kafka: Kafka) -> None:
    prefix = await make_topics(kafka)
    late, early = dialing(1), dialing(1)
    async with relaying(dsn, kafka, prefix):
        async with pool.acquire() as slow, slow.transaction():
            await outbox.put(slow, [late])
            await put(pool, early)
            assert await published(kafka, prefix, 1) == [(early.key, 1)]
        await until_empty(pool)
    assert {key for key, _ in await published(kafka, prefix, 2)} == {early.key, late.key}


async def test_of_two_relays_one_is_active_and_the_other_takes_over(dsn: str, pool: Pool, kafka: Kafka) -> None:
    prefix = await make_topics(kafka)
    holder = await connect(dsn, application_name="holder")
    await holder.execute("SELECT pg_advisory_lock($1)", RELAY_LOCK)
    waiting = dialing(1)
    async with relaying(dsn, kafka, prefix) as relay:
        await put(pool, waiting)
        async with asyncio.timeout(10):
            while not await pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'test:relay' AND datname = current_database()"
            ):
                await asyncio.sleep(0.01)
        assert await pool.fetchval("SELECT count(*) FROM outbox") == 1
        assert relay.problem is None
        await holder.close()
        await until_empty(pool)
    assert await published(kafka, prefix, 1) == [(waiting.key, 1)]


async def test_a_relay_whose_session_is_cut_in_the_middle_of_anything_starts_afresh(
    dsn: str, pool: Pool, kafka: Kafka
) -> None:
    prefix = await make_topics(kafka)
    cut: Callable[[], Awaitable[object]] = lambda: pool.fetch(  # noqa: E731
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'test:relay' AND datname = current_database()"
    )
    async with relaying(dsn, kafka, prefix):
        for n in range(1, 21):
            await put(pool, dialing(n))
            await cut()
        await until_empty(pool)
    assert {sequence for _, sequence in await published(kafka, prefix, 20)} == set(range(1, 21))


async def test_an_event_larger_than_the_broker_takes_is_parked_and_the_rest_leaves(
    dsn: str, pool: Pool, kafka: Kafka
) -> None:
    prefix = await make_topics(kafka)
    after = dialing(1)
    await pool.execute(
        "INSERT INTO outbox (event_id, topic, key, payload, occurred_at)"
        " VALUES (gen_random_uuid(), 'call.events', 'k', $1, now())",
        orjson.dumps({"type": "x" * 2_000_000}),
    )
    await put(pool, after)
    async with relaying(dsn, kafka, prefix):
        await until_empty(pool)
    assert await published(kafka, prefix, 1) == [(after.key, 1)]
    assert await pool.fetchval("SELECT octet_length(payload) FROM dead_letters") > 2_000_000


async def test_an_event_without_its_row_s_sequence_is_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="sequence"):
        await put(pool, dialing(0))
