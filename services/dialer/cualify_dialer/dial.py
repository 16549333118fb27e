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

from cualify_dialer import breaker, gate, queries, turns
from cualify_dialer.apply import Changes, write
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.gate import Dial, Never, Wait
from cualify_dialer.model import Answered, Begun, Call, GivenUp, Noted, Pace, Postponed, Rerouted
from cualify_dialer.providers import Answer, NotSent, Order, Provider, Ready, Unfit, Unreadable
from cualify_dialer.record import Recorder
from cualify_dialer.turns import BEFORE_ALL, Queue
from cualify_shared import faults
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Connection, Pool
from cualify_shared.ids import provider_ref
from cualify_shared.logs import about
from cualify_shared.work import Worker

log = structlog.get_logger(__name__)

POSTS_AT_ONCE_LIMIT = 1000
POLL_SEC = 0.5
CLAIMED_AT_ONCE = 25
"""What is claimed and not yet sent when a process dies is parked in the end, so it is little at a time."""
GIVEN_UP_AT_ONCE = 500
UNPARKED_AT_ONCE = 1000
PARKED_AT_ONCE = 5000
UNREADABLE_PAUSE_SEC = 5.0
ROUNDS = 5
QUEUES_AT_ONCE = 200
"""Orgs that one claim looks at, so that its cost does not grow with how many there are."""
MAY_BE_MORE = 5
"""So many jobs of one org may have been all that a claim looked at: then it is worth another look at once."""
ANSWER_MARGIN_SEC = 5.0
"""Within so long of the commit the request leaves or never does. So after this and the request's time limit nobody
waits for its answer any more, and `recover` may look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A committed attempt, about to be sent. `claimed_at` is this process's own time."""

    call_id: UUID
    org_id: UUID
    number: int
    provider: str
    order: Order
    claimed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one provider may be asked to carry at once, and how many calls may be begun in a second."""

    lines: int
    calls_per_sec: float = 1000.0

    @property
    def burst(self) -> int:
        """Calls that may be begun within `window_sec`, exactly."""
        return max(1, int(self.calls_per_sec))

    @property
    def window_sec(self) -> float:
        """A second, or longer where less than one call a second is allowed."""
        return self.burst / self.calls_per_sec


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What the claim must respect. `org_lines` is for calls that say nothing of their org's plan; `simulators` are the
    providers that ring nobody."""

    providers: Mapping[str, Capacity]
    org_lines: int
    simulators: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Room:
    """What each provider can take now. `closed` are those that are left alone, `probed` those that may get one call."""

    free: Mapping[str, int]
    closed: tuple[str, ...]
    probed: frozenset[str]


