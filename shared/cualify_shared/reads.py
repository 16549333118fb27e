"""Kafka in. Every subscription of every service is made here, so that none is at-most-once by accident.

A batch of raw records becomes one transaction of the service's handler; the offsets follow its COMMIT. A record that
can't be handled is found by halving, tried three times, and parked in the same transaction as the rest, so that what
is behind it moves on and nothing is dropped. While the database is away the batch waits and nothing is acknowledged.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import ConsumerStoppedError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage
from faststream.security import BaseSecurity

from cualify_shared import dead_letters, faults, kafka_records, metrics
from cualify_shared.database import Connection, Pool, is_passing
from cualify_shared.dead_letters import KafkaRecord
from cualify_shared.events.catalogue import type_of, types_on
from cualify_shared.events.envelope import Event, MalformedEvent, decode, peek_type
from cualify_shared.events.model import EventData
from cualify_shared.events.topics import Topic
from cualify_shared.kafka_security import for_aiokafka
from cualify_shared.waiting import BACK_SOON_SEC, pauses, until_set, within

log = structlog.get_logger(__name__)
kafka_records.install()

MAX_RECORDS = 500
LONGEST_POLL_MS = 1_000
TRIES_OF_ONE_RECORD = 3
LOOK_EVERY_SEC = 2.0
EXIT_TO_BE_STARTED_AGAIN = 70

AfterCommit: TypeAlias = Callable[[], None]
Handler: TypeAlias = Callable[[Connection, Sequence[Event]], Awaitable[AfterCommit | None]]


@dataclass(frozen=True, slots=True)
class Read:
    """A topic that a service reads: which of its events it handles, and how.

    The handler gets the events of one batch, in order per key, inside a transaction, and may return what is to be done
    after the COMMIT. It must be harmless to repeat: the same event comes again after any crash.
    """

    topic: Topic
    handles: tuple[type[EventData], ...]
    handler: Handler


class Stopping(Exception):
    """The service is stopping and this batch was not committed: it will be read again."""


class Reader:
    """Handles the records of one topic, whoever fetched them."""

    def __init__(self, read: Read, *, pool: Pool, stop: asyncio.Event, committed: AfterCommit) -> None:
        self.read = read
        self._pool, self._stop, self._committed = pool, stop, committed
        self._names = {type_of(model).name for model in read.handles}
        self._passed_over = {kind.name for kind in types_on(read.topic)} - self._names
        self.progress_at = time.monotonic()
        self.in_hand = 0
        """Records of the batch that is being handled."""
        self.committed_by_others = 0
        """In the whole topic, as of the last look at which this replica had no partition of it."""

    async def handle(self, records: Sequence[KafkaRecord]) -> None:
        """Returns when all of the records are committed: handled, of no interest, or parked."""
        self.in_hand = len(records)
        wanted, poison = self._decoded(records)
        for pause in pauses():
            if self._stop.is_set():
                raise Stopping
            try:
                await self._commit(wanted, poison)
                break
            except Exception as error:
                passes = is_passing(error)
                pause = min(pause, BACK_SOON_SEC) if passes else pause
                self._say_why(error, passes=passes, retry_in_sec=pause)
            await until_set(self._stop, pause)
        self.in_hand = 0
        faults.point(f"reads.{self.read.topic.name}.committed")
        self.progress_at = time.monotonic()
        metrics.CONSUMED.labels(self.read.topic.name).inc(len(records))

    def _say_why(self, error: Exception, *, passes: bool, retry_in_sec: float) -> None:
        """A batch is never given up: the next acknowledgement would pass over it. Stuck for long, the process exits."""
        topic = self.read.topic.name
        if passes:
            self.progress_at = time.monotonic()
            log.warning("database_away", topic=topic, retry_in_sec=retry_in_sec, error=repr(error))
        else:
            log.critical("batch_stuck", topic=topic, retry_in_sec=retry_in_sec, exc_info=error)

    async def redrive(self, record: KafkaRecord) -> None:
        """Sends one parked record through the same handler, or past it. Raises what that raises, or MalformedEvent."""
        event = decode(record.value)
        if event.type.name not in self._names:
            return
        async with self._pool.acquire() as connection, connection.transaction():
            after = await self.read.handler(connection, [event])
        self._done([after])

    def _decoded(
        self, records: Sequence[KafkaRecord]
    ) -> tuple[list[tuple[KafkaRecord, Event]], list[tuple[KafkaRecord, str]]]:
        wanted: list[tuple[KafkaRecord, Event]] = []
        poison: list[tuple[KafkaRecord, str]] = []
        for record in records:
            if self._passed_over and peek_type(record.headers) in self._passed_over:
                continue
            try:
                event = decode(record.value)
            except MalformedEvent as error:
                poison.append((record, str(error)))
                continue
            if event.type.name in self._names:
                wanted.append((record, event))
        return wanted, poison

    async def _commit(
        self, wanted: Sequence[tuple[KafkaRecord, Event]], poison: Sequence[tuple[KafkaRecord, str]]
    ) -> None:
        if not wanted and not poison:
            return
        with metrics.BATCH_SEC.labels(f"read {self.read.topic.name}").time():
            try:
                after = await self._commit_together(wanted, poison)
            except Exception as error:
                if is_passing(error):
                    raise
                log.warning("batch_failed", topic=self.read.topic.name, records=len(wanted), error=repr(error))
                after = await self._commit_what_can_be(wanted, poison)
        self._done(after)

    async def _commit_together(
        self, wanted: Sequence[tuple[KafkaRecord, Event]], poison: Sequence[tuple[KafkaRecord, str]]
    ) -> list[AfterCommit | None]:
        async with self._pool.acquire() as connection, connection.transaction():
            after = [await self.read.handler(connection, [event for _, event in wanted])] if wanted else []
            await self._park(connection, poison)
            faults.point(f"reads.{self.read.topic.name}.handled")
        return after

    async def _commit_what_can_be(
        self, wanted: Sequence[tuple[KafkaRecord, Event]], poison: Sequence[tuple[KafkaRecord, str]]
    ) -> list[AfterCommit | None]:
        async with self._pool.acquire() as connection, connection.transaction():
            letters = list(poison)
            after = await self._halve(connection, wanted, letters)
            await self._park(connection, letters)
        return after

    async def _halve(
        self,
        connection: Connection,
        wanted: Sequence[tuple[KafkaRecord, Event]],
        letters: list[tuple[KafkaRecord, str]],
    ) -> list[AfterCommit | None]:
        for n in range(1 if len(wanted) > 1 else TRIES_OF_ONE_RECORD):
            try:
                async with connection.transaction():
                    return [await self.read.handler(connection, [event for _, event in wanted])]
            except Exception as error:
                if is_passing(error):
                    raise
                problem = f"{type(error).__name__}: {error}"
                await until_set(self._stop, 0.01 * 2**n if len(wanted) == 1 else 0)
        if len(wanted) == 1:
            letters.append((wanted[0][0], problem))
            return []
        middle = len(wanted) // 2
        first = await self._halve(connection, wanted[:middle], letters)
        return first + await self._halve(connection, wanted[middle:], letters)

    async def _park(self, connection: Connection, letters: Sequence[tuple[KafkaRecord, str]]) -> None:
        await dead_letters.park(connection, letters)
        for topic, count in Counter(record.topic for record, _ in letters).items():
            metrics.PARKED.labels(topic).inc(count)
        for record, problem in letters:
            log.error(
                "record_parked", topic=record.topic, partition=record.partition, offset=record.offset, problem=problem
            )

    def _done(self, after: Sequence[AfterCommit | None]) -> None:
        for act in after:
            if act is not None:
                act()
        self._committed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """How a service's consumers connect and how they are members of their groups."""

    service: str
    bootstrap_servers: str
    topic_prefix: str
    embedded: bool
    replica: str
    drain_sec: float
    stalled_after_sec: float
    security: BaseSecurity | None = None

    def group(self, topic: Topic) -> str:
        """One group per (service, topic), so that no topic waits for another."""
        return f"{self.topic_prefix}cualify.{self.service}.{topic.name}"

    def membership(self) -> dict[str, Any]:
        """A named replica keeps its partitions over a restart; an unnamed one gives them up after its session."""
        if self.embedded:
            return {"session_timeout_ms": 3_000, "heartbeat_interval_ms": 500, "fetch_max_wait_ms": 50}
        if self.replica:
            return {"session_timeout_ms": 30_000, "heartbeat_interval_ms": 3_000, "group_instance_id": self.replica}
        return {"session_timeout_ms": 10_000, "heartbeat_interval_ms": 2_000}


