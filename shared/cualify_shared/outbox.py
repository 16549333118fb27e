"""An event leaves only through here: written in the transaction that made it true, published by one relay, in order.

The row whose change the event states must be locked by that transaction before `put` is called; its counter is the
event's `sequence`. Then, for one key, the order of ids is the order of commits.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faststream.security import BaseSecurity

from cualify_shared import faults, metrics
from cualify_shared.database import Connection, connect, is_passing
from cualify_shared.events.envelope import Encoded, Event, encoded, headers
from cualify_shared.kafka_security import for_aiokafka
from cualify_shared.values import quick_thing
from cualify_shared.waiting import until_set, within

log = structlog.get_logger(__name__)

RELAY_LOCK = 0x6F757462
BATCH = 1000
POLL_SEC = (0.002, 0.02)
"""Shortest and longest pause while events come. What this process commits is seen at once: it wakes the relay."""
POLL_WHEN_QUIET_SEC = 0.1
QUIET_AFTER_SEC = 2.0
ACK_WITHIN_SEC = 30.0
MAX_RECORD_BYTES = 1_048_576
"""What a broker takes of one record, unless it is told otherwise."""
MAX_BATCH_BYTES = 262_144

PUT = """
INSERT INTO outbox (event_id, topic, key, payload, occurred_at)
SELECT event_id, topic, key, payload, occurred_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[])
     WITH ORDINALITY AS e (event_id, topic, key, payload, occurred_at, n)
ORDER BY n
"""


async def put(connection: Connection, events: Sequence[Event]) -> None:
    """Writes events, in this order, into the running transaction. Call `wake` of the relay after the commit."""
    if any(event.sequence < 1 for event in events):
        raise ValueError("an event carries the sequence of the row that was locked for it, from 1 on")
    await put_encoded(connection, [encoded(event) for event in events])


async def put_encoded(connection: Connection, events: Sequence[Encoded]) -> None:
    """The same for events whose bytes are made already."""
    if not events:
        return
    await connection.execute(
        PUT,
        [event.id for event in events],
        [event.topic for event in events],
        [event.key for event in events],
        [event.payload for event in events],
        [event.time for event in events],
    )


FETCH = """
SELECT id, topic, key, payload, floor(extract(epoch FROM occurred_at) * 1000)::bigint AS occurred_at_ms
FROM outbox
ORDER BY id
LIMIT $1
"""

REMOVE = """
DELETE FROM outbox
WHERE id = ANY($1::bigint[])
"""

PARK_TOO_LARGE = """
WITH gone AS (DELETE FROM outbox WHERE id = $1 RETURNING id, topic, key, payload)
INSERT INTO dead_letters (topic, partition, "offset", key, payload, headers, error)
SELECT topic, -1, id, convert_to(key, 'UTF8'), payload, '[]'::json, 'larger than the broker takes; never published'
FROM gone
"""

DEPTH = """
SELECT count(*) AS events, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_sec
FROM outbox
"""


@quick_thing
class Waiting:
    """One row of the outbox."""

    id: int
    topic: str
    key: str
    payload: bytes
    occurred_at_ms: int


class RelayLost(Exception):
    """The connection that holds the relay's lock, or the producer, is no longer usable; start afresh from the table."""


