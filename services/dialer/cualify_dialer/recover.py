"""Asks the provider what became of attempts: a callback hinted at an end, or none came, or an answer was lost.

Nothing here ever sends a call. Several replicas share the work under leases; a look that was overtaken by news changes
the call by what it saw, but not the time of the next look.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from cualify_dialer import queries
from cualify_dialer.model import LookedUp, Noted, Pace
from cualify_dialer.providers import Found, LookUp, Order, Provider, Unclear
from cualify_dialer.queries import Due
from cualify_dialer.record import Recorder
from cualify_shared import faults
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.logs import about
from cualify_shared.work import Worker

log = structlog.get_logger(__name__)

LOOKS_AT_ONCE = 32
POLL_SEC = 0.5
SEARCH_LEASE_SEC = 120.0
"""A search may read many pages; reading one execution is one request, and its lease is as short as that."""
LEASE_MARGIN_SEC = 5.0


class Recovering:
    """The loop `recover`."""

    def __init__(
        self,
        *,
        pool: Pool,
        providers: Mapping[str, Provider],
        pace: Pace,
        provider_timeout_sec: float,
        committed: Callable[[], None],
        changed: Callable[[], None],
        drain_sec: float,
    ) -> None:
        self._pool, self._providers = pool, providers
        self._reading_lease = timedelta(seconds=provider_timeout_sec + LEASE_MARGIN_SEC)
        self._recorder = Recorder("look-ups", pool=pool, pace=pace, committed=committed, changed=changed)
        self._worker: Worker[Due] = Worker(
            "recover", claim=self.claim, do=self.look_up, at_once=LOOKS_AT_ONCE, poll_sec=POLL_SEC, drain_sec=drain_sec
        )

    def wake(self) -> None:
        """Says that something is to be looked up now."""
        self._worker.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks up until told to stop."""
        await self.record_beside(self._worker.run, stop)

    async def record_beside(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Records what was seen while `work` runs, and the last of it after it."""
        await self._recorder.run_beside(work, stop)

    async def claim(self, limit: int) -> list[Due]:
        """Leases attempts that are due, the longest due first."""
        now = utc_now()
        async with self._pool.acquire() as connection:
            return await queries.claim_look_ups(
                connection,
                now=now,
                reading_until=now + self._reading_lease,
                searching_until=now + timedelta(seconds=SEARCH_LEASE_SEC),
                limit=limit,
            )

    async def look_up(self, due: Due) -> None:
        """Asks once and records what was said."""
        with about(call_id=due.call_id, org_id=due.org_id, attempt=due.number):
            look = await self._look(due)
            faults.point("dialer.looked_up")
            await self._recorder.record(Noted(due.call_id, LookedUp(due.number, look, due.look_up_at)))
            log.info("call_looked_up", provider=due.provider, **_told(look))

    async def _look(self, due: Due) -> LookUp:
        provider = self._providers.get(due.provider)
        if provider is None:
            return Unclear("this provider is not configured here")
        try:
            async with asyncio.timeout(SEARCH_LEASE_SEC / 2):
                return await self._ask(provider, due)
        except TimeoutError:
            return Unclear("the look-up took too long")

    async def _ask(self, provider: Provider, due: Due) -> LookUp:
        if due.execution_id is not None:
            return await provider.read(due.execution_id)
        order = Order(
            ref=due.ref,
            agent_id=due.agent_id,
            to_e164=due.to_e164,
            from_e164=due.from_e164,
            asked_at=due.asked_at,
        )
        return await provider.find(order, now=utc_now())


def _told(look: LookUp) -> dict[str, object]:
    if isinstance(look, Found):
        return {"outcome": "found", "provider_status": look.snapshot.status, "others": len(look.others)}
    return {"outcome": type(look).__name__.lower(), **({"why": look.why} if isinstance(look, Unclear) else {})}
