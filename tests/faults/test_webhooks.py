"""Dispatchers are killed every few seconds while customers are told, and then broker and database too: nothing is lost.

`FAULTS_EVENTS` (3,000; in full 100,000), `FAULTS_DISPATCHERS` (3) and `FAULTS_KILL_EVERY_SEC` (5) set the size;
`FAULTS_AWAY_SEC` (0) is how long a killed server stays away before it is started again.
"""

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cualify_local.kafka.broker import Kafka
from cualify_local.kafka.choose import kill_kafka, restart_kafka, start_kafka, stop_kafka
from cualify_local.postgres import Postgres, kill_postgres, restart_postgres, stop_postgres
from cualify_shared.clock import now
from cualify_shared.database import is_passing
from cualify_shared.events.envelope import Event
from cualify_shared.events.topics import CALL_REQUESTS
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import claims
from tests.support.databases import Databases, MakeDatabase, start_test_postgres
from tests.support.outages import Arrival, Kill, Outage, lines, own_lateness, until_committed, until_written
from tests.support.webhook_world import World, call_of, world

EVENTS = int(os.environ.get("FAULTS_EVENTS", "3000"))
DISPATCHERS = int(os.environ.get("FAULTS_DISPATCHERS", "3"))
KILL_EVERY_SEC = float(os.environ.get("FAULTS_KILL_EVERY_SEC", "5"))
AWAY_SEC = float(os.environ.get("FAULTS_AWAY_SEC", "0"))
CALLS_AT_ONCE = 50
PRODUCED_IN_SEC = max(25.0, EVENTS / 1000) + 2 * AWAY_SEC

pytestmark = pytest.mark.faults


async def produce(made: World, calls: list[list[Event]], *, seconds: float) -> None:
    """Call by call interleaved, spread over so many seconds. An event is of the instant at which it is produced."""
    groups = [calls[n : n + CALLS_AT_ONCE] for n in range(0, len(calls), CALLS_AT_ONCE)]
    for group in groups:
        for wave in zip(*group, strict=True):
            await made.produce(replace(event, time=now()) for event in wave)
        await asyncio.sleep(seconds / len(groups))


async def asked(made: World, query: str, *arguments: Any) -> Any:
    """What the database says, when it is there again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await made.pool.fetchval(query, *arguments)
            except Exception as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(0.1)


async def kill_in_turn(made: World, done: asyncio.Event) -> tuple[list[Kill], int]:
    """Kills one after another and starts it again; the kills, and how much was claimed then in all."""
    kills: list[Kill] = []
    claimed = 0
    names = {one.pid: f"r{n}" for n, one in enumerate(made.replicas)}
    while not done.is_set():
        try:
            await asyncio.wait_for(done.wait(), KILL_EVERY_SEC)
        except TimeoutError:
            victim = random.choice([one for one in made.replicas if one.poll() is None])
            claimed += await asked(made, "SELECT count(*) FROM deliveries WHERE lease_token IS NOT NULL")
            victim.kill()
            killed_at = time.time()
            victim.wait(10)
            names[made.start(REPLICA=names[victim.pid]).pid] = names[victim.pid]
            kills.append(Kill(names[victim.pid], killed_at))
            assert await asked(made, claims.UNSCHEDULED) == 0
    return kills, claimed


@dataclass(slots=True)
class Servers:
    """A broker and a database server of this test's own, so that they can be killed."""

    kafka: Kafka
    postgres: Postgres

    async def restart_kafka(self, made: World) -> Outage:
        """As if the broker's machine had lost its power for a moment."""
        killed_at = time.time()
        await asyncio.to_thread(kill_kafka, self.kafka)
        await asyncio.sleep(AWAY_SEC)
        self.kafka = await asyncio.to_thread(restart_kafka, self.kafka)
        answered_at = time.time()
        topic = made.prefix + CALL_REQUESTS.name  # One that no dispatcher reads.
        works_at = await until_written(self.kafka.bootstrap_servers, topic=topic)
        return Outage("broker", killed_at, answered_at, works_at)

    async def restart_postgres(self, made: World) -> Outage:
        """The same of the database."""
        killed_at = time.time()
        await asyncio.to_thread(kill_postgres, self.postgres)
        await asyncio.sleep(AWAY_SEC)
        self.postgres = await asyncio.to_thread(restart_postgres, self.postgres)
        return Outage("database", killed_at, time.time(), await until_committed(made.dsn))


@asynccontextmanager
async def own_servers(folder: Path) -> AsyncIterator[Servers]:
    """Starts both, and ends them as they are then."""
    kafka = await asyncio.to_thread(start_kafka, folder / "kafka", folder / "kafka.log", prefer="real")
    servers = Servers(kafka, await asyncio.to_thread(start_test_postgres, folder))
    try:
        yield servers
    finally:
        await asyncio.to_thread(stop_kafka, servers.kafka)
        await asyncio.to_thread(stop_postgres, servers.postgres)


