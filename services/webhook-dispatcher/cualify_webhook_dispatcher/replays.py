"""Sending again what has ended: a durable job for one endpoint, by time, event, status or call.

A job goes through the endpoint's deliveries by event and puts those that match back to pending, a few at a time, under
its own id: they go in the lane's low-priority line, after everything that is new, under the same `webhook-id`. What it
has reached stands in its row in the same transaction, so it goes on after a crash, and can be paused or canceled.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import structlog

from cualify_shared.database import Pool, is_passing
from cualify_shared.ids import new_id
from cualify_shared.waiting import pauses, until_any, until_set
from cualify_webhook_dispatcher import presence

log = structlog.get_logger(__name__)

OUTSTANDING = 100
"""Deliveries of one replay that are pending at once."""
LOOK_EVERY_SEC = 1.0
Wish = Literal["pause", "resume", "cancel"]

START = """
INSERT INTO replays (id, org_id, endpoint_id, since, until, events, status, call_id)
SELECT $1, org_id, id, $4, $5, $6, $7, $8
FROM endpoints
WHERE org_id = $2 AND id = $3 AND deleted_at IS NULL
RETURNING id
"""


async def start(
    pool: Pool,
    *,
    org_id: UUID,
    endpoint_id: UUID,
    since: datetime,
    until: datetime,
    events: Sequence[str] | None,
    status: str | None,
    call_id: UUID | None,
) -> UUID | None:
    """A new job's id; None if the org has no such endpoint."""
    id_: UUID | None = await pool.fetchval(
        START, new_id(), org_id, endpoint_id, since, until, list(events) if events else None, status, call_id
    )
    return id_


SHOW = """
SELECT r.id, r.endpoint_id, r.since, r.until, r.events, r.status, r.call_id, r.state, r.scheduled, r.created_at,
       r.ended_at,
       (SELECT count(*) FROM deliveries d WHERE d.replay_id = r.id AND d.state = 'pending') AS pending,
       (SELECT count(*) FROM deliveries d WHERE d.replay_id = r.id AND d.state = 'delivered') AS delivered,
       (SELECT count(*) FROM deliveries d WHERE d.replay_id = r.id AND d.state = 'failed') AS failed
FROM replays r
WHERE r.org_id = $1 AND r.endpoint_id = $2 AND ($3::uuid IS NULL OR r.id = $3::uuid)
ORDER BY r.id DESC
LIMIT 100
"""


async def shown(pool: Pool, *, org_id: UUID, endpoint_id: UUID, replay_id: UUID | None = None) -> list[dict[str, Any]]:
    """An endpoint's latest jobs with their progress, or one of them."""
    return [dict(row) for row in await pool.fetch(SHOW, org_id, endpoint_id, replay_id)]


STEER = """
UPDATE replays
SET state = CASE $4::text WHEN 'pause' THEN 'paused' WHEN 'resume' THEN 'running' ELSE 'canceled' END,
    ended_at = CASE WHEN $4::text = 'cancel' THEN now() END
WHERE org_id = $1 AND endpoint_id = $2 AND id = $3 AND state IN ('running', 'paused')
RETURNING id
"""

CALL_BACK = """
UPDATE deliveries d
SET state = CASE WHEN EXISTS (
                SELECT FROM attempts a
                WHERE a.event_id = d.event_id AND a.endpoint_id = d.endpoint_id AND a.failure_code IS NULL
            ) THEN 'delivered' ELSE 'failed' END,
    finished_at = now(), lease_token = NULL, behind = false
WHERE d.replay_id = $1 AND d.state = 'pending'
"""


async def steer(pool: Pool, *, org_id: UUID, endpoint_id: UUID, replay_id: UUID, wish: Wish) -> bool:
    """Whether the org had such a job that was still under way. A canceled one's deliveries are not sent any more."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ENDPOINT, endpoint_id)
        if await connection.fetchval(STEER, org_id, endpoint_id, replay_id, wish) is None:
            return False
        if wish == "cancel":
            await connection.execute(CALL_BACK, replay_id)
            await presence.recall(connection)
    return True


UNDER_WAY = """
SELECT id, endpoint_id
FROM replays
WHERE state = 'running'
ORDER BY id
LIMIT 100
"""

LOCK_REPLAY = """
SELECT r.id, r.org_id, r.endpoint_id, r.since, r.until, r.events, r.status, r.call_id, r.after,
       e.id IS NOT NULL AS is_there,
       (SELECT count(*) FROM (
           SELECT FROM deliveries d WHERE d.replay_id = r.id AND d.state = 'pending' LIMIT 1000
       ) pending) AS outstanding
