"""The drill of the whole: calls through all four services while one after the other dies and connections break.

`PLATFORM_DRILL_CALLS=5000 make faults` makes it longer; `PLATFORM_DRILL_SEED` repeats the order of the kills.
"""

import asyncio
import os
import random
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from cualify_local.environment import DIALER, SERVICES, SIMULATOR
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.faults.test_dialer import FAULTS
from tests.journeys.test_crashes import money_adds_up, no_event_is_lost_or_out_of_order
from tests.support.platform import TERMINAL, Platform, platform, unless_away, until

CALLS = int(os.environ.get("PLATFORM_DRILL_CALLS", "400"))
SEED = int(os.environ.get("PLATFORM_DRILL_SEED", "1"))
AT_ONCE = 20
KILL_EVERY_SEC = 3.0
CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
SOON = {DIALER: {"SETTLE_UNKNOWN_SEC": "5"}}


async def keep_breaking(cualify: Platform, broken: Counter[str]) -> None:
    """Every few seconds a service is killed, or all of its database connections are cut."""
    dice = random.Random(SEED)
    while True:
        await asyncio.sleep(KILL_EVERY_SEC)
        service, kill = dice.choice(SERVICES), dice.random() < 0.7
        if kill:
            cualify.stack.kill(service)
        else:
            await cut_connections(cualify, service)
        broken[f"{service} {'killed' if kill else 'cut off'}"] += 1


async def cut_connections(cualify: Platform, service: str) -> None:
    dsn = cualify.stack.databases[service]
    assert cualify.stack.postgres is not None
    connection = await asyncpg.connect(cualify.stack.postgres.admin_url)
    try:
        await connection.fetchval(CUT, dsn.rpartition("/")[2])
    finally:
        await connection.close()


async def place_all(cualify: Platform, numbers: list[str]) -> dict[str, str]:
    """As a careful customer does it: asked again under the same key for as long as there is no answer, or a 503."""
    room = asyncio.Semaphore(AT_ONCE)

    async def place(to_e164: str) -> tuple[str, str]:
        body, headers = {"agent_id": cualify.seeded.agent_id, "to_e164": to_e164}, {"Idempotency-Key": str(uuid4())}

        async def ask() -> str | None:
            status, answer = await cualify.post("/api/v1/calls", body, headers=headers)
            assert status in (201, 503), answer
            return str(answer["data"]["id"]) if status == 201 else None

        async with room:
            return to_e164, await until(unless_away(ask), "a call placed, however often it takes")

    return dict(await asyncio.gather(*map(place, numbers)))


async def ended(cualify: Platform, placed: dict[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for to_e164, call_id in placed.items():
        found[to_e164] = await cualify.until_settled(call_id, within_sec=180)
    return found


def nobody_was_rung_twice(calls: dict[str, dict[str, Any]], rings: Counter[str]) -> None:
    assert set(rings.values()) <= {1}
    assert rings.keys() <= calls.keys()
    for to_e164, call in calls.items():
        assert call["status"] in TERMINAL
        if call["ended_reason"] != "outcome_unknown":
            assert (call["status"] == "completed") == (to_e164 in rings), call


async def every_end_is_told_in_order(cualify: Platform, placed: dict[str, str]) -> None:
    async def all_told() -> bool:
        told = {r.call_id for r in cualify.receiver.received if r.type in ("call.completed", "call.failed")}
        return told >= set(placed.values())

    await until(all_told, "the end of every call is told", within_sec=120)
    first_seen: dict[str, list[int]] = defaultdict(list)
    for received in cualify.receiver.received:
        if received.call_id and received.body["sequence"] not in first_seen[received.call_id]:
            first_seen[received.call_id].append(received.body["sequence"])
    assert all(sequences == sorted(sequences) for sequences in first_seen.values())


@pytest.mark.faults
async def test_whatever_dies_every_call_ends_once_is_billed_once_and_told(
    postgres: Postgres, kafka: Kafka, tmp_path: Path
) -> None:
    async with platform(postgres, kafka, tmp_path / "stack", extra_env=SOON) as cualify:
        url = cualify.stack.addresses.url(SIMULATOR)
        async with cualify.http.put(f"{url}/admin/faults", json=FAULTS) as answer:
            assert answer.status == 200
        broken: Counter[str] = Counter()
        breaking = asyncio.create_task(keep_breaking(cualify, broken))
        placed = await place_all(cualify, [f"+9197{n:08d}" for n in range(CALLS)])
        calls = await ended(cualify, placed)
        breaking.cancel()
        with suppress(asyncio.CancelledError):
            await breaking
        await cualify.stack.ready()
        await every_end_is_told_in_order(cualify, placed)
        await cualify.until_quiet()
        rings = Counter([entry["to_e164"] async for entry in cualify.journal() if entry["kind"] == "ring"])
        nobody_was_rung_twice(calls, rings)
        await no_event_is_lost_or_out_of_order(cualify)
        await money_adds_up(cualify)
        repeats = len(cualify.receiver.received) - len({r.webhook_id for r in cualify.receiver.received})
        ends = Counter((call["status"], call["ended_reason"]) for call in calls.values())
        print(
            f"\n{CALLS} calls, {sum(rings.values())} rings, {dict(ends)}; {repeats} webhooks repeated; {dict(broken)}"
        )
