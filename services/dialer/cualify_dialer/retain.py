"""Forgets what providers told us once nobody will ask for it: bodies carry phone numbers and transcripts."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from cualify_dialer import callback_queries
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)

LOOK_EVERY_SEC = 3600.0
AT_ONCE = 1000


class Retaining:
    """The loop `retain`."""

    def __init__(self, *, pool: Pool, days: float, clock: Callable[[], datetime] = utc_now) -> None:
        self._pool, self._kept, self._clock = pool, timedelta(days=days), clock

    async def run(self, stop: asyncio.Event) -> None:
        """Forgets every hour, until told to stop."""
        while not stop.is_set():
            try:
                forgotten = await self.forget(stop)
                log.info("provider_events_forgotten", count=forgotten)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("forgetting_waits_for_database", error=repr(error))
            await until_set(stop, LOOK_EVERY_SEC)

    async def forget(self, stop: asyncio.Event, *, at_once: int = AT_ONCE) -> int:
        """Deletes in batches, each a transaction of its own, until nothing is too old; says how many that were."""
        before, forgotten = self._clock() - self._kept, 0
        while not stop.is_set():
            async with self._pool.acquire() as connection:
                found = await callback_queries.forget_provider_events(connection, before=before, limit=at_once)
            forgotten += found
            if found < at_once:
                break
        return forgotten
