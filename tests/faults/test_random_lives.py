"""Three dispatchers live at random: servers that fail in turn, pauses, replays, erasures, deletes, rotations, kills.

Then all is well again, and everything must come to rest: nothing is left, nothing is held, every endpoint's events are
numbered without a gap. `FAULTS_LIVES` names the seeds, `FAULTS_LIVE_SEC` says how long each lasts.
"""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.events.envelope import Event
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import claims, endpoints, presence, replays, retention
from cualify_webhook_dispatcher.replays import Replaying, Wish
from cualify_webhook_dispatcher.upkeep import Upkeep
from tests.webhook_dispatcher.conftest import SECRETS, Dispatcher, call_events, make_dispatcher, pool
from tests.webhook_dispatcher.receiver import Receiver

SEEDS = [int(seed) for seed in os.environ.get("FAULTS_LIVES", "1,2").split(",")]
LASTS_SEC = float(os.environ.get("FAULTS_LIVE_SEC", "10"))
WISHES: tuple[Wish, ...] = ("pause", "resume", "cancel")
MOODS = ("ok", "ok", "slow", "hangs", "dead", "flaky", "resets")

pytestmark = pytest.mark.faults
__all__ = ["pool"]


@dataclass(slots=True)
class Life:
    """What there is, and the chance that decides."""

    pool: Pool
    chance: random.Random
    receiver: Receiver
    fleet: list[Dispatcher] = field(default_factory=list)
    orgs: list[UUID] = field(default_factory=lambda: [new_id() for _ in range(3)])
    theirs: dict[UUID, UUID] = field(default_factory=dict)
    """Each endpoint's org; deleted ones are gone."""
    moods: dict[str, str] = field(default_factory=dict)
    calls: list[list[Event]] = field(default_factory=list)
    well: bool = False

    def one(self) -> Dispatcher:
        """Any of them."""
        return self.chance.choice(self.fleet)

    def started(self) -> Dispatcher:
        """A new one, running."""
        made = make_dispatcher(self.pool, timeout_sec=1.0, max_in_flight=40)
        made.start()
        return made

    async def answer(self, request: web.Request, _: int) -> web.StreamResponse:
        """As its mood is."""
        mood, dice = ("ok" if self.well else self.moods.get(request.path, "ok")), self.chance.random()
        if mood in ("slow", "hangs"):
            await asyncio.sleep(dice * (0.4 if mood == "slow" else 3.0))
        if mood == "resets" and request.transport is not None:
            request.transport.abort()
        if mood == "dead" or (mood == "flaky" and dice < 0.5):
            asks = {"Retry-After": "1"} if dice < 0.1 else None
            return web.Response(status=self.chance.choice((500, 503, 404, 429)), headers=asks)
        return web.Response(status=204)

    async def everybody_knows(self) -> None:
        """As after a change of an endpoint by HTTP."""
        through = self.one().deliver
        await through.look_again()
        await presence.until_all_know(self.pool, but=[through.replica_id])
        through.wake()

    # --- what happens ---

    async def calls_come(self) -> None:
        org_id = self.chance.choice(self.orgs)
        calls = [call_events(org_id, self.chance.randint(1, 4)) for _ in range(self.chance.randint(1, 10))]
        events = [event for call in calls for event in call]
        half = self.chance.randrange(len(events))
        for batch in filter(None, (events[:half], events[half:])):
            await self.one().arrive(*batch, hand_over=self.chance.random() > 0.1)
        self.calls += calls

    async def an_endpoint_comes(self) -> None:
        org_id, path = self.chance.choice(self.orgs), f"/{new_id()}"
        id_, _ = await self.one().register(org_id, self.receiver.url.replace("/hook", path))
        self.theirs[id_], self.moods[path] = org_id, self.chance.choice(MOODS)

    async def a_mood_changes(self) -> None:
        self.moods[self.chance.choice(list(self.moods))] = self.chance.choice(MOODS)

    async def one_is_paused_or_resumed(self) -> None:
        await self.change(self.chance.choice(list(self.theirs)), active=self.chance.random() < 0.5)
        await self.everybody_knows()

    async def change(self, id_: UUID, *, active: bool) -> None:
        await endpoints.change(
            self.pool, org_id=self.theirs[id_], endpoint_id=id_, url=None, events=None, active=active
        )

    async def one_is_deleted(self) -> None:
        if len(self.theirs) > 4:
            id_ = self.chance.choice(list(self.theirs))
            assert await endpoints.delete(self.pool, org_id=self.theirs.pop(id_), endpoint_id=id_)
            await self.everybody_knows()

    async def one_is_rotated(self) -> None:
        id_ = self.chance.choice(list(self.theirs))
        await endpoints.rotate(self.pool, SECRETS, org_id=self.theirs[id_], endpoint_id=id_)

    async def one_is_replayed(self) -> None:
        id_ = self.chance.choice(list(self.theirs))
        await replays.start(
            self.pool,
            org_id=self.theirs[id_],
            endpoint_id=id_,
            since=now() - timedelta(days=1),
            until=now(),
            events=None,
            status=self.chance.choice((None, "delivered", "failed")),
            call_id=None,
        )

    async def a_replay_is_steered(self) -> None:
        rows = await self.pool.fetch("SELECT * FROM replays WHERE state IN ('running', 'paused') ORDER BY id")
        if rows:
            row, wish = self.chance.choice(rows), self.chance.choice(WISHES)
            await replays.steer(
                self.pool, org_id=row["org_id"], endpoint_id=row["endpoint_id"], replay_id=row["id"], wish=wish
            )
            await self.everybody_knows()

    async def a_callee_is_erased(self) -> None:
        if self.calls:
            event = self.chance.choice(self.calls)[0]
            await retention.expunge(self.pool, org_id=event.org_id, call_ids=[event.key], e164=None)
            await self.everybody_knows()

    async def time_passes(self) -> None:
        await self.pool.execute("UPDATE endpoints SET not_before = now() WHERE opened_at IS NOT NULL")
        await self.pool.execute(
            "UPDATE deliveries SET due_at = now(), asked_until = NULL"
            " WHERE finished_at IS NULL AND NOT behind AND lease_token IS NULL"
        )
        await self.pool.execute("UPDATE endpoints SET next_due_at = now() WHERE deleted_at IS NULL")
        self.one().deliver.wake()

    async def one_dies_or_stops(self) -> None:
        number = self.chance.randrange(len(self.fleet))
        old = self.fleet[number]
        self.fleet[number] = self.started()
        if self.chance.random() < 0.5:
            await old.end()
            return
        assert old.running is not None
        old.running.cancel()
        with suppress(asyncio.CancelledError):
            await old.running
        await old.sender.aclose()

    async def upkeep(self) -> None:
        await Upkeep(pool=self.pool, secrets=SECRETS).once(asyncio.Event())

    async def goes_on(self) -> None:
        """For a while, at random."""
        happens: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.calls_come, 45),
            (self.a_mood_changes, 10),
            (self.one_is_paused_or_resumed, 5),
            (self.one_is_replayed, 3),
            (self.a_replay_is_steered, 3),
            (self.one_is_deleted, 1),
            (self.an_endpoint_comes, 3),
            (self.a_callee_is_erased, 2),
            (self.time_passes, 8),
            (self.one_dies_or_stops, 2),
            (self.upkeep, 1),
            (self.one_is_rotated, 3),
        ]
        steps, weights = zip(*happens, strict=True)
        until = asyncio.get_running_loop().time() + LASTS_SEC
        while asyncio.get_running_loop().time() < until:
            (step,) = self.chance.choices(steps, weights)
            await passing_deadlocks(step)
            await asyncio.sleep(self.chance.random() * 0.05)

    async def recovers(self) -> None:
        """Servers are well, endpoints resumed, and time passes until nothing is left."""
        self.well = True
        await self.pool.execute("UPDATE replays SET state = 'running' WHERE state = 'paused'")
        for id_ in self.theirs:
            await self.change(id_, active=True)
        async with asyncio.timeout(60):
            while await self.pool.fetchval(LEFT):
                await passing_deadlocks(self.time_passes)
                await asyncio.sleep(0.2)


