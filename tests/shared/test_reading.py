"""The subscriptions themselves, on a broker: from the first record, acknowledged after the COMMIT."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException, KafkaConnectionError
from aiokafka.record.util import calc_crc32c
from faststream import AckPolicy
from faststream.security import BaseSecurity

from cualify_local.kafka.broker import Kafka
from cualify_shared import reads
from cualify_shared.database import Connection, Pool
from cualify_shared.events import Event, encode
from cualify_shared.events.call import CallDialing
from cualify_shared.events.create_topics import create_topics
from cualify_shared.events.envelope import headers
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.reads import Handler, Read, Reader, Reading, Subscription
from tests.shared.conftest import dialing
from tests.shared.test_reads import remember

CRC_AT, CRC_OF = 17, 21
"""Where a batch has its checksum, and where that begins which it is of."""


async def publish(
    kafka: Kafka,
    topic: str,
    *records: tuple[bytes, Sequence[tuple[str, bytes | None]]],
    partition: int | None = None,
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        for value, with_headers in records:
            await producer.send_and_wait(topic, value, key=b"one key", headers=list(with_headers), partition=partition)
    finally:
        await producer.stop()


def make_reading(
    pool: Pool,
    kafka: Kafka,
    prefix: str,
    stop: asyncio.Event,
    handler: Handler = remember,
    stalled_after_sec: float = 60,
    security: BaseSecurity | None = None,
) -> Reading:
    reader = Reader(Read(CALL_EVENTS, (CallDialing,), handler), pool=pool, stop=stop, committed=lambda: None)
    subscription = Subscription(
        service="test",
        bootstrap_servers=kafka.bootstrap_servers,
        topic_prefix=prefix,
        embedded=kafka.kind == "embedded",
        replica="",
        drain_sec=5,
        stalled_after_sec=stalled_after_sec,
        security=security,
    )
    return Reading([reader], subscription)


@asynccontextmanager
async def reading(
    pool: Pool, kafka: Kafka, prefix: str, handler: Handler = remember, stalled_after_sec: float = 60
) -> AsyncIterator[Reading]:
    stop = asyncio.Event()
    made = make_reading(pool, kafka, prefix, stop, handler, stalled_after_sec)
    running = asyncio.create_task(made.run(stop))
    try:
        yield made
    finally:
        stop.set()
        await asyncio.wait_for(running, 20)


async def until_seen(pool: Pool, count: int) -> None:
    async with asyncio.timeout(30):
        while await pool.fetchval("SELECT count(*) FROM seen") < count:
            await asyncio.sleep(0.02)


async def make_topic(kafka: Kafka) -> tuple[str, str]:
    prefix = f"t{uuid4().hex[:8]}."
    if kafka.kind != "embedded":
        await create_topics(kafka.bootstrap_servers, prefix=prefix)
    return prefix, prefix + CALL_EVENTS.name


async def test_what_was_there_before_the_first_start_is_read(pool: Pool, kafka: Kafka) -> None:
    prefix, topic = await make_topic(kafka)
    events = [dialing(n) for n in range(1, 6)]
    await publish(kafka, topic, *((encode(e), list(headers(encode(e)))) for e in events))
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 5)


async def test_headers_that_are_no_text_lose_nothing(pool: Pool, kafka: Kafka) -> None:
    prefix, topic = await make_topic(kafka)
    await publish(kafka, topic, (b"{", [("x", b"\xff\xfe"), ("y", None)]), (encode(dialing(1)), [("z", b"\xff")]))
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 1)
        assert await pool.fetchval("SELECT payload FROM dead_letters") == b"{"


async def test_a_header_whose_name_is_no_text_stops_nobody(pool: Pool, kafka: Kafka) -> None:
    prefix, topic = await make_topic(kafka)
    await publish_as_a_broken_writer(kafka, topic, [b"{", encode(dialing(1))], name=b"\xff\xfe name")
    await publish(kafka, topic, (encode(dialing(2)), []))
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 2)
        letter = await pool.fetchrow("SELECT payload, headers FROM dead_letters")
    assert letter is not None
    assert (letter["payload"], letter["headers"][0][0]) == (b"{", "\\xff\\xfe name")
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 1


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_a_writer_or_its_cluster_compressed_is_read(pool: Pool, kafka: Kafka, compression: str) -> None:
    prefix, topic = await make_topic(kafka)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, compression_type=compression)
    await producer.start()
    await producer.send_and_wait(topic, encode(dialing(1)))
    await producer.stop()
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 1)


async def publish_as_a_broken_writer(kafka: Kafka, topic: str, values: Sequence[bytes], *, name: bytes) -> None:
    """Records with a header of that name, which no client of ours would write: put into the finished batch."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        for value in values:
            batch.append(key=b"one key", value=value, timestamp=None, headers=[("?" * len(name), b"")])
        written = bytearray(batch._build().replace(b"?" * len(name), name))
        written[CRC_AT:CRC_OF] = struct.pack(">I", calc_crc32c(bytes(written[CRC_OF:])))
        batch._buffer = bytes(written)
        partition = sorted(await producer.partitions_for(topic))[0]
        await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()


