"""Dials: claims whose turn it is, commits the attempt, asks the provider exactly once, writes down what it said.

The attempt is committed before a byte leaves, and there is one POST an attempt. Whatever happens in between, a kill -9
too, leaves a row that says `asking`; `recover` finds out what became of it, and nobody ever asks again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog

from cualify_dialer import gate, queries
from cualify_dialer.apply import Changes, write
from cualify_dialer.gate import Dial, Never, Wait
from cualify_dialer.model import Answered, Begun, Call, GivenUp, Noted, Pace
from cualify_dialer.providers import Answer, NotSent, Order, Provider
from cualify_dialer.record import Recorder
from cualify_shared import faults
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Connection, Pool
from cualify_shared.ids import provider_ref
from cualify_shared.logs import about
from cualify_shared.work import Worker

log = structlog.get_logger(__name__)

POSTS_AT_ONCE = 100
POLL_SEC = 0.5
GIVEN_UP_AT_ONCE = 500
ANSWER_MARGIN_SEC = 5.0
"""Within so long of the commit the request leaves or never does. So after this and the request's time limit nobody
waits for its answer any more, and `recover` may look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A committed attempt, about to be sent."""

    call_id: UUID
    org_id: UUID
    number: int
    provider: str
    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What the claim must respect."""

    max_concurrent_calls: int
    provider_timeout_sec: float


class Dialing:
    """The loop `dial`."""

    def __init__(
        self,
        *,
        pool: Pool,
        providers: Mapping[str, Provider],
        pace: Pace,
        lines: Lines,
        committed: Callable[[], None],
        changed: Callable[[], None],
        drain_sec: float,
    ) -> None:
        self._pool, self._providers, self._pace, self._lines = pool, providers, pace, lines
        self._committed = committed
        self._recorder = Recorder("dial answers", pool=pool, pace=pace, committed=committed, changed=changed)
        self._worker: Worker[Asking] = Worker(
            "dial", claim=self.claim, do=self.dial, at_once=POSTS_AT_ONCE, poll_sec=POLL_SEC, drain_sec=drain_sec
        )

    def wake(self) -> None:
        """Says that a job was queued, or that a line or a number has become free."""
        self._worker.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Dials until told to stop; then waits for the answers to what it asked."""
        await self.record_beside(self._worker.run, stop)

    async def record_beside(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Records the answers while `work` runs, and the last of them after it."""
        await self._recorder.run_beside(work, stop)

    async def claim(self, limit: int) -> list[Asking]:
        """Commits the attempts whose turn it is, at most `limit` and at most as many as there are free lines."""
        now = utc_now()
        async with self._pool.acquire() as connection, connection.transaction():
            await queries.lock_dialing(connection)
            calls = await self._whose_turn(connection, limit=limit, now=now)
            noted = self._decide(calls, now=now)
            changes = await write(connection, calls, noted, now=now, pace=self._pace)
        if noted:
            self._committed()
            changes.report()
        return _begun(changes, noted)

    async def dial(self, asking: Asking) -> None:
        """One POST, and what came of it."""
        with about(call_id=asking.call_id, org_id=asking.org_id, attempt=asking.number):
            faults.point("dialer.attempt_committed")
            answer = await self._ask(asking)
            faults.point("dialer.provider_answered")
            await self._recorder.record(Noted(asking.call_id, Answered(asking.number, answer)))
            log.info("call_dialed", provider=asking.provider, **_told(answer))

    async def _ask(self, asking: Asking) -> Answer:
        """A process that stood still since the commit does not ask: others may have given the attempt up by now."""
        if utc_now() - asking.order.asked_at > timedelta(seconds=ANSWER_MARGIN_SEC):
            return NotSent("too late to ask")
        return await self._providers[asking.provider].place(asking.order)

    async def _whose_turn(self, connection: Connection, *, limit: int, now: datetime) -> dict[UUID, Call]:
        expired = await queries.expired_jobs(connection, now=now, limit=GIVEN_UP_AT_ONCE)
        free = min(limit, self._lines.max_concurrent_calls - await queries.busy_lines(connection))
        due = await queries.due_jobs(connection, now=now, limit=free) if free > 0 else []
        calls = await queries.locked_calls(connection, [*expired, *due]) if expired or due else {}
        return {call_id: calls[call_id] for call_id in dict.fromkeys([*expired, *due])}

    def _decide(self, calls: Mapping[UUID, Call], *, now: datetime) -> list[Noted]:
        """In the order of turns, so that of two jobs for one number the first gets it."""
        busy: set[str] = set()
        noted: list[Noted] = []
        for call in calls.values():
            decision = gate.decide(call, now=now, busy=busy, providers=self._providers)
            match decision:
                case Dial():
                    busy.add(call.request.to_e164)
                    noted.append(Noted(call.call_id, self._attempt(call, now)))
                case Never(reason):
                    noted.append(Noted(call.call_id, GivenUp(reason)))
                case Wait():
                    pass
                case _:
                    assert_never(decision)
        return noted

    def _attempt(self, call: Call, now: datetime) -> Begun:
        provider = self._providers[call.request.provider]
        ref = provider_ref(prefix=provider.ref_prefix, call_id=call.call_id, attempt=len(call.attempts) + 1)
        asking_for = timedelta(seconds=self._lines.provider_timeout_sec + ANSWER_MARGIN_SEC)
        return Begun(ref=ref, asked_at=now, asking_until=now + asking_for)


def _begun(changes: Changes, noted: Sequence[Noted]) -> list[Asking]:
    calls = [changes.after[one.call_id] for one in noted if isinstance(one.learnt, Begun)]
    return [_asking(call) for call in calls]


def _asking(call: Call) -> Asking:
    attempt = call.attempts[-1]
    return Asking(
        call_id=call.call_id,
        org_id=call.request.org_id,
        number=attempt.number,
        provider=call.request.provider,
        order=Order(
            ref=attempt.ref,
            agent_id=call.request.provider_agent_id,
            to_e164=call.request.to_e164,
            from_e164=call.request.from_e164,
            asked_at=attempt.asked_at,
        ),
    )


def _told(answer: Answer) -> dict[str, object]:
    """For the log: the outcome and whatever it carries."""
    return {"outcome": type(answer).__name__.lower(), **{name: getattr(answer, name) for name in answer.__slots__}}