LEFT = """
SELECT count(*)
FROM endpoints e
WHERE e.deleted_at IS NULL
  AND (EXISTS (SELECT FROM deliveries d WHERE d.endpoint_id = e.id AND d.finished_at IS NULL)
       OR EXISTS (SELECT FROM replays r WHERE r.endpoint_id = e.id AND r.state = 'running'))
"""


async def passing_deadlocks(step: Callable[[], Awaitable[None]]) -> None:
    """A test's own statements lock rows as they come; the services' never do."""
    for _ in range(5):
        try:
            await step()
        except Exception as error:
            if step.__name__ != "time_passes" or "deadlock" not in str(error):
                raise
        else:
            return


@asynccontextmanager
async def living(pool: Pool, seed: int) -> AsyncIterator[Life]:
    made = Life(pool, random.Random(seed), Receiver(lambda request, n: made.answer(request, n)))
    await made.receiver.start()
    made.fleet = [made.started() for _ in range(3)]
    stop = asyncio.Event()
    replaying = asyncio.create_task(Replaying(pool=pool, scheduled=lambda: made.one().deliver.wake()).run(stop))
    try:
        yield made
    finally:
        stop.set()
        await replaying
        for one in made.fleet:
            await one.end()
        await made.receiver.stop()


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_has_happened_everything_comes_to_rest(pool: Pool, seed: int) -> None:
    async with living(pool, seed) as life:
        for _ in range(8):
            await life.an_endpoint_comes()
        await life.goes_on()
        await life.recovers()
        async with asyncio.timeout(5):
            while any(one.deliver.held for one in life.fleet):
                await asyncio.sleep(0.01)
        for one in life.fleet:
            assert_nothing_is_held(one)
        assert await claims.unscheduled(pool) == 0
        numbers: dict[str, list[int]] = defaultdict(list)
        for row in await pool.fetch("SELECT payload FROM outbox ORDER BY id"):
            told = orjson.loads(row["payload"])
            numbers[told["partitionkey"]].append(int(told["sequence"]))
        for of_one in numbers.values():
            assert of_one == list(range(1, len(of_one) + 1))
        print(f"\nseed {seed}: {len(life.receiver.got)} requests, {len(life.calls)} calls, {len(numbers)} endpoints")


def assert_nothing_is_held(one: Dispatcher) -> None:
    """No slot, no line, no request, no count that was forgotten."""
    lanes = one.deliver._lanes
    assert (lanes.under_way, lanes._of_org) == ([0, 0, 0], {})
    assert (one.deliver._aborts, one.sender._busy, one.sender._resolving) == ({}, {}, {})
    for lane in lanes:
        assert (lane.claimed, len(lane.flights), lane.low_under_way, lane.slow_flights) == (0, 0, 0, 0)