async def test_what_a_poll_took_before_it_failed_is_read_again(
    pool: Pool, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if one partition could not be parsed, once records of another had been taken in the same poll."""
    prefix, topic = await make_topic(kafka)
    taken, failed, real = set[int](), list[int](), FetchResult.getall

    def fails_once(self: FetchResult, max_records: int | None) -> list[object]:
        partition: int = self._topic_partition.partition
        if taken - {partition} and not failed:
            failed.append(partition)
            raise CorruptRecordException("as after a disk's fault")
        taken.add(partition)
        records: list[object] = real(self, max_records)
        return records

    monkeypatch.setattr(FetchResult, "getall", fails_once)
    for partition in (0, 1):
        await publish(kafka, topic, (encode(dialing(partition + 1)), []), partition=partition)
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 2)
        async with asyncio.timeout(20):
            while await committed_offsets(kafka, prefix, topic) < 2:
                await asyncio.sleep(0.05)
    assert failed, "the poll has not failed: this test shows nothing"


async def test_what_was_not_committed_is_read_again(pool: Pool, kafka: Kafka) -> None:
    prefix, topic = await make_topic(kafka)
    await publish(kafka, topic, (encode(dialing(1)), []))
    reached = asyncio.Event()

    async def never_commits(_: Connection, __: Sequence[Event]) -> None:
        reached.set()
        raise ConnectionError("the database is away")

    async with reading(pool, kafka, prefix, never_commits):
        await asyncio.wait_for(reached.wait(), 30)
    assert await committed_offsets(kafka, prefix, topic) == 0
    async with reading(pool, kafka, prefix):
        await until_seen(pool, 1)
    assert await committed_offsets(kafka, prefix, topic) == 1


async def committed_offsets(kafka: Kafka, prefix: str, topic: str) -> int:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=f"{prefix}cualify.test.{CALL_EVENTS.name}",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        partitions = {TopicPartition(topic, n) for n in range(12 if kafka.kind != "embedded" else 4)}
        consumer.assign(list(partitions))
        return sum([await consumer.committed(partition) or 0 for partition in partitions])
    finally:
        await consumer.stop()


async def test_a_consumer_on_which_nothing_moves_is_said_to_be_stalled(
    pool: Pool, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "LOOK_EVERY_SEC", 3600)  # else this process would exit, as a service's does
    prefix, topic = await make_topic(kafka)
    await publish(kafka, topic, (encode(dialing(1)), []))
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hangs(connection: Connection, events: Sequence[Event]) -> None:
        reached.set()
        await go_on.wait()
        await remember(connection, events)

    async with reading(pool, kafka, prefix, hangs, stalled_after_sec=0.05) as running:
        await asyncio.wait_for(reached.wait(), 30)
        async with asyncio.timeout(20):
            while await running.stalled() != [CALL_EVENTS.name]:
                await asyncio.sleep(0.02)
        go_on.set()
        await until_seen(pool, 1)
        async with asyncio.timeout(20):
            while await running.stalled():
                await asyncio.sleep(0.02)
        assert running.problem is None


async def test_a_broker_that_was_away_for_long_is_found_again_within_a_second(
    pool: Pool, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, paused = asyncio.Event(), list[float]()
    made = make_reading(pool, kafka, "", stop)

    async def pause(_: asyncio.Event, seconds: float) -> bool:
        paused.append(seconds)
        return len(paused) == 10

    async def away() -> None:
        raise KafkaConnectionError("nobody listens there")

    monkeypatch.setattr(reads, "until_set", pause)
    monkeypatch.setattr(made.broker, "start", away)
    await made.run(stop)
    assert (min(paused), max(paused)) == (0.1, 1.0)
    assert made.problem is not None
    assert "nobody listens there" in made.problem


async def test_a_consumer_that_never_learns_where_to_read_on_is_stalled(
    pool: Pool, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "LOOK_EVERY_SEC", 3600)
    prefix, topic = await make_topic(kafka)
    async with reading(pool, kafka, prefix, stalled_after_sec=0.05) as running:
        await publish(kafka, topic, (encode(dialing(1)), []))
        await until_seen(pool, 1)

        async def never(_: TopicPartition) -> int:
            await asyncio.Event().wait()
            return 0

        monkeypatch.setattr(running.subscribers[CALL_EVENTS.name].consumer, "position", never)
        async with asyncio.timeout(30):
            while await running.stalled() != [CALL_EVENTS.name]:
                await asyncio.sleep(0.05)


async def test_a_replica_without_a_partition_is_stalled_only_while_nobody_reads(
    pool: Pool, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "LOOK_EVERY_SEC", 3600)
    prefix, topic = await make_topic(kafka)
    async with reading(pool, kafka, prefix, stalled_after_sec=0.2) as running:
        await publish(kafka, topic, (encode(dialing(1)), []))
        await until_seen(pool, 1)
        consumer = running.subscribers[CALL_EVENTS.name].consumer
        consumer.assignment = lambda: frozenset()  # as of a replica beyond the topic's partitions, or a lost one
        async with asyncio.timeout(20):
            while await running._lag(running._readers[0]) != 0:
                await asyncio.sleep(0.05)
        assert await running.stalled() == [], "others have read all there is"
        await running.subscribers[CALL_EVENTS.name].stop()
        lost = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=consumer._group_id)
        await lost.start()
        lost.subscribe([topic])
        lost.assignment = lambda: frozenset()
        running.subscribers[CALL_EVENTS.name].consumer = lost
        await publish(kafka, topic, (encode(dialing(2)), []))
        async with asyncio.timeout(20):
            while await running.stalled() != [CALL_EVENTS.name]:
                await asyncio.sleep(0.05)
        await lost.stop()


def test_no_subscription_is_at_most_once_by_accident(pool: Pool, kafka: Kafka) -> None:
    made = make_reading(pool, kafka, "", asyncio.Event())
    for subscriber in made.subscribers.values():
        assert subscriber.ack_policy is AckPolicy.MANUAL
        assert subscriber._connection_args["auto_offset_reset"] == "earliest"
        assert subscriber._connection_args["enable_auto_commit"] is False
        assert subscriber.group_id == "cualify.test.call.events"
