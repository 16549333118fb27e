"""Writes down what a loop has learnt, many calls to a transaction, and tells whoever waits for the consequences."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from cualify_dialer.apply import apply
from cualify_dialer.model import Call, Noted, Pace
from cualify_shared.batch import MicroBatch
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import pauses

log = structlog.get_logger(__name__)

TRY_FOR_SEC = 60.0


class Recorder:
    """One micro-batch for one loop. It outlives the loop, so that what was begun is still written down."""

    def __init__(
        self, name: str, *, pool: Pool, pace: Pace, committed: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        self._pool, self._pace = pool, pace
        self._committed, self._changed = committed, changed
        self._batch: MicroBatch[Noted, Call | None] = MicroBatch(name, self._apply)

    async def record(self, noted: Noted) -> Call | None:
        """Returns the call as it is after the COMMIT.

        While the database is away this tries again for a minute: what is known should not have to be looked up. After
        that the attempt's own row tells that it must be.
        """
        deadline = asyncio.get_running_loop().time() + TRY_FOR_SEC
        for pause in pauses():
            try:
                return await self._batch.submit(noted)
            except Exception as error:
                if not is_passing(error) or asyncio.get_running_loop().time() > deadline:
                    raise
                log.warning("record_waits_for_database", retry_in_sec=pause, error=repr(error))
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def run_beside(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Runs a loop; what it learnt last is recorded before this returns."""
        worked = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._batch.run(worked))
                try:
                    await work(stop)
                finally:
                    worked.set()
        except BaseExceptionGroup as died:
            raise died.exceptions[0] from None

    async def _apply(self, noted: Sequence[Noted]) -> list[Call | None]:
        async with self._pool.acquire() as connection, connection.transaction():
            changes = await apply(connection, noted, now=utc_now(), pace=self._pace)
        self._committed()
        changes.report()
        self._changed()
        return [changes.after.get(one.call_id) for one in noted]
