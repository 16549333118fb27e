"""Dispatchers as real processes on the run's servers, a sink, and a producer of what customers are told."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import psutil
from aiokafka import AIOKafkaProducer

from cualify_local.kafka.broker import Kafka
from cualify_shared.clock import now
from cualify_shared.database import Pool, create_pool
from cualify_shared.events.create_topics import create_topics
from cualify_shared.events.customer import CustomerCallCompleted, CustomerCallDialing
from cualify_shared.events.envelope import Event, encode, headers
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import endpoints
from cualify_webhook_dispatcher.endpoints import Registered
from cualify_webhook_dispatcher.secrets import Secrets
from tests.support.databases import MakeDatabase

SECRETS_KEY = bytes(range(32)).hex()
ROOT = Path(__file__).parents[2]
CALL = {
    "status": "completed",
    "to_e164": "+919900000000",
    "duration_sec": 142,
    "credits_debited_paise": 1420,
    "outcome": {"interested": True, "summary": "x" * 700},
}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(slots=True)
class World:
    """What a run has: its database, its prefix on the broker, its sink and its dispatchers."""

    dsn: str
    pool: Pool
    kafka: Kafka
    prefix: str
    folder: Path
    sink_url: str
    producer: AIOKafkaProducer
    http: aiohttp.ClientSession
    replicas: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *, module: str = "cualify_webhook_dispatcher.main", **env: str) -> subprocess.Popen[bytes]:
        """One more dispatcher."""
        set_here = {
            "DATABASE_URL": self.dsn,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "INTERNAL_TOKEN": "t",
            "PORT": str(free_port()),
            "SECRETS_KEY": SECRETS_KEY,
            "ALLOWED_NETWORKS": "127.0.0.0/8",
            **env,
        }
        with (self.folder / "dispatcher.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env={**os.environ, **set_here}, cwd=ROOT, stdout=log, stderr=log
            )
        self.replicas.append(process)
        return process

    async def until_ready(self, count: int = 1) -> None:
        """So many replicas have confirmed that they may send, and the group has its partitions."""
        async with asyncio.timeout(60):
            while await self.pool.fetchval("SELECT count(*) FROM replicas") < count:
                await asyncio.sleep(0.05)

    async def register(self, path: str, *, org_id: UUID) -> UUID:
        """An endpoint at the sink, an hour old."""
        secrets = Secrets(key=bytes.fromhex(SECRETS_KEY), key_id="1")
        made = await endpoints.register(self.pool, secrets, org_id=org_id, url=self.sink_url + path, events=["*"])
        assert isinstance(made, Registered)
        await self.pool.execute("UPDATE endpoints SET created_at = created_at - interval '1 hour'")
        endpoint_id: UUID = made.shown["id"]
        return endpoint_id

    async def produce(self, events: Iterable[Event]) -> None:
        """Puts them on the topic as the api's relay does."""
        topic = self.prefix + "customer.events"
        sent = []
        for event in events:
            value = encode(event)
            sent.append(
                await self.producer.send(topic, value=value, key=str(event.key).encode(), headers=headers(value))
            )
        await asyncio.gather(*sent)

    async def count(self) -> int:
        """Requests that the sink has got."""
        async with self.http.get(self.sink_url + "/count") as answer:
            return int(await answer.text())

    async def until_count(self, wanted: int, *, seconds: float) -> None:
        """The sink has got so many."""
        async with asyncio.timeout(seconds):
            while await self.count() < wanted:
                await asyncio.sleep(0.02)

    async def got(self) -> list[dict[str, Any]]:
        """What the sink has got, in order of arrival."""
        async with self.http.get(self.sink_url + "/dump") as answer:
            rows = await answer.json(content_type=None)
        return [dict(zip(("path", "id", "at", "happened", "subject", "sequence"), row, strict=True)) for row in rows]


def call_of(org_id: UUID, count: int) -> list[Event]:
    """The events of one call: all but the last `dialing`."""
    call = new_id()
    kinds: Sequence[Any] = [CustomerCallDialing] * (count - 1) + [CustomerCallCompleted]
    return [
        Event(
            data=kind(call_id=call, org_id=org_id, call={"id": str(call), **CALL}),
            org_id=org_id,
            key=call,
            subject=f"call/{call}",
            sequence=n,
            time=now(),
        )
        for n, kind in enumerate(kinds, 1)
    ]


def cpu_sec(pid: int) -> float:
    """User and system time of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def world(
    kafka: Kafka, database: MakeDatabase, folder: Path, *, sink_env: Mapping[str, str] | None = None
) -> AsyncIterator[World]:
    """Everything but the dispatchers; ends them too."""
    prefix, port = f"w{uuid4().hex[:6]}_", free_port()
    dsn = await database("cualify_webhook_dispatcher")
    await create_topics(kafka.bootstrap_servers, prefix=prefix)
    async with AsyncExitStack() as leaving:
        sink = _sink(port)
        leaving.callback(_end, [sink])
        pool = await create_pool(dsn, application_name="world", size=3)
        leaving.callback(pool.terminate)
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=2)
        await producer.start()
        leaving.push_async_callback(producer.stop)
        http = await leaving.enter_async_context(aiohttp.ClientSession())
        made = World(dsn, pool, kafka, prefix, folder, f"http://127.0.0.1:{port}", producer, http)
        leaving.callback(_end, made.replicas)
        yield made


def _sink(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.support.webhook_sink", str(port)], cwd=ROOT)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
