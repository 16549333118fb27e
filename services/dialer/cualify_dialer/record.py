"""Writes down what a loop has learnt, many calls to a transaction, and tells whoever waits for the consequences."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from cualify_dialer import breaker, metrics
from cualify_dialer.apply import apply
from cualify_dialer.model import Answered, Call, Noted, Pace
from cualify_dialer.providers import Answer
from cualify_shared.batch import MicroBatch
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import pauses

log = structlog.get_logger(__name__)

TRY_FOR_SEC = 60.0


class Recorder:
    """One micro-batch for one loop. It outlives the loop, so that what was begun is still written down."""

    def __init__(
        self,
        name: str,
        *,
        pool: Pool,
        pace: Pace,
        committed: Callable[[], None],
        changed: Callable[[], None],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._pool, self._pace, self._clock = pool, pace, clock
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
        now = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            changes = await apply(connection, noted, now=now, pace=self._pace)
            opened = await breaker.note(connection, _answers(noted, changes.after), now=now)
        self._committed()
        changes.report()
        for provider in opened:
            log.error("breaker_opened", provider=provider)
            metrics.BREAKERS_OPENED.labels(provider).inc()
        if changes.makes_room:
            self._changed()
        return [changes.after.get(one.call_id) for one in noted]


def _answers(noted: Sequence[Noted], calls: Mapping[UUID, Call]) -> dict[str, list[Answer]]:
    """The answers to our dials, by provider."""
    answers: dict[str, list[Answer]] = defaultdict(list)
    for one in noted:
        if isinstance(one.learnt, Answered) and one.call_id in calls:
            attempt = calls[one.call_id].attempt(one.learnt.number)
            if attempt is not None:
                answers[attempt.provider].append(one.learnt.answer)
    return answers
