"""Dispatchers are killed every few seconds while customers are told: nothing is lost, order per call is kept.

`FAULTS_EVENTS` (3,000; in full 100,000), `FAULTS_DISPATCHERS` (3) and `FAULTS_KILL_EVERY_SEC` (5) set the size.
"""

import asyncio
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cualify_local.kafka.broker import Kafka
from cualify_shared.events.envelope import Event
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import claims
from tests.support.databases import MakeDatabase
from tests.support.webhook_world import World, call_of, world

EVENTS = int(os.environ.get("FAULTS_EVENTS", "3000"))
DISPATCHERS = int(os.environ.get("FAULTS_DISPATCHERS", "3"))
KILL_EVERY_SEC = float(os.environ.get("FAULTS_KILL_EVERY_SEC", "5"))
CALLS_AT_ONCE = 50

pytestmark = pytest.mark.faults


async def produce(made: World, calls: list[list[Event]], *, seconds: float) -> None:
    """Call by call interleaved, spread over so many seconds."""
    groups = [calls[n : n + CALLS_AT_ONCE] for n in range(0, len(calls), CALLS_AT_ONCE)]
    for group in groups:
        for wave in zip(*group, strict=True):
            await made.produce(wave)
        await asyncio.sleep(seconds / len(groups))


async def kill_in_turn(made: World, done: asyncio.Event) -> tuple[int, int]:
    """Kills one after another and starts it again; how many kills, how much was claimed then in all."""
    kills = claimed = 0
    names = {one.pid: f"r{n}" for n, one in enumerate(made.replicas)}
    while not done.is_set():
        try:
            await asyncio.wait_for(done.wait(), KILL_EVERY_SEC)
        except TimeoutError:
            victim = random.choice([one for one in made.replicas if one.poll() is None])
            claimed += await made.pool.fetchval("SELECT count(*) FROM deliveries WHERE lease_token IS NOT NULL")
            victim.kill()
            victim.wait(10)
            kills += 1
            names[made.start(REPLICA=names[victim.pid]).pid] = names[victim.pid]
            assert await claims.unscheduled(made.pool) == 0
    return kills, claimed


async def test_nothing_is_lost_and_order_is_kept_while_dispatchers_are_killed(
    kafka: Kafka, database: MakeDatabase, tmp_path: Path
) -> None:
    async with world(kafka, database, tmp_path) as made:
        count = 1 if kafka.kind == "embedded" else DISPATCHERS
        for n in range(count):
            made.start(REPLICA=f"r{n}")
        await made.until_ready(count)
        orgs = [new_id() for _ in range(5)]
        for org_id in orgs:
            await made.register("/sink", org_id=org_id)
        calls = [call_of(orgs[n % len(orgs)], 3) for n in range(EVENTS // 3)]
        wanted = {f"evt_{event.id.hex}" for call in calls for event in call}
        done = asyncio.Event()
        killing = asyncio.create_task(kill_in_turn(made, done))
        await produce(made, calls, seconds=max(25.0, EVENTS / 1000))
        async with asyncio.timeout(120 + EVENTS / 100):
            while await made.pool.fetchval("SELECT count(*) FROM deliveries WHERE state = 'delivered'") < len(wanted):
                await asyncio.sleep(0.2)
        done.set()
        kills, claimed = await killing
        got = await made.got()
        slowest_in = await made.pool.fetchval(
            "SELECT extract(epoch FROM max(d.created_at - n.occurred_at))"
            " FROM deliveries d JOIN notifications n ON n.event_id = d.event_id"
        )
        assert await claims.unscheduled(made.pool) == 0
    times = Counter(one["id"] for one in got)
    assert set(times) == wanted
    firsts: dict[str, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for one in got:
        if one["id"] not in seen:
            seen.add(one["id"])
            firsts[one["subject"]].append(one["sequence"])
    assert all(sequences == [1, 2, 3] for sequences in firsts.values())
    repeated = sum(times.values()) - len(times)
    latest = max(one["at"] - one["happened"] for one in got)
    print(f"\n{len(wanted)} events, {kills} kills: 0 lost, {repeated} repeated, {claimed} were claimed at the kills;")
    print(
        f"the latest came {latest:.1f} s after its event was made, and was {slowest_in:.1f} s on its way through Kafka"
    )
    assert repeated <= claimed
