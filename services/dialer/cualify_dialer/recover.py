"""Asks the provider what became of attempts: a callback hinted at an end, or none came, or an answer was lost.

Nothing here ever sends a call. Several replicas share the work under leases; a look that was overtaken by news changes
the call by what it saw, but not the time of the next look. Each provider is asked by a loop of its own: one that hangs
keeps no other's calls from their ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from cualify_dialer import turns
from cualify_dialer.model import LookedUp, Noted, Pace
from cualify_dialer.providers import Found, HangUp, LookUp, Order, Provider, Stopped, Unclear
from cualify_dialer.record import Recorder
from cualify_dialer.turns import OF_ANY, Due, OfProviders
from cualify_shared import faults
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.logs import about
from cualify_shared.work import Worker

log = structlog.get_logger(__name__)

LOOKS_AT_ONCE = 32
"""Of each provider."""
POLL_SEC = 0.5
POLL_FOR_STRANGERS_SEC = 5.0
"""Attempts at providers that are not configured here: they can only be given up, in the end."""
SEARCH_LEASE_SEC = 45.0
"""A search may read many pages; reading one execution is one request, and its lease is as short as that."""
LEASE_MARGIN_SEC = 5.0
OTHERS_LIMIT = 5


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
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._pool, self._providers, self._pace, self._clock = pool, providers, pace, clock
        self._reading_lease = timedelta(seconds=2 * provider_timeout_sec + LEASE_MARGIN_SEC)
        self._recorder = Recorder("look-ups", pool=pool, pace=pace, committed=committed, changed=changed, clock=clock)
        self._drain_sec = drain_sec
        self._workers = [self._worker(OfProviders((name,), are_meant=True), POLL_SEC) for name in providers]
        self._strangers = self._worker(OfProviders(tuple(providers), are_meant=False), POLL_FOR_STRANGERS_SEC)

    def wake(self) -> None:
        """Says that something is to be looked up now."""
        for worker in self._workers:
            worker.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks up until told to stop."""
        await self.record_beside(self._look_up_all, stop)

    async def _look_up_all(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for worker in (*self._workers, self._strangers):
                    group.create_task(worker.run(stop))
        except BaseExceptionGroup as died:
            raise died.exceptions[0] from None

    def _worker(self, of: OfProviders, poll_sec: float) -> Worker[Due]:
        return Worker(
            "recover",
            claim=partial(self.claim, of=of),
            do=self.look_up,
            at_once=LOOKS_AT_ONCE,
            poll_sec=poll_sec,
            drain_sec=self._drain_sec,
        )

    async def record_beside(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Records what was seen while `work` runs, and the last of it after it."""
        await self._recorder.run_beside(work, stop)

    async def claim(self, limit: int, *, of: OfProviders = OF_ANY) -> list[Due]:
        """Leases attempts that are due, the longest due first."""
        now = self._clock()
        async with self._pool.acquire() as connection:
            return await turns.claim_look_ups(
                connection,
                of,
                now=now,
                reading_until=now + self._reading_lease,
                searching_until=now + timedelta(seconds=SEARCH_LEASE_SEC),
                limit=limit,
            )

    async def look_up(self, due: Due) -> None:
        """Asks once, having asked for the call's end before if that is wanted, and records what was said."""
        with about(call_id=due.call_id, org_id=due.org_id, attempt=due.number):
            hang_up, look = await self._asked(due)
            faults.point("dialer.looked_up")
            await self._recorder.record(Noted(due.call_id, LookedUp(due.number, look, due.look_up_at, hang_up)))
            ended = {"hang_up": type(hang_up).__name__.lower()} if hang_up is not None else {}
            log.info("call_looked_up", provider=due.provider, **_told(look), **ended)

    async def _asked(self, due: Due) -> tuple[HangUp | None, LookUp]:
        provider = self._providers.get(due.provider)
        if provider is None:
            return None, Unclear("this provider is not configured here")
        hang_up: HangUp | None = None
        try:
            async with asyncio.timeout(SEARCH_LEASE_SEC - LEASE_MARGIN_SEC):
                hang_up = await self._hang_up(provider, due)
                look = await provider.look_up(_order(due), now=self._clock())
                if due.second_id is not None:
                    await self._stop_second(provider, due, due.second_id)
                if isinstance(look, Found):
                    hang_up = await self._stop_what_waits(provider, due, look) or hang_up
                return hang_up, look
        except TimeoutError:
            return hang_up, Unclear("the look-up took too long")

    async def _hang_up(self, provider: Provider, due: Due) -> HangUp | None:
        wanted = due.is_to_be_ended(now=self._clock(), overtime_sec=self._pace.hang_up_after_sec)
        return await provider.hang_up(due.execution_id) if wanted and due.execution_id is not None else None

    async def _stop_second(self, provider: Provider, due: Due, second_id: str) -> None:
        """Callbacks are hints: only what is read back as ours, and as waiting, is stopped."""
        look = await provider.look_up(replace(_order(due), execution_id=second_id), now=self._clock())
        if isinstance(look, Found) and look.snapshot.ref == due.ref and look.snapshot.is_waiting:
            log.error("second_execution_stopped", outcome=type(await provider.hang_up(second_id)).__name__)

    async def _stop_what_waits(self, provider: Provider, due: Due, found: Found) -> Stopped | None:
        """What must not ring any more, or would ring a second time. What is being dialed already is left alone."""
        if found.snapshot.ref == due.ref:
            for execution_id in found.others[:OTHERS_LIMIT]:
                log.error("second_execution_stopped", outcome=type(await provider.hang_up(execution_id)).__name__)
        if not due.waits_too_long(found.snapshot, now=self._clock()):
            return None
        stopped = await provider.hang_up(found.snapshot.execution_id)
        return stopped if isinstance(stopped, Stopped) else None


def _order(due: Due) -> Order:
    return Order(
        ref=due.ref,
        agent_id=due.agent_id,
        to_e164=due.to_e164,
        from_e164=due.from_e164,
        asked_at=due.asked_at,
        max_duration_sec=due.max_duration_sec,
        execution_id=due.execution_id,
        carrier_id=due.carrier_id,
        not_ours=frozenset(due.not_ours),
    )


def _told(look: LookUp) -> dict[str, object]:
    if isinstance(look, Found):
        return {"outcome": "found", "provider_status": look.snapshot.status, "others": len(look.others)}
    return {"outcome": type(look).__name__.lower(), **({"why": look.why} if isinstance(look, Unclear) else {})}
