"""Delivers: signs, sends, records. Claimed deliveries wait here for a free line to their endpoint, a few each.

Safe to kill at any moment: a delivery whose process died is sent again when its lease passes, under the same id. A
lease is short and is renewed while its delivery is held here: a dead process's deliveries are late by seconds.
"""

import asyncio
import time
from collections import Counter as Counted
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from cualify_shared import faults, outbox
from cualify_shared.batch import MicroBatch
from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.events.envelope import Event
from cualify_shared.events.model import EventData
from cualify_shared.events.webhook import WebhookAttemptFailed, WebhookDelivered, WebhookEndpointPaused
from cualify_shared.ids import new_id, notification_id
from cualify_shared.waiting import pauses, until_any, until_set
from cualify_shared.work import Worker
from cualify_webhook_dispatcher import endpoints, failures, payloads, queries, schedule, sign
from cualify_webhook_dispatcher.jobs import Job, Paused, Recorded, Result
from cualify_webhook_dispatcher.schedule import Again, GivenUp
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Answer, Failure, Sender

log = structlog.get_logger(__name__)

LINES_PER_ENDPOINT = 8
"""Requests to one endpoint at once, so that a slow one does not take every line there is."""
CLAIMED_PER_ENDPOINT = 64
"""Deliveries of one endpoint that one process claims at once: enough to keep its lines busy between two claims."""
CLAIMED_PER_LINE = 10
LEASE = timedelta(seconds=8)
RENEW_EVERY_SEC = 2.0
RECORD_WITHIN_SEC = 120.0
SWEEP_EVERY_SEC = 60.0
SWEEP_BATCH = 5000

DELIVERIES = Counter(
    "cualify_deliveries_total", "Attempts by how they ended: delivered, or the failure's code.", ["outcome"]
)
CLAIMED_NOW = Gauge("cualify_deliveries_claimed", "Deliveries that this process has claimed and not finished.")


@dataclass(slots=True)
class _Lane:
    """What this process holds of one endpoint."""

    lines: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LINES_PER_ENDPOINT))
    claimed: int = 0
    deleted: bool = False
    more_is_due: bool = False


