"""When servers and processes were killed and back, and how late what came then was: for the drills to print."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from aiokafka import AIOKafkaProducer

from cualify_shared.database import is_passing


@dataclass(frozen=True, slots=True)
class Kill:
    """A process was killed, and its successor started at once. In unix seconds, as all times here."""

    what: str
    killed_at: float


@dataclass(frozen=True, slots=True)
class Outage(Kill):
    """A server was killed; then the next one answered; then it did its work again."""

    answered_at: float
    works_at: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event: when it was made, and when it first came."""

    made_at: float
    came_at: float

    @property
    def late_sec(self) -> float:
        """From the event's own instant."""
        return self.came_at - self.made_at


async def until_written(bootstrap_servers: str, *, topic: str) -> float:
    """When a record was first taken by the broker again, by a client that has just come: broken off by nothing."""
    async with asyncio.timeout(60):
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, retry_backoff_ms=10)
        await producer.start()
        try:
            await producer.send_and_wait(topic, b"is anybody there")
            return time.time()
        finally:
            await producer.stop()


async def until_committed(dsn: str) -> float:
    """When the database committed a transaction again."""
    async with asyncio.timeout(60):
        while True:
            try:
                connection = await asyncpg.connect(dsn)
                try:
                    await connection.fetchval("SELECT pg_current_xact_id()")
                    return time.time()
                finally:
                    await connection.close()
            except Exception as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(0.01)


def own_lateness(arrival: Arrival, servers: Sequence[Outage]) -> float:
    """How late it came, without the time in which a server that it needed was not there."""
    away = sum(max(0.0, min(one.works_at, arrival.came_at) - max(one.killed_at, arrival.made_at)) for one in servers)
    return arrival.late_sec - away


def lines(kills: Sequence[Kill], arrivals: Sequence[Arrival], *, servers: Sequence[Outage], since: float) -> list[str]:
    """One a kill: how long it took to be back, and how late was what came from then until the next kill."""
    in_turn = sorted(kills, key=lambda one: one.killed_at)
    nexts = [one.killed_at for one in in_turn[1:]] + [math.inf]
    return [
        _line(one, [arrival for arrival in arrivals if one.killed_at <= arrival.came_at < next_at], servers, since)
        for one, next_at in zip(in_turn, nexts, strict=True)
    ]


def _line(kill: Kill, came: Sequence[Arrival], servers: Sequence[Outage], since: float) -> str:
    said = f"{kill.killed_at - since:8.1f} s  {kill.what:<8}"
    if isinstance(kill, Outage):
        answered, worked = kill.answered_at - kill.killed_at, kill.works_at - kill.killed_at
        said += f"  answered {answered:.1f} s and worked {worked:.1f} s later;"
    if not came:
        return f"{said}  nothing came until the next kill"
    latest = max(came, key=lambda one: one.late_sec)
    own = max(own_lateness(one, servers) for one in came)
    return (
        f"{said}  {len(came):6} came until the next kill, the latest {latest.late_sec:4.1f} s late"
        f" (at {latest.came_at - since:.1f} s), {own:4.1f} s without the servers' time away"
    )