FROM replays r
LEFT JOIN endpoints e ON e.id = r.endpoint_id AND e.deleted_at IS NULL
WHERE r.id = $1 AND r.state = 'running'
FOR NO KEY UPDATE OF r
"""

LOCK_ENDPOINT = """
SELECT id
FROM endpoints
WHERE id = $1 AND deleted_at IS NULL
FOR NO KEY UPDATE
"""

SCHEDULE = """
WITH following AS MATERIALIZED (
    SELECT d.event_id, d.subject_id, d.sequence
    FROM deliveries d
    JOIN notifications n ON n.event_id = d.event_id AND n.body IS NOT NULL
    WHERE d.endpoint_id = $2 AND d.state <> 'pending' AND ($3::uuid IS NULL OR d.event_id > $3::uuid)
      AND n.occurred_at >= $4 AND n.occurred_at < $5
      AND ($6::text[] IS NULL OR n.type = ANY($6::text[]))
      AND ($7::text IS NULL OR d.state = $7::text)
      AND ($8::uuid IS NULL OR d.subject_id = $8::uuid)
    ORDER BY d.event_id
    LIMIT $9
),
placed AS (
    SELECT f.*,
           row_number() OVER (PARTITION BY subject_id ORDER BY sequence) > 1
           OR EXISTS (
               SELECT FROM deliveries p
               WHERE p.endpoint_id = $2 AND p.subject_id = f.subject_id AND p.state = 'pending'
                 AND p.sequence < f.sequence
           ) AS behind
    FROM following f
),
scheduled AS (
    UPDATE deliveries d
    SET state = 'pending', finished_at = NULL, burned = 0, replay_id = $1, behind = p.behind, asked_until = NULL,
        -- Its age counts anew, and with it how long Retry-After may put it off.
        created_at = now(),
        due_at = now() + CASE WHEN p.behind THEN interval '10 minutes' ELSE interval '0' END
    FROM placed p
    WHERE d.endpoint_id = $2 AND d.event_id = p.event_id
    RETURNING d.event_id
),
counted AS (
    SELECT count(*) AS scheduled, (array_agg(event_id ORDER BY event_id DESC))[1] AS last
    FROM following
),
listed AS (
    UPDATE endpoints e
    SET next_due_at = greatest(least(e.next_due_at, now()), e.not_before)
    WHERE e.id = $2
),
noted AS (
    UPDATE replays r
    SET after = coalesce(c.last, r.after),
        scheduled = r.scheduled + c.scheduled,
        state = CASE WHEN c.scheduled = 0 AND $10::boolean THEN 'done' ELSE r.state END,
        ended_at = CASE WHEN c.scheduled = 0 AND $10::boolean THEN now() END
    FROM counted c
    WHERE r.id = $1
)
SELECT scheduled
FROM counted
"""

END = """
UPDATE replays
SET state = 'canceled', ended_at = now()
WHERE id = $1
"""


async def go_on(pool: Pool, *, replay_id: UUID, endpoint_id: UUID) -> int:
    """Schedules a job's next deliveries as far as there is room. It is done when none is left and none is pending."""
    async with pool.acquire() as connection, connection.transaction():
        # The endpoint first, as everybody who adds deliveries does.
        await connection.execute(LOCK_ENDPOINT, endpoint_id)
        job = await connection.fetchrow(LOCK_REPLAY, replay_id)
        if job is None:
            return 0
        if not job["is_there"]:
            await connection.execute(END, replay_id)
            return 0
        room = OUTSTANDING - job["outstanding"]
        if room < OUTSTANDING // 2:
            return 0
        return int(
            await connection.fetchval(
                SCHEDULE,
                replay_id,
                job["endpoint_id"],
                job["after"],
                job["since"],
                job["until"],
                job["events"],
                job["status"],
                job["call_id"],
                room,
                job["outstanding"] == 0,
            )
        )


class Replaying:
    """The loop that has running jobs go on."""

    def __init__(self, *, pool: Pool, scheduled: Callable[[], None]) -> None:
        self._pool, self._scheduled = pool, scheduled
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Says that a job was started or resumed."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        failed = pauses()
        while not stop.is_set():
            self._woken.clear()
            try:
                for row in await self._pool.fetch(UNDER_WAY):
                    if await go_on(self._pool, replay_id=row["id"], endpoint_id=row["endpoint_id"]):
                        self._scheduled()
                failed = pauses()
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("replays_failed", error=repr(error))
                await until_set(stop, next(failed))
                continue
            await until_any(self._woken, stop, seconds=LOOK_EVERY_SEC)