class Deliver:
    """The worker of deliveries. `take` gets those that were born claimed; `run` looks for the rest."""

    def __init__(
        self, *, pool: Pool, sender: Sender, secrets: Secrets, max_in_flight: int, committed: Callable[[], None]
    ) -> None:
        self._pool, self._sender, self._secrets, self._committed = pool, sender, secrets, committed
        self._lines = asyncio.Semaphore(max_in_flight)
        self._lanes: dict[UUID, _Lane] = {}
        self._held: dict[Job, float] = {}
        self._unbegun: set[Job] = set()
        self._stopping = False
        self._swept = asyncio.Event()
        self._worker = Worker[Job](
            "deliver", claim=self._claim, do=self._do, at_once=max_in_flight * CLAIMED_PER_LINE, poll_sec=0.5
        )
        self._results = MicroBatch[Result, None]("deliver record", self._record, max_size=500)

    @property
    def room(self) -> int:
        """How many more deliveries may be claimed now."""
        return 0 if self._stopping else self._worker.room

    def free(self, endpoint_ids: Iterable[UUID]) -> dict[UUID, int]:
        """How many more deliveries of each endpoint may be claimed now."""
        lanes = self._lanes
        return {id_: CLAIMED_PER_ENDPOINT - (lanes[id_].claimed if id_ in lanes else 0) for id_ in endpoint_ids}

    def take(self, jobs: Iterable[Job], *, claimed_at: float) -> None:
        """Delivers what was claimed at that instant of the monotonic clock."""
        for job in jobs:
            self._hold(job, claimed_at)
            self._worker.take(job)

    def more_is_due(self, endpoint_ids: Iterable[UUID]) -> None:
        """Says that due deliveries of these endpoints were left unclaimed: looked for as soon as there is room."""
        for id_ in endpoint_ids:
            if id_ in self._lanes:
                self._lanes[id_].more_is_due = True
                self._look_if_low(id_)
            else:
                self._worker.wake()

    def forget(self, endpoint_id: UUID) -> None:
        """Nothing more is sent to a deleted endpoint, from this moment."""
        if endpoint_id in self._lanes:
            self._lanes[endpoint_id].deleted = True
        self._swept.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until told to stop; finishes what is under way and gives back what is not begun."""
        drained = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._results.run(drained))
            group.create_task(self._renew_leases(drained))
            group.create_task(self._note(stop))
            await self._worker.run(stop)
            if self._unbegun:
                await queries.give_back(self._pool, list(self._unbegun))
            drained.set()

    async def sweep(self, stop: asyncio.Event) -> None:
        """Removes what was to go to deleted endpoints, until told to stop."""
        for pause in pauses():
            if stop.is_set():
                return
            try:
                await self._sweep_until(stop)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("sweep_failed", error=repr(error))
                await until_set(stop, pause)

    async def _sweep_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._swept.clear()
            if await endpoints.sweep(self._pool, at_most=SWEEP_BATCH) < SWEEP_BATCH:
                await until_any(self._swept, stop, seconds=SWEEP_EVERY_SEC)

    async def _note(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True

    async def _claim(self, room: int) -> Sequence[Job]:
        claimed_at = time.monotonic()
        free = self.free(self._lanes)
        jobs = await queries.claim(
            self._pool, at_most=room, cap=CLAIMED_PER_ENDPOINT, free=free, lease=LEASE, lease_token=new_id()
        )
        for job in jobs:
            self._hold(job, claimed_at)
        for id_, count in Counted(job.endpoint.id for job in jobs).items():
            self._lanes[id_].more_is_due = count >= free.get(id_, CLAIMED_PER_ENDPOINT)
            self._look_if_low(id_)
        return jobs

    def _hold(self, job: Job, claimed_at: float) -> None:
        self._held[job] = claimed_at + LEASE.total_seconds()
        self._unbegun.add(job)
        self._lanes.setdefault(job.endpoint.id, _Lane()).claimed += 1
        CLAIMED_NOW.set(len(self._held))

    def _let_go(self, job: Job) -> None:
        self._held.pop(job, None)
        CLAIMED_NOW.set(len(self._held))
        lane = self._lanes[job.endpoint.id]
        lane.claimed -= 1
        self._look_if_low(job.endpoint.id)
        if not lane.claimed:
            del self._lanes[job.endpoint.id]

    def _look_if_low(self, endpoint_id: UUID) -> None:
        lane = self._lanes[endpoint_id]
        if lane.more_is_due and lane.claimed <= CLAIMED_PER_ENDPOINT // 2:
            lane.more_is_due = False
            self._worker.wake()

    async def _do(self, job: Job) -> None:
        lane = self._lanes[job.endpoint.id]
        try:
            async with lane.lines, self._lines:
                if self._stopping:
                    return
                self._unbegun.discard(job)
                if lane.deleted or self._held[job] <= time.monotonic():
                    return
                at = now()
                outcome = await self._post(job, at_unix=int(at.timestamp()))
            faults.point("deliver.answered")
            await self._hand_in(result_of(job, outcome, began_at=at))
        finally:
            self._let_go(job)

    async def _post(self, job: Job, *, at_unix: int) -> Answer | Failure:
        endpoint = job.endpoint
        secret = self._secrets.open(
            endpoint.secret_sealed, key_id=endpoint.secret_key_id, endpoint_id=endpoint.id, org_id=endpoint.org_id
        )
        content = payloads.marked_out_of_order(job.body) if job.out_of_order else job.body
        headers = sign.headers(
            notification_id=notification_id(job.event_id), content=content, secrets=[secret], at_unix=at_unix
        )
        return await self._sender.post(endpoint.url, headers=headers, content=content)

    async def _hand_in(self, result: Result) -> None:
        """While the database is away the result is kept for a while: losing it means sending again what has arrived."""
        until = time.monotonic() + RECORD_WITHIN_SEC
        for pause in pauses(longest_sec=5.0):
            try:
                await self._results.submit(result)
                return
            except Exception as error:
                if not is_passing(error) or time.monotonic() > until:
                    raise
            await asyncio.sleep(pause)

    async def _record(self, results: Sequence[Result]) -> Sequence[None]:
        claimed_at, token = time.monotonic(), new_id()
        async with self._pool.acquire() as connection, connection.transaction():
            recorded, paused = await queries.record(connection, results)
            ended = [results[r.n].job for r in recorded if results[r.n].state != "pending"]
            released = await queries.release(connection, ended, lease=LEASE, lease_token=token) if ended else []
            events = [_event(results[r.n], r) for r in reversed(recorded)] + [_paused_event(p) for p in paused]
            await outbox.put(connection, events)
        faults.point("deliver.recorded")
        self._committed()
        self.take(released, claimed_at=claimed_at)
        for one in recorded:
            _tell(results[one.n], one)
        for one_paused in paused:
            ids = {"endpoint_id": str(one_paused.endpoint_id), "org_id": str(one_paused.org_id)}
            log.warning("endpoint_paused", reason="gone", **ids)
        return [None] * len(results)

    async def _renew_leases(self, drained: asyncio.Event) -> None:
        while not await until_set(drained, RENEW_EVERY_SEC):
            at = time.monotonic()
            old = [job for job, until in self._held.items() if until < at + LEASE.total_seconds() - RENEW_EVERY_SEC]
            try:
                renewed = await queries.renew(self._pool, old, lease=LEASE) if old else []
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("leases_not_renewed", error=repr(error))
                continue
            lost = set(old) - set(renewed)
            for job in self._held.keys() & set(old):
                self._held[job] = 0.0 if job in lost else at + LEASE.total_seconds()


def result_of(job: Job, outcome: Answer | Failure, *, began_at: datetime) -> Result:
    """What an attempt's outcome means for its delivery."""
    status: int | None
    code: str | None
    match outcome:
        case Answer():
            status, code = outcome.status, failures.of_status(outcome.status)
            asked = schedule.retry_after_sec(outcome.retry_after, now=now()) if outcome.retry_after else None
        case Failure():
            status, code, asked = None, outcome.code, None
        case _:
            assert_never(outcome)
    following = (
        None
        if code is None
        else schedule.after_failure(burned=job.burned, age=began_at - job.created_at, retry_after_sec=asked)
    )
    return Result(
        job=job,
        state="delivered" if following is None else "failed" if isinstance(following, GivenUp) else "pending",
        at=began_at,
        duration_ms=int(outcome.duration.total_seconds() * 1000),
        status_code=status,
        failure_code=code,
        again_in_sec=following.in_sec if isinstance(following, Again) else 0.0,
        burned=following.burned if isinstance(following, Again) else True,
        gone=status == 410,
    )


