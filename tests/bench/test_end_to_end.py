"""Calls a second and CPU a call, from the HTTP request to webhook and ledger, beside a bare handler."""

import os
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from cualify_local import children
from cualify_local.children import Program
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.bench.measure import Load, cpu_sec, machine, post_all
from tests.support.databases import Databases
from tests.support.platform import Platform, platform, until

CALLS = int(os.environ.get("BENCH_CALLS", "2000"))
AT_ONCE = 64

pytestmark = pytest.mark.bench


async def test_calls_end_to_end(postgres: Postgres, kafka: Kafka, databases: Databases, tmp_path: Path) -> None:
    bare_load, bare_ms = await bare(databases, tmp_path)
    async with platform(
        postgres, kafka, tmp_path / "stack", simulator_speed=1000.0, max_concurrent_calls=1000, log_level="WARNING"
    ) as cualify:
        await one_call(cualify, 0)  # warm
        pids = {name: child.pid for name, child in cualify.stack.running.items()}
        for name, server in (("postgres", postgres.child), ("kafka", kafka.child)):
            if server is not None:
                pids[name] = server.pid
        before = {name: cpu_sec(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        accepted = await post_all(lambda n: one_call(cualify, n + 1), count=CALLS, at_once=AT_ONCE)
        await until(lambda: all_told(cualify), "every call is settled and told", within_sec=300)
        seconds = time.perf_counter() - began
        spent = {name: 1000 * (cpu_sec(pid) - before[name]) / CALLS for name, pid in pids.items()}
        memory = {name: resident_mib(pid) for name, pid in pids.items()}
    print(f"\n{machine()}; {kafka.kind} Kafka; {CALLS} calls, {AT_ONCE} clients")
    print(f"accepted {accepted.per_sec:.0f}/s; through to webhook and ledger {CALLS / seconds:.0f}/s")
    for name, ms in sorted(spent.items(), key=lambda one: -one[1]):
        print(f"  {name:<20} {ms:6.2f} CPU-ms a call   {memory[name]:4.0f} MiB")
    own = sum(ms for name, ms in spent.items() if name not in ("simulator",))
    print(f"  all but the simulator {own:5.2f} CPU-ms a call: {own / bare_ms:.1f} times a bare insert handler")
    print(f"  ({bare_ms:.2f} CPU-ms a request without PostgreSQL's share, {bare_load.per_sec:.0f}/s, in the same run)")


async def one_call(cualify: Platform, n: int) -> None:
    body = {"agent_id": cualify.seeded.agent_id, "to_e164": f"+9198{n:08d}"}
    status, answer = await cualify.post("/api/v1/calls", body)
    assert status == 201, answer


async def all_told(cualify: Platform) -> bool:
    ends = sum(1 for received in cualify.receiver.received if received.type == "call.completed")
    return ends >= CALLS + 1


async def bare(databases: Databases, folder: Path) -> tuple[Load, float]:
    """The same clients against a handler that inserts two rows."""
    port = children.free_port()
    environment = dict(os.environ) | {"DATABASE_URL": await databases.empty(), "PORT": str(port)}
    command = (sys.executable, "-m", "tests.bench.bare")
    server = children.start(Program(name="bare", args=command, log=folder / "bare.log", env=environment))
    url = f"http://127.0.0.1:{port}/calls"
    async with aiohttp.ClientSession() as http:

        async def ask(n: int) -> None:
            async with http.post(url, json={"agent_id": "a", "to_e164": f"+9198{n:08d}"}) as answer:
                assert answer.status == 201

        async def answers() -> bool:
            try:
                await ask(0)
            except aiohttp.ClientConnectionError:
                return False
            return True

        await until(answers, "the bare handler answers")
        before = cpu_sec(server.pid)
        load = await post_all(ask, count=CALLS, at_once=AT_ONCE)
        spent = 1000 * (cpu_sec(server.pid) - before) / CALLS
    children.stop(server)
    return load, spent


def resident_mib(pid: int) -> float:
    """Proportional where the kernel tells, so that shared pages count once."""
    own = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in own)) / 2**20
