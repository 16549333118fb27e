"""Delivers: signs, sends, records. Claimed deliveries wait in `lanes` for a slot, results in `recording`.

Safe to kill at any moment: a delivery whose process died is sent again when its lease passes, under the same id. A
lease is short and is renewed while its delivery is held here: a dead process's deliveries are late by seconds. A named
replica does not even wait for that: what it held in its last life is due when it is there again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Gauge

from cualify_shared import faults, outbox
from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.ids import notification_id
from cualify_shared.waiting import BACK_SOON_SEC, pauses, until_any, until_set
from cualify_webhook_dispatcher import breaker, claims, leases, payloads, presence, queries, sign, told
from cualify_webhook_dispatcher.handle import Answer, Failure
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Result
from cualify_webhook_dispatcher.lanes import QUICK, Flight, Lanes
from cualify_webhook_dispatcher.presence import Permission, Seen
from cualify_webhook_dispatcher.recording import Recording, result_of
from cualify_webhook_dispatcher.secrets import CannotOpen, Secrets
from cualify_webhook_dispatcher.send import Sender

log = structlog.get_logger(__name__)

CLAIMED_PER_ENDPOINT = 64
"""Deliveries of an endpoint that one process claims at once, until it has shown that it is quick; and then:"""
CLAIMED_PER_QUICK_ENDPOINT = 1000
CLAIMED_PER_SLOT = 10
LEASE = timedelta(seconds=8)
RENEW_EVERY_SEC = 2.0
LOOK_EVERY_SEC = 0.5
LOOKS = 10
"""In a row, while endpoints get lanes during each; then nothing is confirmed until the next time."""
NAME_IS_FREE_WITHIN_SEC, ASK_EVERY_SEC = 2.0, 0.1
"""A named replica waits so long for another of its name to be gone; then it takes nothing over."""

CLAIMED_NOW = Gauge("cualify_deliveries_claimed", "Deliveries that this process has claimed and not finished.")
UNDER_WAY = Gauge("cualify_deliveries_under_way", "Requests under way.", ["share"])


class Deliver:
    """The worker of deliveries. `take` gets those that were born claimed; `run` looks for the rest."""

    def __init__(
        self,
        *,
        pool: Pool,
        sender: Sender,
        secrets: Secrets,
        max_in_flight: int,
        committed: Callable[[], None],
        replica: str = "",
    ) -> None:
        self._pool, self._sender, self._secrets, self._committed = pool, sender, secrets, committed
        self.new_token = leases.tokens_of(replica)
        self.replica_id = self.new_token()
        self._replica = replica
        self.has_taken_over = not replica
        """What a replica of this name had claimed before it was killed is given back. Until then nothing is claimed."""
        self._lanes = Lanes(slots=max_in_flight)
        self._most = max_in_flight * CLAIMED_PER_SLOT
        self._held: dict[Job, float] = {}
        self._aborts: dict[Flight, Callable[[], None]] = {}
        self._recording = Recording(record=self._record, lost=lambda result: self._let_go(result.job))
        self._permission = Permission()
        self._pumping = False
        self._stopping = False
        self._look = asyncio.Event()
        self._idle = asyncio.Event()
        self._back: list[Job] = []
        self._returned = asyncio.Event()
        # Renewing and recording lock the same rows in different orders.
        self._leases = asyncio.Lock()
        # What an older look has found is not acted on after what a later one has.
        self._looking = asyncio.Lock()
        self._recalled_at: datetime | None = None

    @property
    def room(self) -> int:
        """How many more deliveries may be claimed now."""
        return max(0, self._most - len(self._held)) if self.has_taken_over and not self._stopping else 0

    @property
    def held(self) -> int:
        """How many deliveries are claimed here and not recorded."""
        return len(self._held)

    def free(self, endpoint_ids: Iterable[UUID]) -> dict[UUID, int]:
        """How many more deliveries of each endpoint may be claimed now."""
        return {id_: self._free(id_) for id_ in endpoint_ids}

    def expect(self, endpoints: Iterable[Endpoint]) -> None:
        """Deliveries of these, as read under their lock, may be handed over soon: changes are watched from now on."""
        at = time.monotonic()
        for endpoint in endpoints:
            self._lanes.of(endpoint, at=at)

    def take(self, jobs: Iterable[Job], *, claimed_at: float) -> None:
        """Delivers what was claimed at that instant of the monotonic clock. Its endpoints were expected."""
        until = claimed_at + LEASE.total_seconds()
        for job in jobs:
            lane = self._lanes.get(job.endpoint_id)
            if lane is None or lane.deleted:
                continue
            self._held[job] = until
            self._lanes.put(job, lane)
        CLAIMED_NOW.set(len(self._held))
        self._pump_soon()

    def more_is_due(self, endpoint_ids: Iterable[UUID]) -> None:
        """Says that due deliveries of these endpoints were left unclaimed: looked for as soon as there is room."""
        for id_ in endpoint_ids:
            lane = self._lanes.get(id_)
            if lane is not None:
                lane.more_is_due = True
            self._look_if_low(id_)

    def wake(self) -> None:
        """Says that something may be due."""
        self._look.set()

    def forget(self, endpoint_id: UUID) -> None:
        """Nothing more is sent to a deleted endpoint, from this moment; what is under way is cut off."""
        lane = self._lanes.get(endpoint_id)
        if lane is None:
            return
        lane.deleted = True
        for flight in list(lane.flights):
            self._aborts.pop(flight, _nothing)()
            self._lanes.ended(flight, ok=False, down=False, at=time.monotonic())
            self._let_go(flight.job)
        for job in self._lanes.emptied(lane):
            self._let_go(job)
        self._pump_soon()

    async def look_again(self) -> None:
        """Looks at the endpoints held here, acts on what they are now, and confirms it: then requests may begin."""
        async with self._looking:
            for _ in range(2):
                began, seen_at = time.monotonic(), await self._look_at_all()
                if seen_at is None:
                    return
                if await presence.confirm(self._pool, self.replica_id, seen_at=seen_at):
                    self._permission.until = began + presence.MAY_SEND_SEC
                    self._pump_soon()
                    return

    async def _look_at_all(self) -> datetime | None:
        """Acts on what the endpoints are that have a lane; as of when. What got one meanwhile is looked at too.

        It may have been read before the look and be deleted by now. None: the lanes became more and more.
        """
        seen_at: datetime | None = None
        known: set[UUID] = set()
        for _ in range(LOOKS):
            asked = [id_ for id_ in self._lanes.ids() if id_ not in known]
            if seen_at is not None and not asked:
                return seen_at
            seen = await presence.look(self._pool, asked)
            self._act_on_seen(asked, seen)
            if seen.recalled_at != self._recalled_at:
                await self._renew(younger_too=True)
                self._recalled_at = seen.recalled_at
            seen_at = seen_at or seen.at
            known.update(asked)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until told to stop; finishes what is under way and gives back what is not begun."""
        drained = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recording.run(drained))
            group.create_task(self._give_back_until(drained))
            group.create_task(self._every(RENEW_EVERY_SEC, "renew leases", self._renew, drained))
            group.create_task(self._every(presence.LOOK_EVERY_SEC, "look", self.look_again, drained))
            group.create_task(self._grow_old(drained))
            group.create_task(self._note(stop))
            await self._take_over(stop)
            await self._claim_until(stop)
            await self._give_back([job for lane in self._lanes for job in self._lanes.emptied(lane)])
            await self._until_landed(seconds=10.0)
            drained.set()
        await self._leave()

    async def _leave(self) -> None:
        """Nobody has to look after what this process had. It is no matter if the database is away: all of it lapses."""
        try:
            await claims.look_again(self._pool, self._lanes.ids())
            await presence.leave(self._pool, self.replica_id)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("left_without_a_word", error=repr(error))

    async def _note(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True

    async def _until_landed(self, *, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            self._idle.clear()
            await until_set(self._idle, until - time.monotonic())

    async def _every(self, seconds: float, what: str, do: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while True:
            try:
                await do()
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("database_away", doing=what, error=repr(error))
            if await until_set(stop, seconds):
                return

    # --- claiming ---

    async def _take_over(self, stop: asyncio.Event) -> None:
        """Gives back what a replica of this name had claimed before it was killed."""
        until = time.monotonic() + NAME_IS_FREE_WITHIN_SEC
        while not self.has_taken_over and not stop.is_set():
            try:
                left = await leases.give_back_what_was_left(
                    self._pool, self._replica, replica_id=self.replica_id, lease=LEASE
                )
                if left is None and time.monotonic() > until:
                    log.critical("name_is_in_use", replica=self._replica)
                elif left is None:
                    await until_set(stop, ASK_EVERY_SEC)
                    continue
                self.has_taken_over = True
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("not_taken_over", error=repr(error))
                await until_set(stop, BACK_SOON_SEC)

    async def _claim_until(self, stop: asyncio.Event) -> None:
        failed = pauses(longest_sec=BACK_SOON_SEC)
        while not stop.is_set():
            self._look.clear()
            try:
                more = await self._claim() if self.room else False
                failed = pauses(longest_sec=BACK_SOON_SEC)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("claim_failed", error=repr(error))
                await until_set(stop, next(failed))
                continue
            if not more:
                await until_any(self._look, stop, seconds=LOOK_EVERY_SEC)

    async def _claim(self) -> bool:
        """Whether there is more to look at right now."""
        claimed_at, token = time.monotonic(), self.new_token()
        full = [lane.endpoint.id for lane in self._lanes if self._free(lane.endpoint.id) <= 0]
        async with self._pool.acquire() as connection, connection.transaction():
            found = await claims.ready(connection, full=full)
            if not found:
                return False
            self.expect(one.endpoint for one in found)
            free = self.free(one.endpoint.id for one in found)
            room = self.room
            jobs, probes = await claims.claim(
                connection, found, at_most=room, free=free, lease=LEASE, lease_token=token
            )
        counts: dict[UUID, int] = {}
        for job in jobs:
            counts[job.endpoint_id] = counts.get(job.endpoint_id, 0) + 1
        for one in found:
            lane = self._lanes.get(one.endpoint.id)
            if lane is None:
                continue
            # Not `of`: since the COMMIT a look may have seen what the endpoint is now.
            lane.more_is_due = counts.get(one.endpoint.id, 0) >= free[one.endpoint.id]
            if one.is_open:
                lane.lines = 1
        self.take([*jobs, *probes], claimed_at=claimed_at)
        return len(found) >= claims.ENDPOINTS_AT_ONCE and bool(jobs or probes) and self.room > 0

    def _free(self, endpoint_id: UUID) -> int:
        lane = self._lanes.get(endpoint_id)
        if lane is None:
            return CLAIMED_PER_ENDPOINT
        return (CLAIMED_PER_QUICK_ENDPOINT if lane.share == QUICK else CLAIMED_PER_ENDPOINT) - lane.claimed

    def _look_if_low(self, endpoint_id: UUID) -> None:
        lane = self._lanes.get(endpoint_id)
        if lane is None:
            self._look.set()
        elif lane.more_is_due and lane.claimed <= CLAIMED_PER_ENDPOINT // 2:
            lane.more_is_due = False
            self._look.set()

    # --- sending ---

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        at = time.monotonic()
        if self._stopping or not self._permission.holds(at):
            return
        began_at = now()
        at_unix = int(began_at.timestamp())
        while (flight := self._lanes.next(at)) is not None:
            job, endpoint = flight.job, flight.lane.endpoint
            if self._held.get(job, 0.0) <= at:
                self._lanes.ended(flight, ok=False, down=False, at=at)
                self._let_go(job)
                continue

            def done(outcome: Answer | Failure, flight: Flight = flight, endpoint: Endpoint = endpoint) -> None:
                self._aborts.pop(flight, None)
                result = result_of(flight.job, endpoint, outcome, began_at=began_at)
                down = breaker.says_down(result.failure_code) or result.status_code == 429
                self._lanes.ended(flight, ok=result.failure_code is None, down=down, at=time.monotonic())
                faults.point("deliver.answered")
                self._recording.put(result)
                self._pump_soon()

            content = payloads.marked_out_of_order(job.body) if job.out_of_order else job.body
            try:
                headers = sign.headers(
                    notification_id=notification_id(job.event_id),
                    content=content,
                    secrets=self._secrets.all_of(endpoint, at=began_at),
                    at_unix=at_unix,
                )
            except CannotOpen:
                log.exception("secret_does_not_open", endpoint_id=str(endpoint.id))
                self._lanes.ended(flight, ok=False, down=False, at=at)
                self._let_go(job)
                continue
            self._aborts[flight] = self._sender.start(endpoint.url, headers=headers, content=content, done=done)

    async def _grow_old(self, stop: asyncio.Event) -> None:
        while not await until_set(stop, 0.1):
            at = time.monotonic()
            self._lanes.grow_old(at)
            self._lanes.forget_idle(at)
            for share, count in zip(("quick", "new", "slow"), self._lanes.under_way, strict=True):
                UNDER_WAY.labels(share).set(count)
            self._pump_soon()

    # --- recording ---

    async def _record(self, results: Sequence[Result]) -> None:
        claimed_at, token = time.monotonic(), self.new_token()
        released: list[Job] = []
        async with self._leases, self._pool.acquire() as connection, connection.transaction():
            record = await queries.record(connection, results)
            if record.waited_for:
                ended = [results[n].job for n in record.waited_for]
                released = await queries.release(connection, ended, lease=LEASE, lease_token=token)
            well = [
                id_
                for id_, health in record.decided.healths.items()
                if health.recovered_at != record.before[id_].recovered_at
            ]
            if well:
                await queries.bring_forward(connection, well)
            await outbox.put_encoded(connection, told.events(results, record))
        faults.point("deliver.recorded")
        self._committed()
        for result in results:
            self._let_go(result.job)
        self._act_on(record)
        self.take(released, claimed_at=claimed_at)
        told.tell(results, record)

    def _act_on(self, record: queries.Record) -> None:
        """What this batch has decided about endpoints holds here at once; other replicas see it at their next look."""
        paused = {one.endpoint_id for one in record.paused}
        at = now()
        for id_, health in record.decided.healths.items():
            lane = self._lanes.get(id_)
            if lane is None:
                continue
            if health.recovered_at != record.before[id_].recovered_at:
                lane.start_slowly()
                self._look.set()
            if health.is_open or id_ in paused or (health.not_before is not None and health.not_before > at):
                self._give_back_soon(self._lanes.emptied(lane, but_probes=True))
            self._lanes.recorded(lane, downs=0 if health.is_open else health.failures_in_a_row)

    def _give_back_soon(self, jobs: Sequence[Job]) -> None:
        self._back.extend(jobs)
        self._returned.set()

    async def _give_back_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._returned.clear()
            jobs, self._back = self._back, []
            await self._give_back(jobs)
            await until_any(self._returned, stop, seconds=60)

    async def _give_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._let_go(job)
        if not jobs:
            return
        try:
            async with self._leases:
                await claims.give_back(self._pool, jobs)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("not_given_back", deliveries=len(jobs), error=repr(error))

    def _let_go(self, job: Job) -> None:
        if self._held.pop(job, None) is None:
            return
        self._lanes.let_go(job)
        self._look_if_low(job.endpoint_id)
        if not self._held:
            CLAIMED_NOW.set(0)
            self._idle.set()

    # --- leases, and what endpoints are now ---

    async def _renew(self, *, younger_too: bool = False) -> None:
        at = time.monotonic()
        before = at + LEASE.total_seconds() - (0.0 if younger_too else RENEW_EVERY_SEC)
        old = [job for job, until in self._held.items() if until <= before]
        if not old:
            return
        async with self._leases:
            renewed = set(await claims.renew(self._pool, old, lease=LEASE))
        for job in self._held.keys() & set(old):
            self._held[job] = at + LEASE.total_seconds() if job in renewed else 0.0

    def _act_on_seen(self, asked: Iterable[UUID], seen: Seen) -> None:
        at = time.monotonic()
        for id_ in asked:
            lane = self._lanes.get(id_)
            if lane is None or lane.deleted:
                continue
            if id_ not in seen.endpoints:
                self.forget(id_)
            elif id_ in seen.closed:
                self._give_back_soon(self._lanes.emptied(lane, but_probes=True))
            else:
                self._lanes.recorded(lane, downs=0)
                if lane.endpoint != seen.endpoints[id_]:
                    self._lanes.of(seen.endpoints[id_], at=at)


def _nothing() -> None:
    """For a request that is no longer under way."""