def _event(result: Result, recorded: Recorded) -> Event:
    endpoint = result.job.endpoint
    data: WebhookDelivered | WebhookAttemptFailed
    if result.failure_code is None and result.status_code is not None:
        data = WebhookDelivered(
            endpoint_id=endpoint.id,
            org_id=endpoint.org_id,
            event_id=result.job.event_id,
            event_type=result.job.type,
            attempt=recorded.attempt,
            status_code=result.status_code,
            duration_ms=result.duration_ms,
        )
    else:
        data = WebhookAttemptFailed(
            endpoint_id=endpoint.id,
            org_id=endpoint.org_id,
            event_id=result.job.event_id,
            event_type=result.job.type,
            attempt=recorded.attempt,
            failure_code=result.failure_code or "",
            status_code=result.status_code,
            duration_ms=result.duration_ms,
            final=result.state == "failed",
        )
    return _about_endpoint(data, endpoint.id, endpoint.org_id, recorded.sequence)


def _paused_event(paused: Paused) -> Event:
    data = WebhookEndpointPaused(endpoint_id=paused.endpoint_id, org_id=paused.org_id, reason="gone")
    return _about_endpoint(data, paused.endpoint_id, paused.org_id, paused.sequence)


def _about_endpoint(data: EventData, endpoint_id: UUID, org_id: UUID, sequence: int) -> Event:
    return Event(data=data, org_id=org_id, key=endpoint_id, subject=f"endpoint/{endpoint_id}", sequence=sequence)


def _tell(result: Result, recorded: Recorded) -> None:
    DELIVERIES.labels(result.failure_code or "delivered").inc()
    job = result.job
    log.info(
        "webhook_delivered" if result.state == "delivered" else "webhook_attempt_failed",
        org_id=str(job.endpoint.org_id),
        endpoint_id=str(job.endpoint.id),
        event_id=notification_id(job.event_id),
        event_type=job.type,
        attempt=recorded.attempt,
        status_code=result.status_code,
        failure_code=result.failure_code,
        duration_ms=result.duration_ms,
        final=result.state != "pending",
    )
