"""What is done once a minute: deleted endpoints swept, days' partitions made and dropped, old payloads forgotten.

All of it is harmless to repeat and to do in several replicas at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from prometheus_client import Gauge

from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import pauses, until_any, until_set
from cualify_webhook_dispatcher import claims, endpoints, retention
from cualify_webhook_dispatcher.secrets import Secrets

log = structlog.get_logger(__name__)

EVERY_SEC = 60.0
SWEEP_BATCH = 5000

UNSCHEDULED = Gauge(
    "cualify_deliveries_unscheduled", "Events without a finished, scheduled or paused delivery. Always 0."
)


class Upkeep:
    """The loop. `wake` has it sweep at once."""

    def __init__(self, *, pool: Pool, secrets: Secrets) -> None:
        self._pool, self._secrets = pool, secrets
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Says that an endpoint was deleted."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        failed = pauses()
        while not stop.is_set():
            self._woken.clear()
            try:
                await self.once(stop)
                failed = pauses()
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("upkeep_failed", error=repr(error))
                await until_set(stop, next(failed))
                continue
            await until_any(self._woken, stop, seconds=EVERY_SEC)

    async def once(self, stop: asyncio.Event) -> None:
        """All that is due, in batches."""
        today = now().date()
        await retention.make_partitions(self._pool, today=today)
        for one_batch in (self._sweep, self._mask, self._forget, self._forget_old_secrets):
            await _until_done(one_batch, stop)
        await self._seal_again(stop)
        await retention.drop_partitions(self._pool, today=today)
        UNSCHEDULED.set(unscheduled := await claims.unscheduled(self._pool))
        if unscheduled:
            log.error("deliveries_unscheduled", deliveries=unscheduled)
            await claims.mend_ready_list(self._pool)

    async def _sweep(self) -> int:
        return await endpoints.sweep(self._pool, at_most=SWEEP_BATCH)

    async def _mask(self) -> int:
        return await retention.mask_bodies(self._pool, at_most=SWEEP_BATCH)

    async def _forget(self) -> int:
        return await retention.forget_deliveries(self._pool, at_most=SWEEP_BATCH)

    async def _forget_old_secrets(self) -> int:
        return await endpoints.forget_old_secrets(self._pool, at_most=SWEEP_BATCH)

    async def _seal_again(self, stop: asyncio.Event) -> None:
        last: UUID | None = UUID(int=0)
        while last is not None and not stop.is_set():
            last = await endpoints.seal_again(self._pool, self._secrets, after=last, at_most=SWEEP_BATCH)


async def _until_done(one_batch: Callable[[], Awaitable[int]], stop: asyncio.Event) -> None:
    while await one_batch() >= SWEEP_BATCH and not stop.is_set():
        pass
