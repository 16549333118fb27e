"""What a delivery costs, how late it is, and what hanging endpoints cost the others. Numbers, no timed assertions.

`BENCH_EVENTS` (4,000; in full 20,000) and `BENCH_HANG_SEC` (10; in full 300) set the size.
"""

import asyncio
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from cualify_shared.clock import now
from cualify_shared.database import create_pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import retention
from tests.bench.measure import cpu_sec
from tests.support.databases import MakeDatabase
from tests.support.webhook_world import ROOT, World, call_of, world

EVENTS = int(os.environ.get("BENCH_EVENTS", "4000"))
ATTEMPTS = int(os.environ.get("BENCH_ATTEMPTS", "300000"))
HANG_SEC = float(os.environ.get("BENCH_HANG_SEC", "10"))
MACHINE = f"{platform.machine()}, {psutil.cpu_count()} cores shared with sink, broker and database"

pytestmark = pytest.mark.bench


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def warm(made: World, count: int = 1) -> None:
    """So many deliveries have arrived: the consumer has its partitions, and the JVM has compiled what is hot."""
    org_id = new_id()
    await made.register("/warm", org_id=org_id)
    await made.produce(event for _ in range(count) for event in call_of(org_id, 1))
    await made.until_count(count, seconds=60)
    await _until_outbox_empty(made)


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU-seconds so far, by name."""
    return {name: cpu_sec(pid) for name, pid in pids.items()}


async def bare_cpu_ms(made: World, count: int) -> float:
    """CPU-ms a request of the bare loop, against the same sink."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.bare_sender",
        made.sink_url + "/bare",
        str(count),
        "1000",
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return float(out)