class Reading:
    """All subscriptions of one service, on one FastStream broker."""

    def __init__(self, readers: Sequence[Reader], subscription: Subscription) -> None:
        self._readers, self._subscription = readers, subscription
        self.broker = KafkaBroker(
            subscription.bootstrap_servers,
            client_id=f"cualify-{subscription.service}",
            security=subscription.security,
            ack_policy=AckPolicy.MANUAL,
            allow_auto_create_topics=subscription.embedded,
            graceful_timeout=subscription.drain_sec,
            logger=None,
        )
        self.subscribers = {reader.read.topic.name: self._subscribe(reader) for reader in readers}
        self.problem: str | None = "not connected yet"
        """Why nothing can be read at the moment."""

    def _subscribe(self, reader: Reader) -> Any:
        topic = reader.read.topic
        subscriber = self.broker.subscriber(
            self._subscription.topic_prefix + topic.name,
            group_id=self._subscription.group(topic),
            batch=True,
            max_records=MAX_RECORDS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            max_poll_interval_ms=300_000,
            parser=_parse_raw,
            decoder=_decode_nothing,
            **self._subscription.membership(),
        )

        async def on_batch(message: KafkaMessage) -> None:
            await reader.handle(message.raw_message)
            await message.ack()

        subscriber(on_batch)
        subscriber.get_msg = _fetch
        return subscriber

    async def run(self, stop: asyncio.Event) -> None:
        """Connects, retrying until the broker is there, and watches that the reading goes on."""
        for pause in pauses(longest_sec=BACK_SOON_SEC):
            try:
                await self._connect(stop)
                break
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"
                log.warning("kafka_not_reachable", error=self.problem)
                await within(self.broker.stop(), 5)
            if await until_set(stop, pause):
                return
        self.problem = None
        try:
            while not await until_set(stop, LOOK_EVERY_SEC):
                if stalled := await self.stalled():
                    log.critical("consumer_stalled", topics=stalled)
                    os._exit(EXIT_TO_BE_STARTED_AGAIN)
        finally:
            # aiokafka's stop() can hang when the broker is gone.
            await within(self.broker.stop(), 8)

    async def _connect(self, stop: asyncio.Event) -> None:
        """Returns once connected, or told to stop. A consumer waits for a topic that is not there without a word."""
        starting = asyncio.ensure_future(self.broker.start())
        try:
            while not (await asyncio.wait((starting,), timeout=LOOK_EVERY_SEC))[0]:
                if stop.is_set():
                    return
                if missing := await self._missing_topics():
                    self.problem = f"no topic {', '.join(missing)}: see `python -m cualify_shared.events.create_topics`"
                    log.warning("topics_missing", topics=missing)
            await starting
        finally:
            starting.cancel()

    async def _missing_topics(self) -> list[str]:
        """Of those that are read here; none where the broker does not say."""
        given = self._subscription
        wanted = {given.topic_prefix + reader.read.topic.name for reader in self._readers}
        admin = AIOKafkaAdminClient(bootstrap_servers=given.bootstrap_servers, **for_aiokafka(given.security))
        try:
            async with asyncio.timeout(5):
                await admin.start()
                return sorted(wanted - set(await admin.list_topics()))
        except (KafkaError, TimeoutError):
            return []
        finally:
            await within(admin.close(), 2)

    async def stalled(self) -> list[str]:
        """Topics with records left on which nothing has moved for too long: aiokafka does not always find back."""
        lags = [(reader, await self._lag(reader)) for reader in self._readers]
        self.problem = None if all(lag is not None for _, lag in lags) else "the broker does not answer"
        return [reader.read.topic.name for reader, lag in lags if lag and self._is_stuck(reader)]

    def _is_stuck(self, reader: Reader) -> bool:
        return time.monotonic() - reader.progress_at > self._subscription.stalled_after_sec

    async def _lag_of_the_others(self, reader: Reader, consumer: AIOKafkaConsumer) -> int:
        """Where no partition is assigned here: others have them all, or nobody reads because this member is lost."""
        topic = self._subscription.topic_prefix + reader.read.topic.name
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        committed = sum([max(begins[one], await consumer.committed(one) or 0) for one in partitions])
        metrics.CONSUMER_LAG.labels(reader.read.topic.name).set(0)
        left: int = sum(ends.values()) - committed
        if committed != reader.committed_by_others or not left:
            reader.committed_by_others, reader.progress_at = committed, time.monotonic()
        return left

    async def _lag(self, reader: Reader) -> int | None:
        """Records that are not committed here yet, asked of the broker; None where it does not answer."""
        topic, consumer = reader.read.topic.name, self.subscribers[reader.read.topic.name].consumer
        try:
            async with asyncio.timeout(5):
                if not (partitions := consumer.assignment()):
                    return await self._lag_of_the_others(reader, consumer)
                ends = await consumer.end_offsets(partitions)
                unread = sum([await _unread(consumer, one, end) for one, end in ends.items()])
        except Exception as error:
            log.warning("lag_unknown", topic=topic, error=repr(error))
            return None
        lag: int = unread + reader.in_hand
        metrics.CONSUMER_LAG.labels(topic).set(lag)
        if lag == 0:
            reader.progress_at = time.monotonic()
        return lag