class Dialing:
    """The loop `dial`."""

    def __init__(
        self,
        *,
        pool: Pool,
        providers: Mapping[str, Provider],
        pace: Pace,
        lines: Lines,
        urls: CallbackUrls,
        committed: Callable[[], None],
        changed: Callable[[], None],
        drain_sec: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._pool, self._providers, self._pace, self._lines, self._urls = pool, providers, pace, lines, urls
        self._committed, self._clock = committed, clock
        self._after = BEFORE_ALL
        self._finding_out: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._recorder = Recorder(
            "dial answers", pool=pool, pace=pace, committed=committed, changed=changed, clock=clock
        )
        at_once = min(POSTS_AT_ONCE_LIMIT, sum(capacity.lines for capacity in lines.providers.values()))
        self._worker: Worker[Asking] = Worker(
            "dial", claim=self.claim, do=self.dial, at_once=at_once, poll_sec=POLL_SEC, drain_sec=drain_sec
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
        """Commits the attempts whose turn it is, at most `limit` and at most as many as there is room for."""
        limit, now = min(limit, CLAIMED_AT_ONCE), self._clock()
        async with self._pool.acquire() as connection:
            if not await turns.somebody_waits(connection):
                return []
            async with connection.transaction():
                await turns.lock_dialing(connection)
                await turns.unpark(connection, limit=UNPARKED_AT_ONCE)
                room = await self._room(connection, now=now)
                calls = await self._whose_turn(connection, room, limit=limit, now=now)
                noted = self._decide(calls, room, now=now)
                changes = await write(connection, calls, noted, now=now, pace=self._pace)
                asking = self._begun(changes, noted)
                await self._note_probes(connection, asking, room, now=now)
        if noted:
            self._committed()
            changes.report()
        if len(noted) >= MAY_BE_MORE:
            self._worker.wake()
        return asking

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
        if self._clock() - asking.claimed_at > timedelta(seconds=ANSWER_MARGIN_SEC):
            return NotSent("too late to ask", by_us=True)
        return await self._providers[asking.provider].dial(asking.order)

    async def _room(self, connection: Connection, *, now: datetime) -> Room:
        known = self._lines.providers
        used = await turns.in_use(connection, {name: capacity.window_sec for name, capacity in known.items()})
        free: dict[str, int] = {}
        closed: list[str] = []
        probed: set[str] = set()
        for use in used:
            capacity, admits = known[use.provider], use.breaker.admits(now)
            free[use.provider] = max(0, min(capacity.lines - use.busy_lines, capacity.burst - use.started))
            if use.started >= capacity.burst:
                asyncio.get_running_loop().call_later(capacity.window_sec / 4, self._worker.wake)
            if admits == 0:
                free[use.provider] = 0
                closed.append(use.provider)
            elif admits is not None:
                free[use.provider] = min(admits, free[use.provider])
                probed.add(use.provider)
        return Room(free, tuple(closed), frozenset(probed))

    async def _whose_turn(self, connection: Connection, room: Room, *, limit: int, now: datetime) -> dict[UUID, Call]:
        """Locked, in the order of turns. Numbers that turn out to be busy are parked, and then it looks again."""
        given_up = await turns.expired_jobs(connection, now=now, limit=GIVEN_UP_AT_ONCE)
        if room.closed:
            given_up += await turns.stranded_jobs(connection, providers=room.closed, now=now, limit=GIVEN_UP_AT_ONCE)
        due: list[UUID] = []
        queues = await self._next_queues(connection)
        for _ in range(ROUNDS):
            found = await turns.due_jobs(
                connection, queues, now=now, limit=limit, room=room.free, org_lines=self._lines.org_lines
            )
            due = found.due
            if found.busy_numbers:
                await turns.park(connection, found.busy_numbers, limit=PARKED_AT_ONCE)
                self._worker.wake()
            if due or not found.busy_numbers:
                break
        ids = list(dict.fromkeys([*given_up, *due]))
        calls = await queries.locked_calls(connection, ids) if ids else {}
        return {call_id: calls[call_id] for call_id in ids}

    async def _next_queues(self, connection: Connection) -> list[Queue]:
        """As many orgs as one claim looks at; the next claim goes on from there, and round."""
        queues = await turns.queues_after(connection, self._after, limit=QUEUES_AT_ONCE)
        if len(queues) == QUEUES_AT_ONCE:
            self._after = queues[-1]
            self._worker.wake()
            return queues
        if self._after != BEFORE_ALL:
            first = await turns.queues_after(connection, BEFORE_ALL, limit=QUEUES_AT_ONCE - len(queues))
            queues = list(dict.fromkeys([*queues, *first]))
        self._after = BEFORE_ALL
        return queues

    def _decide(self, calls: Mapping[UUID, Call], room: Room, *, now: datetime) -> list[Noted]:
        """In the order of turns, so that of two jobs for one number the first gets it."""
        busy: set[str] = set()
        noted: list[Noted] = []
        for call in calls.values():
            if call.provider in room.closed and now < call.request.latest_at:
                noted += self._rerouted(call, room)
                continue
            decision = gate.decide(
                call, now=now, busy=busy, providers=self._providers, simulators=self._lines.simulators
            )
            match decision:
                case Dial():
                    learnt = self._if_ready(call, now=now)
                    if isinstance(learnt, Begun):
                        busy.add(call.request.to_e164)
                    noted += [Noted(call.call_id, learnt)] if learnt is not None else []
                case Never(reason):
                    noted.append(Noted(call.call_id, GivenUp(reason)))
                case Wait():
                    pass
                case _:
                    assert_never(decision)
        return noted

    def _if_ready(self, call: Call, *, now: datetime) -> Begun | Rerouted | GivenUp | Postponed | None:
        """An attempt is committed only when it may leave at once, so what has to be asked first is asked before."""
        if len(call.attempts) >= self._pace.attempts_limit:
            return GivenUp("provider_unavailable")
        readiness = self._providers[call.provider].readiness(call.agent_id)
        match readiness:
            case Ready():
                return self._attempt(call, now)
            case Unfit(why, ended_reason):
                log.error("agent_unfit", provider=call.provider, agent_id=call.agent_id, why=why)
                return Rerouted() if call.route + 1 < len(call.routes) else GivenUp(ended_reason)
            case Unreadable() if call.route + 1 < len(call.routes):
                return Rerouted()
            case Unreadable():
                return Postponed(now + timedelta(seconds=UNREADABLE_PAUSE_SEC))
            case None:
                self._find_out(call.provider, call.agent_id)
                return None
            case _:
                assert_never(readiness)

    def _find_out(self, provider: str, agent_id: str) -> None:
        """Once at a time for each agent; then the claim looks again."""
        if (provider, agent_id) in self._finding_out:
            return

        def found_out(_: asyncio.Future[None]) -> None:
            self._finding_out.pop((provider, agent_id), None)
            self._worker.wake()

        finding_out = asyncio.ensure_future(self._providers[provider].find_out(agent_id))
        self._finding_out[provider, agent_id] = finding_out
        finding_out.add_done_callback(found_out)

    def _rerouted(self, call: Call, room: Room) -> list[Noted]:
        """To the next provider, if that one is not left alone too."""
        following = call.routes[(call.route + 1) % len(call.routes)][0]
        return [Noted(call.call_id, Rerouted())] if following not in room.closed else []

    def _attempt(self, call: Call, now: datetime) -> Begun:
        provider = self._providers[call.provider]
        ref = provider_ref(prefix=provider.ref_prefix, call_id=call.call_id, attempt=len(call.attempts) + 1)
        return Begun(ref=ref, asked_at=now, asking_until=now + self._asking_for(provider))

    def _asking_for(self, provider: Provider) -> timedelta:
        return timedelta(seconds=provider.dial_timeout_sec + ANSWER_MARGIN_SEC)

    async def _note_probes(
        self, connection: Connection, asking: Sequence[Asking], room: Room, *, now: datetime
    ) -> None:
        for name in sorted(room.probed & {one.provider for one in asking}):
            await breaker.probing(connection, name, until=now + self._asking_for(self._providers[name]))

    def _begun(self, changes: Changes, noted: Sequence[Noted]) -> list[Asking]:
        calls = [changes.after[one.call_id] for one in noted if isinstance(one.learnt, Begun)]
        return [self._asking(call) for call in calls]

    def _asking(self, call: Call) -> Asking:
        attempt = call.attempts[-1]
        return Asking(
            call_id=call.call_id,
            org_id=call.request.org_id,
            number=attempt.number,
            provider=attempt.provider,
            claimed_at=attempt.asked_at,
            order=Order(
                ref=attempt.ref,
                agent_id=attempt.agent_id,
                to_e164=call.request.to_e164,
                from_e164=call.request.from_e164,
                asked_at=attempt.asked_at,
                max_duration_sec=call.request.terms.max_duration_sec,
                callback_url=self._urls.of(attempt.provider, attempt.ref),
            ),
        )


def _told(answer: Answer) -> dict[str, object]:
    """For the log: the outcome and whatever it carries."""
    return {"outcome": type(answer).__name__.lower(), **{name: getattr(answer, name) for name in answer.__slots__}}