@pytest.mark.parametrize("endpoints", [1, 10])
async def test_cpu_and_statements_a_delivery(
    kafka: Kafka, database: MakeDatabase, postgres: Postgres, tmp_path: Path, endpoints: int
) -> None:
    counter = tmp_path / "statements"
    async with world(kafka, database, tmp_path) as made:
        process = made.start(module="tests.support.counted_dispatcher", STATEMENTS_FILE=str(counter))
        await made.until_ready()
        await warm(made, EVENTS // 4)
        org_id = new_id()
        for n in range(endpoints):
            await made.register(f"/cpu/{n}", org_id=org_id)
        events = [event for _ in range(EVENTS // endpoints) for event in call_of(org_id, 1)]
        deliveries = len(events) * endpoints
        await asyncio.sleep(0.3)
        servers = {"PostgreSQL": postgres.child, "Kafka": kafka.child}
        pids = {"dispatcher": process.pid} | {name: child.pid for name, child in servers.items() if child}
        cpu, statements, began = cpu_of(pids), int(counter.read_text()), time.monotonic()
        await made.produce(events)
        await made.until_count(EVENTS // 4 + deliveries, seconds=300)
        await _until_outbox_empty(made)
        took = time.monotonic() - began
        await asyncio.sleep(0.3)
        costs = {name: (sec - cpu[name]) * 1000 / deliveries for name, sec in cpu_of(pids).items()}
        cost = costs["dispatcher"]
        per_delivery = (int(counter.read_text()) - statements) / deliveries
        bare = await bare_cpu_ms(made, deliveries)
    print(
        f"\n{MACHINE}\n{deliveries} deliveries to {endpoints} endpoint(s): {cost:.3f} CPU-ms each in the dispatcher, "
        f"bare signing loop {bare:.3f} (ratio {cost / bare:.1f}); {per_delivery:.3f} SQL statements each; "
        f"with the servers' share {sum(costs.values()):.3f} ({', '.join(f'{k} {v:.3f}' for k, v in costs.items())}); "
        f"{deliveries / took:.0f}/s until the outbox was empty"
    )


async def _until_outbox_empty(made: World) -> None:
    async with asyncio.timeout(60):
        while await made.pool.fetchval(
            "SELECT exists (SELECT FROM outbox) OR exists (SELECT FROM deliveries WHERE state = 'pending')"
        ):
            await asyncio.sleep(0.02)


async def test_latency_at_50_deliveries_a_second(kafka: Kafka, database: MakeDatabase, tmp_path: Path) -> None:
    async with world(kafka, database, tmp_path) as made:
        made.start()
        await made.until_ready()
        await warm(made)
        org_id = new_id()
        await made.register("/late", org_id=org_id)
        bare: list[float] = []
        for n in range(300):
            next_at = time.monotonic() + 0.02
            await made.produce(call_of(org_id, 1))
            if n % 10 == 0:
                began = time.monotonic()
                async with made.http.post(
                    made.sink_url + "/bare", data=b'{"timestamp":"2026-01-01T00:00:00Z","sequence":1,"data":{}}'
                ):
                    bare.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(max(0, next_at - time.monotonic()))
        await asyncio.sleep(1)
        late = [(one["at"] - one["happened"]) * 1000 for one in await made.got() if one["path"] == "/late"]
    assert len(late) == 300
    print(
        f"\n{MACHINE}\n50 deliveries/s, from the event's time to the receiver: p50 {percentile(late, 0.5):.1f} ms, "
        f"p99 {percentile(late, 0.99):.1f} ms; a plain POST beside it: p50 {percentile(bare, 0.5):.1f} ms, "
        f"p99 {percentile(bare, 0.99):.1f} ms"
    )


async def test_dropping_a_day_of_attempts(database: MakeDatabase) -> None:
    pool = await create_pool(await database("cualify_webhook_dispatcher"), application_name="bench", size=1)
    today = now().date()
    old = today - timedelta(days=retention.ATTEMPTS_KEPT_DAYS + 2)
    await retention.make_partitions(pool, today=old)
    insert = (
        "INSERT INTO attempts (event_id, endpoint_id, n, at, duration_ms, status_code)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 1, $1::timestamptz + n * interval '1 microsecond', 1, 200"
        " FROM generate_series(1, $2::integer) AS n"
    )
    took: list[float] = []
    await pool.execute(insert, datetime(old.year, old.month, old.day, tzinfo=UTC), ATTEMPTS)
    for drop in (lambda: retention.drop_partitions(pool, today=today), lambda: pool.execute("DELETE FROM attempts")):
        began = time.perf_counter()
        await drop()
        took.append(time.perf_counter() - began)
        assert await pool.fetchval("SELECT count(*) FROM attempts") == 0
        await pool.execute(insert, datetime(today.year, today.month, today.day, tzinfo=UTC), ATTEMPTS)
    pool.terminate()
    print(f"\n{MACHINE}\na day of {ATTEMPTS} attempts dropped in {took[0]:.3f} s; by DELETE in {took[1]:.3f} s")


async def test_what_two_hanging_endpoints_of_twenty_cost_the_others(
    kafka: Kafka, database: MakeDatabase, tmp_path: Path
) -> None:
    found: dict[str, float] = {}
    for hang in (0, 2):
        async with world(kafka, database, tmp_path) as made:
            made.start(DELIVERY_TIMEOUT_SEC="15")
            await made.until_ready()
            await warm(made)
            orgs = [new_id() for _ in range(20)]
            for n, org_id in enumerate(orgs):
                await made.register("/hang" if n < hang else "/well", org_id=org_id)
            until = time.monotonic() + HANG_SEC
            while time.monotonic() < until:
                next_at = time.monotonic() + 0.1
                await made.produce(event for org_id in orgs for event in call_of(org_id, 1))
                await asyncio.sleep(max(0, next_at - time.monotonic()))
            await asyncio.sleep(1)
            got = await made.got()
        late = [(one["at"] - one["happened"]) * 1000 for one in got if one["path"] == "/well"]
        found[f"{hang} hanging"] = percentile(late, 0.99)
        print(
            f"\n{hang} of 20 hang for {HANG_SEC:.0f} s at 200 events/s: healthy p50 {percentile(late, 0.5):.1f} ms, "
            f"p99 {percentile(late, 0.99):.1f} ms, {len(late)} deliveries; "
            f"{sum(one['path'] == '/hang' for one in got)} requests to those that hang"
        )
    print(f"{MACHINE}\nhealthy p99 with / without: {found['2 hanging'] / found['0 hanging']:.2f}")