async def _unread(consumer: AIOKafkaConsumer, partition: TopicPartition, end: int) -> int:
    """Records not read yet; one, where the broker answers and the consumer yet does not know where to read on."""
    try:
        position: int = await asyncio.wait_for(consumer.position(partition), 0.3)
    except TimeoutError:
        return min(end, 1)
    return max(0, end - position)


async def _parse_raw(records: tuple[ConsumerRecord[Any, Any], ...], original: Callable[[Any], Awaitable[Any]]) -> Any:
    """FastStream is shown the first record alone, without its headers.

    It decodes every header as UTF-8, drops the whole batch where one is not, and wraps each record three times.
    """
    message = await original((replace(records[0], headers=()),))
    message.raw_message = records
    return message


async def _fetch(consumer: AIOKafkaConsumer) -> tuple[ConsumerRecord[Any, Any], ...]:
    """The next batch as soon as there is one. FastStream's own way sleeps after an empty poll, blind meanwhile."""
    try:
        batches = await consumer.getmany(timeout_ms=LONGEST_POLL_MS, max_records=MAX_RECORDS)
    except ConsumerStoppedError:
        raise
    except Exception:
        await _back_to_committed(consumer)
        raise
    return tuple(record for records in batches.values() for record in records)


async def _back_to_committed(consumer: AIOKafkaConsumer) -> None:
    """A poll that failed on one partition has moved past what it took of others: the next ack would commit that too."""
    for pause in pauses():
        try:
            for partition in consumer.assignment():
                if offset := await consumer.committed(partition):
                    consumer.seek(partition, offset)
                else:
                    await consumer.seek_to_beginning(partition)
            return
        except KafkaError as error:
            log.warning("not_back_at_committed", retry_in_sec=pause, error=repr(error))
        await asyncio.sleep(pause)


async def _decode_nothing(_: Any) -> None:
    """Decoding is the reader's, so that a broken record is parked and not raised."""
