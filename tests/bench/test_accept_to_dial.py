"""How long after the 201 a provider is asked, at 100 calls a second, beside the same requests sent to it directly.

All on one machine: the journal's times and ours are of one clock. What lies between is the accept's COMMIT, Kafka, the
dialer's queue and the COMMIT of the attempt. Set `BENCH_CALLS_PER_SEC` and `BENCH_CALLS` for another load.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from cualify_local.environment import DIALER, PROVIDER_AGENT_ID, SIMULATOR
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.bench.measure import cpu_sec, machine
from tests.support.platform import Platform, platform, until

PER_SEC = float(os.environ.get("BENCH_CALLS_PER_SEC", "100"))
CALLS = int(os.environ.get("BENCH_CALLS", "2000"))

pytestmark = pytest.mark.bench


async def test_accept_to_provider_request(postgres: Postgres, kafka: Kafka, tmp_path: Path) -> None:
    head = machine()
    async with platform(
        postgres, kafka, tmp_path, simulator_speed=1000.0, max_concurrent_calls=1000, log_level="WARNING"
    ) as cualify:
        warm = dict([await accepted(cualify, n) for n in range(20)])
        await until(lambda: received(cualify, set(warm)), "the first are dialed")
        dialer = cualify.stack.running[DIALER].pid
        before = cpu_sec(dialer)
        answered = dict(await steadily(lambda n: accepted(cualify, 1000 + n)))
        at = await until(lambda: received(cualify, set(answered)), "every call is dialed")
        await until(lambda: all_told(cualify, len(warm) + CALLS), "every call is told", within_sec=120)
        cpu_ms = 1000 * (cpu_sec(dialer) - before) / CALLS
        sent = dict(await steadily(lambda n: directly(cualify, n)))
        bare_at = await until(lambda: received(cualify, set(sent)), "every bare request is there")
    print(f"\n{head}; {kafka.kind} Kafka; {CALLS} calls, {PER_SEC:g} a second")
    print(f"  201 to provider request {spread([at[ref] - answered[ref] for ref in answered])}")
    print(f"  bare request to the same {spread([bare_at[ref] - sent[ref] for ref in sent])}")
    print(f"  dialer {cpu_ms:.2f} CPU-ms a call, through to its end")


async def steadily(ask: Callable[[int], Awaitable[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Begins `ask(n)` at its own time, whether or not those before are answered."""
    began = time.perf_counter()

    async def one(n: int) -> tuple[str, float]:
        await asyncio.sleep(max(0.0, began + n / PER_SEC - time.perf_counter()))
        return await ask(n)

    return list(await asyncio.gather(*(one(n) for n in range(CALLS))))


async def accepted(cualify: Platform, n: int) -> tuple[str, float]:
    """The reference of an accepted call, and when its 201 was here."""
    body = {"agent_id": cualify.seeded.agent_id, "to_e164": f"+9198{n:08d}"}
    status, answer = await cualify.post("/api/v1/calls", body)
    at = time.time()
    assert status == 201, answer
    return answer["data"]["provider_call_id"], at


async def directly(cualify: Platform, n: int) -> tuple[str, float]:
    """The peer: the provider's request alone, and when it was sent."""
    ref = f"bare_{n}"
    body = {"agent_id": PROVIDER_AGENT_ID, "recipient_phone_number": f"+9197{n:08d}", "user_data": {"cualify_ref": ref}}
    headers = {"Authorization": f"Bearer {cualify.stack.secret.bolna_api_key}"}
    at = time.time()
    url = f"{cualify.stack.addresses.url(SIMULATOR)}/call"
    async with cualify.http.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    return ref, at


async def received(cualify: Platform, refs: set[str]) -> dict[str, float] | None:
    """When the provider had each of these requests; None until it has all."""
    found: dict[str, float] = {}
    async for entry in cualify.journal():
        if entry["kind"] == "create" and entry["cualify_ref"] in refs:
            found[entry["cualify_ref"]] = datetime.fromisoformat(entry["at"]).timestamp()
    return found if len(found) == len(refs) else None


async def all_told(cualify: Platform, calls: int) -> bool:
    return sum(1 for one in cualify.receiver.received if one.type == "call.completed") >= calls


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p99, last = (1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99, 1))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {last:.1f} ms"
