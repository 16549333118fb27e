"""The claim loop: takes due rows from a table under a lease and does something to the world with each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from cualify_shared.database import is_passing
from cualify_shared.waiting import BACK_SOON_SEC, pauses, until_any, until_set

log = structlog.get_logger(__name__)
Job = TypeVar("Job")


class Worker(Generic[Job]):
    """`claim(n)` leases up to n due jobs in one statement and commits; `do(job)` does one and records how it ended.

    A claimed job whose process died is claimed again by whoever looks after its lease has passed, so `do` must leave a
    trail that tells what was begun. What `do` raises is logged and left to the lease.
    """

    def __init__(
        self,
        name: str,
        *,
        claim: Callable[[int], Awaitable[Sequence[Job]]],
        do: Callable[[Job], Awaitable[None]],
        at_once: int,
        poll_sec: float,
        drain_sec: float = 10.0,
    ) -> None:
        self.name = name
        self._claim, self._do = claim, do
        self._at_once, self._poll_sec, self._drain_sec = at_once, poll_sec, drain_sec
        self._doing: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Jobs begun and not yet recorded."""
        return len(self._doing)

    def wake(self) -> None:
        """Says that something may be due; the loop looks at once."""
        self._look.set()

    def take(self, job: Job) -> None:
        """Does a job that was born claimed, without a claim query."""
        task = asyncio.create_task(self._do_one(job))
        self._doing.add(task)
        task.add_done_callback(self._finished)

    @property
    def room(self) -> int:
        """How many more jobs may be begun now."""
        return max(0, self._at_once - len(self._doing))

    async def run(self, stop: asyncio.Event) -> None:
        """Claims and does until told to stop; then waits for what was begun, `drain_sec` at most."""
        failures = pauses(longest_sec=BACK_SOON_SEC)
        while not stop.is_set():
            self._look.clear()
            room = self.room
            try:
                jobs = await self._claim(room) if room else ()
                failures = pauses(longest_sec=BACK_SOON_SEC)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("claim_failed", loop=self.name, error=repr(error))
                await until_set(stop, next(failures))
                continue
            for job in jobs:
                self.take(job)
            if not room or len(jobs) < room:
                await until_any(self._look, stop, seconds=self._poll_sec)
        if self._doing:
            await asyncio.wait(self._doing, timeout=self._drain_sec)

    async def _do_one(self, job: Job) -> None:
        try:
            await self._do(job)
        except Exception:
            log.exception("job_failed", loop=self.name)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._doing.discard(task)
        if len(self._doing) == self._at_once - 1:
            self._look.set()
