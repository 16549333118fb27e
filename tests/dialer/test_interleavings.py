"""Whatever happens in whatever order, on the real SQL: requests, callbacks, losses, repeats, kills, clocks that jump.

A telephone network that keeps a book of every ring is the model. Two dialers work for it; either may be killed with all
it was about to do, between any two steps. After each step the rules are checked, and in the end everything must end.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase as Stage, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cualify_dialer.dial import Asking
from cualify_dialer.model import Answered, LookedUp, Noted, Pace
from cualify_dialer.providers import (
    Accepted,
    Answer,
    Callback,
    CallbackRequest,
    Found,
    HangUp,
    LookUp,
    Missing,
    NotSent,
    Order,
    Phase,
    Readiness,
    Ready,
    Refused,
    Snapshot,
    Stopped,
    Throttled,
    TooLate,
    Unclear,
    Unknown,
)
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.turns import Due
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, create_pool
from cualify_shared.events import Event, decode
from cualify_shared.events.call import CallRequested, Fallback, Retry
from cualify_shared.ids import new_id
from tests.dialer.support import Dialer, a_request, a_wish
from tests.support.databases import MakeDatabase

NUMBERS = tuple(f"+91999000{n:04d}" for n in range(4))
ORGS = (new_id(), new_id())
PACE = Pace(look_up_every_sec=30, settle_unknown_sec=120, give_up_after_sec=300)
LINES, ORG_LINES = 5, 4
EMPTY = "TRUNCATE dial_jobs, attempts, provider_events, provider_breakers, freed_numbers, outbox"
MOODS = ("accepted", "accepted", "unknown", "swallowed", "refused", "throttled", "not_sent")
STEPS = (
    *(
        "request",
        "repeat_or_cancel",
        "claim",
        "claim",
        "ask",
        "ask",
        "ask",
        "dial",
        "dial",
        "record",
        "record",
        "record",
    ),
    *(
        "kill",
        "life_goes_on",
        "life_goes_on",
        "life_goes_on",
        "hear",
        "hear",
        "look",
        "look",
        "look_up",
        "look_up",
        "time_jumps",
    ),
)
"""Named more than once, more often."""
EITHER, FLAG = st.integers(0, 1), st.booleans()
Draw = Callable[..., Any]
LAST = ("completed", "busy", "no-answer", "failed", "canceled")
WORDS = {"completed": Phase.COMPLETED, "busy": Phase.BUSY, "no-answer": Phase.NO_ANSWER}


@dataclass(slots=True)
class Execution:
    """A call as the network has it: it has rung, once."""

    id: str
    ref: str
    to_e164: str
    statuses: list[str] = field(default_factory=lambda: ["queued"])

    @property
    def is_over(self) -> bool:
        return self.statuses[-1] in LAST

    def body(self, status: str) -> bytes:
        return orjson.dumps(
            {"id": self.id, "status": status, "context_details": {"recipient_data": {"cualify_ref": self.ref}}}
        )

    def snapshot(self) -> Snapshot:
        phases = {"queued": Phase.PENDING, "in-progress": Phase.IN_PROGRESS, "failed": Phase.FAILED}
        status = self.statuses[-1]
        phase = {**phases, **WORDS, "canceled": Phase.CANCELED}[status]
        talked = Decimal(10 if status == "completed" else 0)
        return Snapshot(
            execution_id=self.id,
            ref=self.ref,
            phase=phase,
            status=status,
            is_waiting=status == "queued",
            talked_sec=talked,
        )


@dataclass(slots=True)
class Network:
    """Rings whoever it is asked to, and remembers. `mood` is how the next request fares."""

    name: str
    ref_prefix: str
    mood: str = "accepted"
    is_deaf: bool = False
    executions: list[Execution] = field(default_factory=list)
    dial_timeout_sec: float = 1.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    def readiness(self, agent_id: str) -> Readiness | None:
        return Ready()

    async def find_out(self, agent_id: str) -> None: ...

    async def dial(self, order: Order) -> Answer:
        refusals: dict[str, Answer] = {
            "refused": Refused("400"),
            "throttled": Throttled(None),
            "not_sent": NotSent("dns"),
            "swallowed": Unknown("500, and nothing was taken on"),
        }
        if self.mood in refusals:
            return refusals[self.mood]
        execution = Execution(f"{self.name}-{len(self.executions)}", order.ref, order.to_e164)
        self.executions.append(execution)
        return Unknown("500") if self.mood == "unknown" else Accepted(execution.id)

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        if self.is_deaf:
            return Unclear("503")
        ours = [one for one in self.executions if order.execution_id in (None, one.id) and one.ref == order.ref]
        return Found(ours[0].snapshot(), tuple(one.id for one in ours[1:])) if ours else Missing()

    async def hang_up(self, execution_id: str) -> HangUp:
        (execution,) = [one for one in self.executions if one.id == execution_id]
        if execution.is_over:
            return TooLate()
        execution.statuses.append("canceled")
        return Stopped()

    def parse_callback(self, request: CallbackRequest) -> Callback:
        return Bolna(url="http://127.0.0.1:9", api_key="k", timeout_sec=1).parse_callback(request)


class Interleavings(RuleBasedStateMachine):
    """Each rule is a thing that happens."""

    loop: asyncio.AbstractEventLoop
    pool: Pool

    def __init__(self) -> None:
        super().__init__()
        self.now = utc_now()
        self.networks = [Network("bolna", "boln"), Network("exotel", "exo")]
        self.dialers = [self.a_dialer(), self.a_dialer()]
        self.requests: dict[UUID, CallRequested] = {}
        self.claimed: list[tuple[Dialer, Asking]] = []
        self.answered: list[tuple[Dialer, Noted]] = []
        self.due: list[tuple[Dialer, Due]] = []

    def a_dialer(self) -> Dialer:
        return Dialer(
            self.pool,
            *self.networks,
            lines=LINES,
            org_lines=ORG_LINES,
            pace=PACE,
            clock=lambda: self.now,
        )

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    @initialize(
        first=st.lists(
            st.tuples(st.sampled_from(NUMBERS[:3]), st.sampled_from(ORGS), st.booleans(), st.booleans()),
            min_size=3,
            max_size=8,
        )
    )
    def begin(self, first: list[tuple[str, UUID, bool, bool]]) -> None:
        self.do(self.pool.execute(EMPTY))
        for to_e164, org_id, with_retry, with_fallback in first:
            self.request(to_e164, org_id, with_retry, with_fallback, 0)

    @rule(data=st.data(), what=st.sampled_from(STEPS))
    def step(self, data: st.DataObject, what: str) -> None:
        """One rule for all, so that each run has a bit of everything."""
        getattr(self, f"_{what}")(data.draw)

    def _request(self, draw: Draw) -> None:
        later_sec = draw(st.sampled_from([0, 0, 60]))
        self.request(draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(ORGS)), draw(FLAG), draw(FLAG), later_sec)

    def request(self, to_e164: str, org_id: UUID, with_retry: bool, with_fallback: bool, later_sec: int) -> None:
        retry = Retry(max_attempts=2, on=("busy", "no_answer"), intervals_min=(1,)) if with_retry else None
        fallback = (Fallback(provider="exotel", provider_agent_id="7"),) if with_fallback else None
        at = self.now
        one = a_request(
            org_id=org_id,
            to_e164=to_e164,
            requested_at=at,
            earliest_at=at + timedelta(seconds=later_sec) if later_sec else None,
            latest_at=at + timedelta(minutes=10),
            retry=retry,
            fallback_providers=fallback,
        )
        self.requests[one.call_id] = one
        self.do(self.dialers[0].consume(one))

    def _repeat_or_cancel(self, draw: Draw) -> None:
        one = self.requests[draw(st.sampled_from(sorted(self.requests)))]
        self.do(self.dialers[1].consume(a_wish(one) if draw(FLAG) else one))

    def _claim(self, draw: Draw) -> None:
        dialer = self.dialers[draw(EITHER)]
        self.claimed += [(dialer, one) for one in self.do(dialer.dialing.claim(draw(st.integers(1, 4))))]

    def _ask(self, draw: Draw) -> None:
        """A request is sent; what it gave is in hand, and not yet written down."""
        if not self.claimed:
            return
        dialer, asking = self.claimed.pop(draw(st.integers(0, len(self.claimed) - 1)))
        mood = draw(st.sampled_from(MOODS))
        for network in self.networks:
            network.mood = mood
        answer = self.do(dialer.dialing._ask(asking))
        self.answered.append((dialer, Noted(asking.call_id, Answered(asking.number, answer))))

    def _dial(self, draw: Draw) -> None:
        """A claim and all its requests at one go."""
        self._claim(draw)
        while self.claimed:
            self._ask(draw)

    def _record(self, draw: Draw) -> None:
        if not self.answered:
            return
        dialer, noted = self.answered.pop(draw(st.integers(0, len(self.answered) - 1)))
        for _ in range(draw(st.integers(1, 2))):
            self.do(dialer.dialing._recorder._apply([noted]))

    def _kill(self, draw: Draw) -> None:
        """Everything that one dialer was about to do is lost; another starts in its place."""
        which = draw(EITHER)
        dead = self.dialers[which]
        self.dialers[which] = self.a_dialer()
        self.claimed = [one for one in self.claimed if one[0] is not dead]
        self.answered = [one for one in self.answered if one[0] is not dead]
        self.due = [one for one in self.due if one[0] is not dead]

    def _life_goes_on(self, draw: Draw) -> None:
        alive = [one for network in self.networks for one in network.executions if not one.is_over]
        if alive:
            one, status = draw(st.sampled_from(alive)), draw(st.sampled_from(["in-progress", *LAST[:4]]))
            if status != "in-progress" or one.statuses[-1] == "queued":
                one.statuses.append(status)

    def _hear(self, draw: Draw) -> None:
        """Callbacks, any of those that ever were, in any order."""
        bodies = [
            (network.name, one.body(status))
            for network in self.networks
            for one in network.executions
            for status in one.statuses
        ]
        for name, body in draw(st.lists(st.sampled_from(bodies), max_size=3)) if bodies else []:
            self.do(self.dialers[0].hear(body, provider=name))

    def _look(self, draw: Draw) -> None:
        """What is due is leased; later somebody asks the provider, who may be deaf."""
        dialer = self.dialers[draw(EITHER)]
        self.due += [(dialer, one) for one in self.do(dialer.recovering.claim(10))]

    def _look_up(self, draw: Draw) -> None:
        for network in self.networks:
            network.is_deaf = draw(st.sampled_from([False, False, True]))
        for _ in range(len(self.due) - draw(st.integers(0, min(1, len(self.due))))):
            dialer, due = self.due.pop()
            hang_up, look = self.do(dialer.recovering._asked(due))
            noted = Noted(due.call_id, LookedUp(due.number, look, due.look_up_at, hang_up))
            self.do(dialer.recovering._recorder._apply([noted]))

    def _time_jumps(self, draw: Draw) -> None:
        self.now += timedelta(seconds=draw(st.sampled_from([1, 2, 5, 20, 40, 60, 400, -3])))

    @invariant()
    def nobody_is_rung_twice(self) -> None:
        executions = [one for network in self.networks for one in network.executions]
        assert len({one.ref for one in executions}) == len(executions)
        for call_id, rings in Counter(UUID(one.ref.split("_")[1]) for one in executions).items():
            assert rings <= (2 if self.requests[call_id].retry else 1)

    @invariant()
    def the_rules_hold_in_the_tables(self) -> None:
        if not self.requests:
            return
        self.do(self._rules())

    async def _rules(self) -> None:
        jobs = await self.pool.fetch("SELECT call_id, org_id, provider, state, to_e164, parked, status FROM dial_jobs")
        attempts = await self.pool.fetch("SELECT ref, call_id, org_id, provider, to_e164, state, result FROM attempts")
        self._no_phone_rings_twice_at_once({one["ref"]: one["result"] for one in attempts})
        alive = [one for one in attempts if one["state"] != "ended"]
        assert max(Counter(one["to_e164"] for one in alive).values(), default=0) <= 1
        on_line = [one for one in alive if one["state"] != "disconnected"]
        assert max(Counter(one["provider"] for one in on_line).values(), default=0) <= LINES
        assert max(Counter(one["org_id"] for one in on_line).values(), default=0) <= ORG_LINES
        states = {job["call_id"]: job["state"] for job in jobs}
        assert {call_id for call_id, state in states.items() if state == "open"} <= {one["call_id"] for one in alive}
        assert {states[one["call_id"]] for one in alive} <= {"open", "ended"}, "ended: the call at its limit"
        maybe_rung = Counter(
            one["call_id"] for one in attempts if one["result"] not in ("refused", "throttled", "not_sent")
        )
        for call_id, count in maybe_rung.items():
            assert count <= (2 if self.requests[call_id].retry else 1)
        await self._nobody_is_forgotten(jobs, alive)
        self._events_are_right(jobs, [decode(row["payload"]) for row in await self._outbox()])

    def _no_phone_rings_twice_at_once(self, results: dict[str, str | None]) -> None:
        """But for those of which nobody could find out anything, and everybody was told so."""
        alive = [one for network in self.networks for one in network.executions if not one.is_over]
        ringing = Counter(one.to_e164 for one in alive if results[one.ref] != "outcome_unknown")
        assert max(ringing.values(), default=0) <= 1

    async def _nobody_is_forgotten(self, jobs: list[asyncpg.Record], alive: list[asyncpg.Record]) -> None:
        """Who is parked waits behind an open attempt, a number that was just freed, or one of its own org's calls."""
        freed = {row["to_e164"] for row in await self.pool.fetch("SELECT to_e164 FROM freed_numbers")}
        held = freed | {one["to_e164"] for one in alive}
        waiting = [job for job in jobs if job["state"] == "queued" and job["to_e164"] not in held]
        queues = {(job["to_e164"], job["org_id"], job["provider"]) for job in waiting if not job["parked"]}
        assert {(job["to_e164"], job["org_id"], job["provider"]) for job in waiting} <= queues

    def _events_are_right(self, jobs: list[asyncpg.Record], events: list[Event]) -> None:
        ends = Counter(event.key for event in events if event.type.name in ("call.completed", "call.failed"))
        assert ends == Counter(job["call_id"] for job in jobs if job["state"] == "ended")
        for call_id in {event.key for event in events}:
            own = [event for event in events if event.key == call_id and event.type.topic.name == "call.events"]
            assert [event.sequence for event in own] == list(range(1, len(own) + 1))
            names = [event.type.name for event in own]
            assert not {"call.completed", "call.failed"} & set(names[:-1]), "nothing follows the end"

    async def _outbox(self) -> list[asyncpg.Record]:
        return list(await self.pool.fetch("SELECT payload FROM outbox ORDER BY id"))

    def teardown(self) -> None:
        """Left alone, with a provider that answers, everything ends in bounded time without a callback."""
        if self.requests:
            self.do(self._settle())

    async def _settle(self) -> None:
        self.claimed, self.answered, self.due = [], [], []
        for network in self.networks:
            network.mood, network.is_deaf = "accepted", False
        dialer = self.a_dialer()
        for _ in range(80):
            self.now += timedelta(seconds=30)
            for network in self.networks:
                for one in network.executions:
                    if not one.is_over:
                        one.statuses.append("busy")
            await dialer.dial()
            await dialer.recover()
            if not await self.pool.fetchval("SELECT count(*) FROM dial_jobs WHERE state IN ('queued', 'open')"):
                break
        states = await self.pool.fetch("SELECT state, count(*) FROM dial_jobs GROUP BY state")
        assert {row["state"] for row in states} <= {"ended", "tombstone"}
        assert await self.pool.fetchval("SELECT count(*) FROM attempts WHERE state <> 'ended'") == 0
        self.nobody_is_rung_twice()
        await self._rules()


@pytest.fixture
async def dsn(database: MakeDatabase) -> str:
    return await database("cualify_dialer")


def test_in_any_interleaving_nobody_is_rung_twice_and_everything_ends(dsn: str) -> None:
    with asyncio.Runner() as runner:
        Interleavings.loop = runner.get_loop()
        Interleavings.pool = runner.run(create_pool(dsn, application_name="test", size=4))
        run_state_machine_as_test(
            Interleavings,
            settings=settings(
                max_examples=int(os.environ.get("INTERLEAVINGS", "10")),
                stateful_step_count=60,
                deadline=None,
                derandomize="INTERLEAVINGS" not in os.environ,
                database=None,
                phases=(Stage.generate,),  # to shrink takes minutes on a database; the steps are printed anyway
                suppress_health_check=list(HealthCheck),
            ),
        )
        Interleavings.pool.terminate()
