"""POST /calls against the obvious handler: requests per second and core, same load client, same run, same database."""

import asyncio
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import psutil
import pytest

from cualify_local import children
from cualify_local.postgres import Postgres
from cualify_shared.database import Pool
from tests.api.world import Org, running
from tests.support.databases import MakeDatabase

CONNECTIONS = 64
WARM_UP = 1_500
REQUESTS = 6_000
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """What one round cost."""

    seconds: float
    server_cpu_sec: float
    postgres_cpu_sec: float
    p50_ms: float
    p99_ms: float

    @property
    def per_core(self) -> float:
        """Requests per second of the server's CPU."""
        return REQUESTS / self.server_cpu_sec

    @property
    def per_core_with_database(self) -> float:
        """The same with PostgreSQL's share."""
        return REQUESTS / (self.server_cpu_sec + self.postgres_cpu_sec)


@pytest.mark.bench
async def test_accepting_calls_beside_the_obvious_handler(
    database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]], postgres: Postgres
) -> None:
    dsn = await database("cualify_api")
    pool = await pool_for(dsn)
    async with running(pool) as world:
        org = await world.org(granted_paise=10**12)
    rounds: dict[str, list[Round]] = {"ours": [], "bare": []}
    servers = {kind: await start(kind, dsn, org) for kind in rounds}
    try:
        for _, port in servers.values():
            await load(port, org, WARM_UP)
        for _ in range(ROUNDS):
            for kind, (process, port) in servers.items():
                rounds[kind].append(await measured(process, port, org, postgres))
    finally:
        for process, _ in servers.values():
            process.send_signal(signal.SIGKILL)
    report(rounds)
    placed = await pool.fetchval("SELECT count(*) FROM calls WHERE key_prefix <> 'abc12345'")
    assert placed == 1 + WARM_UP + ROUNDS * REQUESTS


async def start(kind: str, dsn: str, org: Org) -> tuple[psutil.Popen, int]:
    """One of the servers, once it answers."""
    port = children.free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": dsn,
        "ORG_ID": str(org.id),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    process = psutil.Popen(
        [sys.executable, "-m", "tests.bench.accept_servers", kind, str(port)], env=environment, stdout=-3
    )
    async with asyncio.timeout(30):
        while True:
            try:
                await load(port, org, 1)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return process, port


async def measured(process: psutil.Popen, port: int, org: Org, postgres: Postgres) -> Round:
    """A round, with the CPU that it took."""
    before, database_before, began = _cpu(process), _database_cpu(postgres), time.perf_counter()
    took = sorted(await load(port, org, REQUESTS))
    seconds = time.perf_counter() - began
    return Round(
        seconds,
        _cpu(process) - before,
        _database_cpu(postgres) - database_before,
        took[len(took) // 2] * 1000,
        took[int(len(took) * 0.99)] * 1000,
    )


async def load(port: int, org: Org, count: int) -> list[float]:
    """So many requests over kept connections, each with one under way; seconds of each. Bytes, no HTTP library."""
    body = orjson.dumps({"agent_id": org.agent_id, "to_e164": "+919812345678", "metadata": {"crm_lead_id": "L-7890"}})
    head = f"POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {org.key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    left, took = iter(range(count)), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            assert answer.startswith(b"HTTP/1.1 201"), answer
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(min(CONNECTIONS, count))))
    return took


def _cpu(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _database_cpu(postgres: Postgres) -> float:
    if postgres.child is None:
        return 0.0
    server = psutil.Process(postgres.child.process.pid)
    return sum(_cpu(one) for one in (server, *server.children(recursive=True)))


def report(rounds: dict[str, list[Round]]) -> None:
    """Medians, and the ratio."""
    print(
        f"\n{os.cpu_count()} cores, Python {platform.python_version()}, {CONNECTIONS} connections, {REQUESTS} requests"
    )
    middle: dict[str, tuple[float, float]] = {}
    for kind, found in rounds.items():
        middle[kind] = (
            statistics.median(one.per_core for one in found),
            statistics.median(one.per_core_with_database for one in found),
        )
        print(
            f"{kind}: {middle[kind][0]:,.0f} requests/s per core of the server,"
            f" {middle[kind][1]:,.0f} with PostgreSQL's CPU;"
            f" {statistics.median(REQUESTS / one.seconds for one in found):,.0f}/s here,"
            f" p50 {statistics.median(one.p50_ms for one in found):.1f} ms,"
            f" p99 {statistics.median(one.p99_ms for one in found):.1f} ms"
        )
    ours, bare = middle["ours"], middle["bare"]
    print(f"ours / bare: {ours[0] / bare[0]:.2f} per core of the server, {ours[1] / bare[1]:.2f} with PostgreSQL's")