Fault = Callable[[World], Awaitable[Outage]]


async def drill(made: World, *, dispatchers: int, faults: Sequence[Fault] = ()) -> None:
    """Produces while dispatchers are killed, and `faults` happen in between; says what came of it."""
    for n in range(dispatchers):
        made.start(REPLICA=f"r{n}")
    await made.until_ready(dispatchers)
    orgs = [new_id() for _ in range(5)]
    for org_id in orgs:
        await made.register("/sink", org_id=org_id)
    calls = [call_of(orgs[n % len(orgs)], 3) for n in range(EVENTS // 3)]
    wanted = {f"evt_{event.id.hex}" for call in calls for event in call}
    done = asyncio.Event()
    killing = asyncio.create_task(kill_in_turn(made, done))
    disturbing = asyncio.create_task(disturb(made, faults))
    try:
        await produce(made, calls, seconds=PRODUCED_IN_SEC)
        outages = await disturbing
        async with asyncio.timeout(120 + EVENTS / 100):
            while await asked(made, "SELECT count(*) FROM deliveries WHERE state = 'delivered'") < len(wanted):
                await asyncio.sleep(0.2)
    finally:
        done.set()
        kills, claimed = await killing
        disturbing.cancel()
    await report(made, wanted, kills=kills, outages=outages, claimed=claimed)


async def disturb(made: World, faults: Sequence[Fault]) -> list[Outage]:
    """One after another, in equal parts of the time in which events are produced."""
    outages = []
    for fault in faults:
        await asyncio.sleep((PRODUCED_IN_SEC - 2 * AWAY_SEC) / (len(faults) + 1))
        outages.append(await fault(made))
    return outages


async def report(
    made: World, wanted: set[str], *, kills: Sequence[Kill], outages: Sequence[Outage], claimed: int
) -> None:
    """Holds what came against what was produced, and prints the numbers."""
    got = await made.got()
    slowest_in = await asked(
        made,
        "SELECT extract(epoch FROM max(d.created_at - n.occurred_at))"
        " FROM deliveries d JOIN notifications n ON n.event_id = d.event_id",
    )
    assert await asked(made, claims.UNSCHEDULED) == 0
    times = Counter(one["id"] for one in got)
    assert set(times) == wanted
    assert_in_order(got)
    repeated = sum(times.values()) - len(times)
    firsts: dict[str, Arrival] = {}
    for one in got:
        firsts.setdefault(one["id"], Arrival(made_at=one["happened"], came_at=one["at"]))
    arrivals = list(firsts.values())
    print(
        f"\n{len(wanted)} events, {len(kills)} kills of dispatchers, {len(outages)} of servers: "
        f"0 lost, {repeated} repeated, {claimed} were claimed at the kills;"
    )
    print(
        f"the latest came {max(one.late_sec for one in arrivals):.1f} s after its event was made, "
        f"{max(own_lateness(one, outages) for one in arrivals):.1f} s without the time in which a server was down; "
        f"the slowest way through Kafka took {slowest_in:.1f} s"
    )
    print("\n".join(lines([*kills, *outages], arrivals, servers=outages, since=min(one.made_at for one in arrivals))))
    assert repeated <= claimed


def assert_in_order(got: Sequence[dict[str, Any]]) -> None:
    """For each call 1, 2, 3, as each came first."""
    firsts: dict[str, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for one in got:
        if one["id"] not in seen:
            seen.add(one["id"])
            firsts[one["subject"]].append(one["sequence"])
    assert all(sequences == [1, 2, 3] for sequences in firsts.values())


async def test_nothing_is_lost_and_order_is_kept_while_dispatchers_are_killed(
    kafka: Kafka, database: MakeDatabase, tmp_path: Path
) -> None:
    async with world(kafka, database, tmp_path) as made:
        await drill(made, dispatchers=1 if kafka.kind == "embedded" else DISPATCHERS)


async def test_nothing_is_lost_when_broker_and_database_are_killed_too(tmp_path: Path) -> None:
    async with own_servers(tmp_path) as servers:
        databases = Databases(servers.postgres.admin_url)
        restarts = [servers.restart_postgres]
        if servers.kafka.kind == "jvm":  # The others do not keep their data, or are not ours to kill.
            restarts.append(servers.restart_kafka)
        async with world(servers.kafka, databases.fresh, tmp_path) as made:
            await drill(made, dispatchers=1 if servers.kafka.kind == "embedded" else DISPATCHERS, faults=restarts)
