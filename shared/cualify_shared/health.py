"""What runs inside a service, by name, and whether it still does. A loop that died is a service that is down."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from cualify_shared import metrics
from cualify_shared.database import Pool
from cualify_shared.outbox import Relay
from cualify_shared.reads import Reading

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loop:
    """Something a service does all day. `run` returns soon after `stop` is set, with what it had begun finished."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


class Health:
    """Starts the loops and knows which of them have died."""

    def __init__(self, *, pool: Pool, relay: Relay, reading: Reading | None) -> None:
        self._pool, self._relay, self._reading = pool, relay, reading
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.stopping = False

    def start(self, loop: Loop, stop: asyncio.Event) -> None:
        """Runs a loop under its name."""

        async def run() -> None:
            await loop.run(stop)

        task = asyncio.create_task(run(), name=loop.name)
        task.add_done_callback(self._ended)
        self._tasks[loop.name] = task
        metrics.LOOP_UP.labels(loop.name).set(1)

    def names(self) -> set[str]:
        """All that was started."""
        return set(self._tasks)

    async def join(self, names: Iterable[str], *, seconds: float) -> list[str]:
        """Waits for some loops to end; the names of those that did not in time."""
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        if not tasks:
            return []
        _, late = await asyncio.wait(tasks, timeout=seconds)
        return sorted(task.get_name() for task in late)

    def dead_loops(self) -> dict[str, str]:
        """Loops that ended although nobody told them to, and why."""
        if self.stopping:
            return {}
        return {name: _why(task) for name, task in self._tasks.items() if task.done()}

    def alive(self) -> dict[str, Any]:
        """For `/healthz`: is this process worth keeping?"""
        dead = self.dead_loops()
        return {"status": "down" if dead else "ok", "dead_loops": dead, "loops": sorted(self._tasks)}

    async def ready(self) -> dict[str, Any]:
        """For `/readyz`: can it do its work now? Each thing that is missing by name."""
        problems = {f"loop {name}": why for name, why in self.dead_loops().items()}
        if database := await self._database_problem():
            problems["database"] = database
        if self._relay.problem:
            problems["kafka outbox relay"] = self._relay.problem
        if self._reading and self._reading.problem:
            problems["kafka consumers"] = self._reading.problem
        if self.stopping:
            problems["service"] = "stopping"
        return {"status": "not ready" if problems else "ready", "problems": problems}

    async def _database_problem(self) -> str | None:
        try:
            async with asyncio.timeout(2):
                await self._pool.fetchval("SELECT 1")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.stopping:
            return
        metrics.LOOP_UP.labels(task.get_name()).set(0)
        log.critical("loop_died", loop=task.get_name(), why=_why(task), exc_info=_error(task))


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _why(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "returned although nobody told it to stop" if error is None else f"{type(error).__name__}: {error}"
