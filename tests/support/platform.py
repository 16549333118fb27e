"""The whole platform for a test: the stack on the run's servers, an org with money, a receiver, and what to ask."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from cualify_local.environment import API, SIMULATOR
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres, drop_databases
from cualify_local.receiver import Receiver
from cualify_local.seed import Seeded, seed
from cualify_local.settings import StackSettings
from cualify_local.stack import Stack
from cualify_local.webhooks import register
from cualify_shared.events import Event, decode

TERMINAL = frozenset({"completed", "failed", "no_answer", "busy", "canceled"})
WITHIN_SEC = 60.0
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"
_numbers = itertools.count(1)


@dataclass(slots=True)
class Platform:
    """A running stack, seen as a customer, an operator and a bystander see it."""

    stack: Stack
    seeded: Seeded
    receiver: Receiver
    http: aiohttp.ClientSession
    url: str
    prefix: str
    kafka: Kafka
    said: list[str] = field(default_factory=list)

    async def place(self, to_e164: str, **fields: Any) -> dict[str, Any]:
        """An accepted call, as the 201 showed it. If the api dies meanwhile, asks again under the same key."""
        body = {"agent_id": self.seeded.agent_id, "to_e164": to_e164, **fields}
        headers = {"Idempotency-Key": str(uuid4())}

        async def ask() -> tuple[int, dict[str, Any]]:
            return await self.post("/api/v1/calls", body, headers=headers)

        status, answer = await until(unless_away(ask), "an answer to POST /calls")
        assert status == 201, answer
        return dict(answer["data"])

    async def post(
        self, path: str, body: Mapping[str, Any], *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a POST with the seeded org's key, or another's."""
        sent = {"Authorization": f"Bearer {key or self.seeded.api_key}", **(headers or {})}
        async with self.http.post(self.url + path, json=body, headers=sent) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, *, key: str | None = None) -> dict[str, Any]:
        """JSON of a GET that must succeed, once the api is there."""
        headers = {"Authorization": f"Bearer {key or self.seeded.api_key}"}

        async def ask() -> dict[str, Any]:
            async with self.http.get(self.url + path, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                return dict(await answer.json())

        shown: dict[str, Any] = await until(unless_away(ask), f"an answer to GET {path}")
        return shown

    async def call(self, call_id: str, *, key: str | None = None) -> dict[str, Any]:
        """A call as GET shows it."""
        return dict((await self.get(f"/api/v1/calls/{call_id}", key=key))["data"])

    async def until_settled(
        self, call_id: str, *, key: str | None = None, within_sec: float = WITHIN_SEC
    ) -> dict[str, Any]:
        """The call once it has ended and its cost is known."""

        async def look() -> dict[str, Any] | None:
            shown = await self.call(call_id, key=key)
            settled = shown["status"] in TERMINAL and shown["credits_debited_paise"] is not None
            return shown if settled else None

        settled: dict[str, Any] = await until(look, f"call {call_id} settled", within_sec=within_sec)
        return settled

    async def rings(self, to_e164: str) -> int:
        """How often that phone has rung: the simulator's oracle."""
        count = 0
        async for entry in self.journal():
            count += entry["kind"] == "ring" and entry["to_e164"] == to_e164
        return count

    async def journal(self) -> AsyncIterator[dict[str, Any]]:
        """All that the simulator has noted."""
        after = 0
        while True:
            async with self.http.get(
                f"{self.stack.addresses.url(SIMULATOR)}/journal?after={after}&limit=1000"
            ) as answer:
                page = await answer.json()
            for entry in page["entries"]:
                yield entry
            if not page["entries"]:
                return
            after = page["next"]

    async def query(self, service: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows from a service's database."""
        connection = await asyncpg.connect(self.stack.databases[service])
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def until_quiet(self, *, within_sec: float = WITHIN_SEC) -> None:
        """Every outbox is empty and every consumer group has read and committed all there is."""

        async def look() -> bool:
            for service in self.stack.databases:
                if (await self.query(service, "SELECT count(*) FROM outbox"))[0][0]:
                    return False
            return await self._lag() == 0

        await until(look, "all outboxes and topics drained", within_sec=within_sec)

    async def _lag(self) -> int:
        return sum([await self._lag_of(group, topic) for group, topic in self.groups()])

    def groups(self) -> list[tuple[str, str]]:
        """(consumer group, topic), both with the prefix."""
        reads = {
            "api": ("call.events", "call.artifacts", "wallet.events"),
            "dialer": ("call.requests",),
            "billing": ("call.events",),
            "webhook-dispatcher": ("customer.events",),
        }
        return [
            (f"{self.prefix}cualify.{service}.{topic}", self.prefix + topic)
            for service, topics in reads.items()
            for topic in topics
        ]

    async def _lag_of(self, group: str, topic: str) -> int:
        async with consumer(self.kafka, group) as reading:
            partitions = await self._partitions(reading, topic)
            ends = await reading.end_offsets(partitions) if partitions else {}
            return sum([ends[partition] - (await reading.committed(partition) or 0) for partition in partitions])

    async def rewind(self) -> None:
        """Every group's offsets back to the first record, as a member of it. The services must be down."""
        for group, topic in self.groups():
            member = AIOKafkaConsumer(
                topic, bootstrap_servers=self.kafka.bootstrap_servers, group_id=group, enable_auto_commit=False
            )
            await member.start()
            try:
                await until(partial(_assigned, member), f"{group} joined")
                await member.commit(dict.fromkeys(member.assignment(), 0))
            finally:
                await member.stop()

    async def _partitions(self, reading: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
        """Assigns all partitions of a topic; none where nobody has written to it yet."""
        metadata = await reading._client.fetch_all_metadata()
        partitions = [TopicPartition(topic, number) for number in metadata.partitions_for_topic(topic) or ()]
        if partitions:
            reading.assign(partitions)
        return partitions

    async def records(self, topic: str) -> list[Event]:
        """Every event on a topic, repeats included, in order of partitions' offsets."""
        async with consumer(self.kafka, None) as reading:
            partitions = await self._partitions(reading, self.prefix + topic)
            if not partitions:
                return []
            ends = await reading.end_offsets(partitions)
            await reading.seek_to_beginning(*partitions)
            found: list[Event] = []
            while any([await reading.position(partition) < ends[partition] for partition in partitions]):
                for records in (await reading.getmany(timeout_ms=200)).values():
                    found += [decode(record.value) for record in records]
            return found

    async def contents(self, *, but: Sequence[str] = ()) -> dict[str, list[str]]:
        """Every row of every table of every database, as text, sorted: to compare before and after."""
        found: dict[str, list[str]] = {}
        for service in self.stack.databases:
            for [table] in await self.query(service, TABLES):
                if f"{service}.{table}" not in but:
                    rows = await self.query(service, f'SELECT t::text FROM "{table}" AS t')
                    found[f"{service}.{table}"] = sorted(row[0] for row in rows)
        return found


@asynccontextmanager
async def consumer(kafka: Kafka, group: str | None) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that assigns its partitions by hand."""
    made = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def until(look: Callable[[], Awaitable[Any]], what: str, *, within_sec: float = WITHIN_SEC) -> Any:
    """The first truthy answer of `look`; fails by name when the time is up."""
    try:
        async with asyncio.timeout(within_sec):
            while True:
                if found := await look():
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_sec:g} s: {what}") from None


async def _assigned(member: AIOKafkaConsumer) -> bool:
    return bool(member.assignment())


def unless_away(ask: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """`ask`, or None while nobody answers there: killed, and not yet started again."""

    async def try_it() -> Any:
        try:
            return await ask()
        except (aiohttp.ClientConnectionError, ConnectionError):
            return None

    return try_it


@asynccontextmanager
async def platform(
    postgres: Postgres,
    kafka: Kafka,
    folder: Path,
    *,
    extra_env: Mapping[str, Mapping[str, str]] | None = None,
    **settings: Any,
) -> AsyncIterator[Platform]:
    """A platform of its own: its own databases, topics and processes on the run's servers."""
    prefix = f"p{uuid4().hex[:6]}_{next(_numbers)}"
    said: list[str] = []
    receiver = Receiver()
    chosen = StackSettings(
        **{
            "simulator_speed": 200.0,
            "look_up_every_sec": 0.5,
            "provider_timeout_sec": 2.0,
            "rate_limit_per_minute": 1_000_000,
            **settings,
        }
    )
    async with AsyncExitStack() as leaving:
        await receiver.start()
        leaving.push_async_callback(receiver.stop)
        leaving.push_async_callback(drop_databases, postgres.admin_url, prefix=prefix)
        stack = await leaving.enter_async_context(
            Stack(chosen, folder, said.append, prefix=prefix, postgres=postgres, kafka=kafka, extra_env=extra_env or {})
        )
        seeded = await seed(stack)
        receiver.secret = await register(stack, seeded, url=receiver.url, events=["*"])
        http = await leaving.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200), timeout=aiohttp.ClientTimeout(total=60))
        )
        yield Platform(stack, seeded, receiver, http, stack.addresses.url(API), prefix, kafka, said)
    shutil.rmtree(folder, ignore_errors=True)
