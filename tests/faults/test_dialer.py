"""The dialer's drill: many calls, every fault, two dialers, one of them killed every few seconds.

`DIALER_DRILL_CALLS=10000` makes it long: about four minutes on two cores.
"""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from cualify_dialer import consume
from cualify_dialer.model import Pace
from cualify_local.children import free_ports
from cualify_local.kafka.broker import Kafka
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, create_pool
from cualify_shared.events.create_topics import create_topics
from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings
from tests.dialer.support import TOKEN, a_request, an_event
from tests.support.databases import MakeDatabase

CALLS = int(os.environ.get("DIALER_DRILL_CALLS", "1000"))
RATE = 0.05
FAULTS = dict.fromkeys(
    (
        "server_error",
        "gateway_timeout",
        "dropped",
        "late",
        "not_json",
        "refused",
        "throttled_twice",
        "callbacks_lost",
        "callbacks_twice_reordered",
    ),
    RATE,
)
KILL_EVERY_SEC = 3.0
PREFIX = "drill."


@dataclass(slots=True)
class Drill:
    """Two dialer processes on one database, and the simulator."""

    pool: Pool
    environments: list[dict[str, str]]
    logs: Path
    simulator_url: str
    http: aiohttp.ClientSession
    running: list[asyncio.subprocess.Process | None]
    kills: int = 0

    async def start(self, which: int) -> None:
        log = (self.logs / f"dialer-{which}.log").open("ab")
        self.running[which] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cualify_dialer.main", env=self.environments[which], stdout=log, stderr=log
        )

    async def until_ready(self, port: int) -> None:
        async with asyncio.timeout(30):
            while True:
                with suppress(aiohttp.ClientError):
                    async with self.http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def kill(self, which: int) -> None:
        process = self.running[which]
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            self.kills += 1

    async def keep_killing(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            which = random.randrange(len(self.running))
            await self.kill(which)
            await self.start(which)

    async def request(self, count: int) -> list[UUID]:
        orgs = [a_request().org_id for _ in range(20)]
        read = consume.call_requests(pace=Pace(), changed=lambda: None)
        requests = [
            a_request(
                org_id=orgs[n % 20],
                to_e164=f"+9198{n:08d}",
                latest_at=utc_now() + timedelta(hours=1),
                provider_agent_id=self.environments[0]["AGENT_ID"],
            )
            for n in range(count)
        ]
        for start in range(0, count, 500):
            async with self.pool.acquire() as connection, connection.transaction():
                await read.handler(connection, [an_event(one) for one in requests[start : start + 500]])
        return [one.call_id for one in requests]

    async def until_all_ended(self, within_sec: float) -> None:
        async with asyncio.timeout(within_sec):
            while await self.pool.fetchval("SELECT count(*) FROM dial_jobs WHERE state <> 'ended'"):
                await asyncio.sleep(0.2)

    async def journal(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        while True:
            after = entries[-1]["n"] if entries else 0
            async with self.http.get(f"{self.simulator_url}/journal?after={after}") as answer:
                page = (await answer.json())["entries"]
            if not page:
                return entries
            entries += page


@asynccontextmanager
async def drilling(database: MakeDatabase, kafka: Kafka, folder: Path, **more: str) -> AsyncIterator[Drill]:
    dsn = await database("cualify_dialer")
    if kafka.kind != "embedded":
        await create_topics(kafka.bootstrap_servers, prefix=PREFIX)
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        chosen = Settings(port=0, simulator_speed=60, client_timeout_sec=1.0, simulator_max_concurrency=10_000)
        server = await stack.enter_async_context(TestServer(build_app(chosen)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = str(server.make_url("")).rstrip("/")
        # Bolna's agent has one address: the first dialer's. Whatever that one misses is looked up.
        config = {"agent_name": "Asha", "webhook_url": f"http://127.0.0.1:{ports[0]}/callbacks/bolna/{TOKEN}"}
        key = {"Authorization": "Bearer bn-simulator"}
        async with http.post(f"{url}/v2/agent", json={"agent_config": config}, headers=key) as answer:
            agent_id = (await answer.json())["agent_id"]
        async with http.put(f"{url}/admin/faults", json=FAULTS) as answer:
            assert answer.status == 200
        environments = [
            {
                **os.environ,
                "DATABASE_URL": dsn,
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                "KAFKA_TOPIC_PREFIX": PREFIX,
                "KAFKA_EMBEDDED": str(kafka.kind == "embedded").lower(),
                "INTERNAL_TOKEN": "t" * 16,
                "PORT": str(port),
                "PUBLIC_URL": f"http://127.0.0.1:{port}",
                "BOLNA_URL": url,
                "BOLNA_API_KEY": "bn-simulator",
                "BOLNA_CALLS_PER_SEC": "1000",
                "CALLBACK_TOKEN": TOKEN,
                "PROVIDER_TIMEOUT_SEC": "1",
                "LOOK_UP_EVERY_SEC": "2",
                "SETTLE_UNKNOWN_SEC": "10",
                "MAX_CONCURRENT_CALLS": "200",
                "AGENT_ID": agent_id,
                **more,
            }
            for port in ports
        ]
        pool = await create_pool(dsn, application_name="drill", size=4)
        drill = Drill(pool, environments, folder, url, http, [None, None])
        try:
            for which in range(2):
                await drill.start(which)
            for port in ports:
                await drill.until_ready(port)
            yield drill
        finally:
            for which in range(2):
                await drill.kill(which)
            pool.terminate()


def no_phone_rang_twice(entries: list[dict[str, Any]]) -> None:
    """Rings are accepted calls, each of another call."""
    rings = Counter(entry["to_e164"] for entry in entries if entry["kind"] == "ring")
    created = Counter(entry["to_e164"] for entry in entries if entry["kind"] == "create")
    assert rings == created
    assert set(rings.values()) <= {1}


@pytest.mark.faults
async def test_whatever_dies_nobody_is_rung_twice_every_call_ends_and_no_line_leaks(
    database: MakeDatabase, kafka: Kafka, tmp_path: Path
) -> None:
    async with drilling(database, kafka, tmp_path) as drill:
        killing = asyncio.create_task(drill.keep_killing(KILL_EVERY_SEC))
        call_ids = await drill.request(CALLS)
        await drill.until_all_ended(120 + CALLS / 10)
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing
        entries = await drill.journal()
        no_phone_rang_twice(entries)
        assert await drill.pool.fetchval("SELECT count(*) FROM attempts WHERE state <> 'ended'") == 0
        rows = await drill.pool.fetch("SELECT to_e164, status, ended_reason FROM dial_jobs")
        assert len(rows) == len(call_ids)
        rung = {entry["to_e164"] for entry in entries if entry["kind"] == "ring"}
        ends = Counter((row["status"], row["ended_reason"]) for row in rows)
        assert {row["to_e164"] for row in rows if row["status"] == "completed"} == rung
        left = {reason for status, reason in ends if status != "completed"}
        assert left <= {"provider_refused", "outcome_unknown"}, "unknown: killed before the request left"
        assert drill.kills >= 2
        print(f"\n{CALLS} calls, {drill.kills} kills, {len(rung)} rings, ends: {dict(ends)}")


@pytest.mark.faults
async def test_two_dialers_share_the_work_and_one_that_is_killed_hands_over(
    database: MakeDatabase, kafka: Kafka, tmp_path: Path
) -> None:
    async with drilling(database, kafka, tmp_path) as drill:
        async with drill.http.put(f"{drill.simulator_url}/admin/faults", json={}) as answer:
            assert answer.status == 200
        await drill.request(300)
        async with asyncio.timeout(60):
            while not all(asked_by_each(tmp_path)):
                await asyncio.sleep(0.02)
        await drill.kill(1)
        await drill.until_all_ended(90)
        no_phone_rang_twice(await drill.journal())
        print(f"\n300 calls, asked by each: {asked_by_each(tmp_path)}")


def asked_by_each(logs: Path) -> list[int]:
    """Dials, by each dialer's own log."""
    return [log.read_bytes().count(b'"call_dialed"') for log in sorted(logs.glob("dialer-*.log"))]
