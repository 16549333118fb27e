"""Results wait here and are recorded in batches: none is lost to a database that is away, none holds up the others."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import assert_never

import structlog

from cualify_shared import metrics
from cualify_shared.clock import now
from cualify_shared.database import is_passing
from cualify_shared.ids import notification_id
from cualify_shared.waiting import pauses, until_any, until_set
from cualify_webhook_dispatcher import failures, schedule
from cualify_webhook_dispatcher.handle import Answer, Failure
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Result

log = structlog.get_logger(__name__)

AT_ONCE = 500
MANY = 32
GATHER_SEC = 0.03
"""When results come by the many, those of so long are recorded together: each batch has a price of its own."""
KEPT_OF_ANSWER_BYTES = 1024
_LOCATION = b"Location: "


class Recording:
    """The queue and its loop. `record` writes a batch in one transaction; what it can't ever write is `lost`."""

    def __init__(
        self, *, record: Callable[[Sequence[Result]], Awaitable[None]], lost: Callable[[Result], None]
    ) -> None:
        self._record, self._lost = record, lost
        self._results: deque[Result] = deque()
        self._came = asyncio.Event()
        self._last_count, self._last_at = 0, 0.0

    def put(self, result: Result) -> None:
        """To be recorded soon."""
        self._results.append(result)
        self._came.set()

    async def run(self, drained: asyncio.Event) -> None:
        """Records until no more can come, and then what is left."""
        while True:
            if not await self._empty(drained):
                return
            if drained.is_set():
                return
            self._came.clear()
            if not self._results:
                await until_any(self._came, drained, seconds=60)

    async def _empty(self, drained: asyncio.Event) -> bool:
        """Records all that waits. False: the database is away, and it is time to go."""
        failed = pauses(longest_sec=2.0)
        while self._results:
            by_the_many = self._last_count >= MANY and time.monotonic() < self._last_at + GATHER_SEC
            if by_the_many and len(self._results) < AT_ONCE:
                await until_set(drained, GATHER_SEC)
            batch = [self._results.popleft() for _ in range(min(len(self._results), AT_ONCE))]
            try:
                await self._record_all(batch)
                self._last_count, self._last_at = len(batch), time.monotonic()
                failed = pauses(longest_sec=2.0)
            except Exception as error:
                # While the database is away results are kept: losing one means sending again what has arrived.
                log.warning("results_not_recorded", results=len(batch), error=repr(error))
                self._results.extendleft(reversed(batch))
                if await until_set(drained, next(failed)):
                    return False
        return True

    async def _record_all(self, results: Sequence[Result]) -> None:
        """All together; where that fails for a reason that does not pass, by halves: one result never stops others."""
        try:
            with metrics.BATCH_SEC.labels("deliver record").time():
                await self._record(results)
        except Exception as error:
            if is_passing(error):
                raise
            if len(results) == 1:
                log.exception("result_lost", event_id=notification_id(results[0].job.event_id))
                self._lost(results[0])
                return
            middle = len(results) // 2
            await self._record_all(results[:middle])
            await self._record_all(results[middle:])


def redirects_to(kept: bytes) -> tuple[str | None, bytes]:
    """What was kept of a redirect: where it leads, if it said so, and how its body begins."""
    if not kept.startswith(_LOCATION):
        return None, kept
    where, _, body = kept.removeprefix(_LOCATION).partition(b"\n")
    return where.decode("utf-8", "replace"), body


def _kept_of(answer: Answer) -> bytes:
    head = _LOCATION + answer.redirect_to.encode() + b"\n" if answer.redirect_to else b""
    return (head + answer.body)[:KEPT_OF_ANSWER_BYTES]


def result_of(job: Job, endpoint: Endpoint, outcome: Answer | Failure, *, began_at: datetime) -> Result:
    """An attempt's outcome as it is recorded."""
    status: int | None
    code: str | None
    response: bytes | None
    asked = schedule.retry_after_sec(outcome.retry_after, now=now()) if outcome.retry_after else None
    match outcome:
        case Answer():
            status, code = outcome.status, failures.of_status(outcome.status)
            response = _kept_of(outcome) or None
        case Failure():
            status, code, response = None, outcome.code, None
        case _:
            assert_never(outcome)
    return Result(
        job=job,
        endpoint=endpoint,
        at=began_at,
        duration_ms=int(outcome.duration.total_seconds() * 1000),
        status_code=status,
        failure_code=code,
        asked_sec=asked,
        response=response,
    )