class Relay:
    """Moves the outbox to Kafka. Of several replicas the one that holds the session's advisory lock is active."""

    def __init__(
        self,
        *,
        dsn: str,
        service: str,
        bootstrap_servers: str,
        topic_prefix: str,
        security: BaseSecurity | None = None,
    ) -> None:
        self._dsn, self._service = dsn, service
        self._bootstrap_servers, self._topic_prefix = bootstrap_servers, topic_prefix
        self._security = for_aiokafka(security)
        self._awake = asyncio.Event()
        self._pause, self._moved_at = POLL_SEC[0], 0.0
        self.problem: str | None = None
        """Why nothing is being published at the moment; None while all is well or another replica is active."""

    def wake(self) -> None:
        """Says that something was committed; the relay looks at once instead of at its next poll."""
        self._awake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publishes until told to stop, then once more for what was committed last."""
        while not stop.is_set():
            try:
                await self._lead(stop)
            except Exception as error:
                if not isinstance(error, RelayLost | KafkaError) and not is_passing(error):
                    raise
                self.problem = f"{type(error).__name__}: {error}"
                log.warning("relay_lost", error=self.problem)
            metrics.RELAY_ACTIVE.set(0)
            await until_set(stop, 0.5)

    async def _lead(self, stop: asyncio.Event) -> None:
        connection = await connect(self._dsn, application_name=f"{self._service}:relay")
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RELAY_LOCK):
                self.problem = None
                if await until_set(stop, 1.0):
                    return
            await self._publish_all(connection, stop)
        finally:
            await within(connection.close(timeout=2), 3)

    async def _publish_all(self, connection: Connection, stop: asyncio.Event) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            client_id=f"cualify-{self._service}-relay",
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=MAX_BATCH_BYTES,
            request_timeout_ms=int(ACK_WITHIN_SEC * 1000),
            **self._security,
        )
        try:
            await asyncio.wait_for(producer.start(), ACK_WITHIN_SEC)
            metrics.RELAY_ACTIVE.set(1)
            self.problem = None
            while True:
                last_look = stop.is_set()
                self._awake.clear()
                moved = await self._publish_batch(connection, producer)
                if last_look and moved < BATCH:
                    return
                if not moved:
                    await until_set(self._awake, self._pause_sec())
                else:
                    self._pause, self._moved_at = POLL_SEC[0], time.monotonic()
        finally:
            # aiokafka's stop() can hang when the broker is gone.
            await within(producer.stop(), 3)

    def _pause_sec(self) -> float:
        self._pause = min(self._pause * 2, POLL_SEC[1])
        return self._pause if time.monotonic() - self._moved_at < QUIET_AFTER_SEC else POLL_WHEN_QUIET_SEC

    async def _publish_batch(self, connection: Connection, producer: AIOKafkaProducer) -> int:
        rows = [Waiting(*row) for row in await connection.fetch(FETCH, BATCH)]
        if not rows:
            return 0
        async with asyncio.timeout(ACK_WITHIN_SEC + 5):
            sent = await self._send(connection, producer, rows)
            if sent:
                await asyncio.wait([future for _, future in sent], timeout=ACK_WITHIN_SEC)
        acknowledged, failed = _sorted_out(sent)
        faults.point("relay.acknowledged")
        await connection.execute(REMOVE, [row.id for row in acknowledged])
        for topic, count in Counter(row.topic for row in acknowledged).items():
            metrics.PUBLISHED.labels(topic).inc(count)
        if failed:
            raise RelayLost(f"{len(failed)} events were not acknowledged, the first on {failed[0].topic}")
        return len(rows)

    async def _send(
        self, connection: Connection, producer: AIOKafkaProducer, rows: Sequence[Waiting]
    ) -> list[tuple[Waiting, asyncio.Future[object]]]:
        """Sends whole batches, a partition's in order: one call and one future a record cost several times as much."""
        sent: list[tuple[Waiting, asyncio.Future[object]]] = []
        for (topic, partition), its_rows in (await self._by_partition(producer, rows)).items():
            filling, inside = producer.create_batch(), list[Waiting]()
            for row in its_rows:
                record = _record_of(row)
                if record is None:
                    await _park_too_large(connection, row)
                    continue
                if filling.append(**record) is None:
                    future = await producer.send_batch(filling, topic, partition=partition)
                    sent += [(one, future) for one in inside]
                    filling, inside = producer.create_batch(), []
                    filling.append(**record)
                inside.append(row)
            if inside:
                future = await producer.send_batch(filling, topic, partition=partition)
                sent += [(one, future) for one in inside]
        return sent

    async def _by_partition(
        self, producer: AIOKafkaProducer, rows: Sequence[Waiting]
    ) -> dict[tuple[str, int], list[Waiting]]:
        partitions: dict[str, list[int]] = {}
        found: dict[tuple[str, int], list[Waiting]] = defaultdict(list)
        for row in rows:
            topic = self._topic_prefix + row.topic
            if topic not in partitions:
                partitions[topic] = sorted(await producer.partitions_for(topic))
            ids = partitions[topic]
            found[topic, ids[_hash(row.key) % len(ids)]].append(row)
        return found


@lru_cache(maxsize=10_000)
def _hash(key: str) -> int:
    """As every Kafka client hashes a key to find its partition. aiokafka does it in Python, and keys come again."""
    return int(murmur2(key.encode())) & 0x7FFFFFFF


def _record_of(row: Waiting) -> dict[str, Any] | None:
    """What goes to Kafka; None where that is more than a broker takes."""
    key, mirrored = row.key.encode(), headers(row.payload)
    if (
        len(row.payload) > MAX_RECORD_BYTES // 2
        and DefaultRecordBatchBuilder.estimate_size_in_bytes(key, row.payload, mirrored) > MAX_RECORD_BYTES
    ):
        return None
    return {
        "timestamp": row.occurred_at_ms,
        "key": key,
        "value": row.payload,
        "headers": mirrored,
    }


async def _park_too_large(connection: Connection, row: Waiting) -> None:
    await connection.execute(PARK_TOO_LARGE, row.id)
    metrics.PARKED.labels(row.topic).inc()
    log.error("event_too_large", topic=row.topic, bytes=len(row.payload))


def _sorted_out(sent: Sequence[tuple[Waiting, asyncio.Future[object]]]) -> tuple[list[Waiting], list[Waiting]]:
    """Those that Kafka has, and the rest: after a failure its key's later events too, so that order ends right."""
    acknowledged: list[Waiting] = []
    failed: list[Waiting] = []
    blocked: set[str] = set()
    for row, future in sent:
        if row.key in blocked or not future.done() or future.cancelled() or future.exception() is not None:
            blocked.add(row.key)
            failed.append(row)
        else:
            acknowledged.append(row)
    return acknowledged, failed
