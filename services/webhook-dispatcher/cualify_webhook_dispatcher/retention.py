"""How long what was sent is kept: bodies 7 days after the end, attempts and deliveries 30 days; erasure at once."""

from collections.abc import Sequence
from datetime import date, timedelta
from uuid import UUID

import asyncpg
import structlog

from cualify_shared.database import Pool
from cualify_webhook_dispatcher import presence

log = structlog.get_logger(__name__)

BODIES_KEPT = timedelta(days=7)
ATTEMPTS_KEPT_DAYS = 30
DELIVERIES_KEPT = timedelta(days=30)
"""Longer than the topic keeps events: a replayed topic then still finds what was delivered."""
DAYS_AHEAD = 3

# Who reads attempts for long, as a dump does, holds their lock; what is recorded would wait behind who waits for it.
WAIT_A_SECOND = """
SET LOCAL lock_timeout = '1s'
"""

BY_ONE_AT_A_TIME = """
SELECT pg_advisory_xact_lock(hashtextextended('days of attempts', 0))
"""


async def _change_days(pool: Pool, query: str, *arguments: object) -> int:
    """Makes or drops days, one replica after another; 0 if the lock was not to be had: the next minute will do."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(WAIT_A_SECOND)
            await connection.execute(BY_ONE_AT_A_TIME)
            return int(await connection.fetchval(query, *arguments))
    except asyncpg.LockNotAvailableError:
        log.info("days_of_attempts_are_locked")
        return 0


MAKE_PARTITIONS = """
SELECT count(*) FILTER (WHERE make_attempts_partition(day))
FROM unnest($1::date[]) AS day
"""


async def make_partitions(pool: Pool, *, today: date) -> int:
    """The partitions of attempts for today and the days ahead. How many were made."""
    return await _change_days(pool, MAKE_PARTITIONS, [today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)])


DROP_PARTITIONS = """
SELECT drop_attempts_partitions($1::date)
"""

DELETE_STRAYS = """
DELETE FROM attempts_other
WHERE at < $1::date
"""


async def drop_partitions(pool: Pool, *, today: date) -> int:
    """Drops the days that are past their time. How many."""
    before = today - timedelta(days=ATTEMPTS_KEPT_DAYS)
    await pool.execute(DELETE_STRAYS, before)
    return await _change_days(pool, DROP_PARTITIONS, before)


MASK_BODIES = """
WITH old AS MATERIALIZED (
    SELECT n.event_id, n.occurred_at
    FROM notifications n
    WHERE n.body IS NOT NULL AND n.occurred_at < now() - $1::interval
      AND NOT EXISTS (
          SELECT FROM endpoints e
          JOIN deliveries d ON d.endpoint_id = e.id AND d.event_id = n.event_id
          WHERE e.org_id = n.org_id AND (d.state = 'pending' OR d.finished_at > now() - $1::interval)
      )
    ORDER BY n.occurred_at
    LIMIT $2
),
cleaned AS (
    UPDATE attempts a
    SET response = NULL
    FROM old
    -- The hour is for clocks that differ. Earlier days' partitions are not looked into.
    WHERE a.event_id = old.event_id AND a.at > old.occurred_at - interval '1 hour' AND a.response IS NOT NULL
)
UPDATE notifications n
SET body = NULL
FROM old
WHERE n.event_id = old.event_id
RETURNING n.event_id
"""


async def mask_bodies(pool: Pool, *, at_most: int) -> int:
    """Forgets the bodies of events whose deliveries have all ended long enough ago, and of their answers. How many."""
    return len(await pool.fetch(MASK_BODIES, BODIES_KEPT, at_most))


FORGET_DELIVERIES = """
WITH old AS MATERIALIZED (
    SELECT n.event_id, n.org_id
    FROM notifications n
    WHERE n.body IS NULL AND n.occurred_at < now() - $1::interval
      AND NOT EXISTS (
          SELECT FROM endpoints e
          JOIN deliveries d ON d.endpoint_id = e.id AND d.event_id = n.event_id
          WHERE e.org_id = n.org_id AND (d.state = 'pending' OR d.finished_at > now() - $1::interval)
      )
    LIMIT $2
),
forgotten AS (
    DELETE FROM deliveries d
    USING old, endpoints e
    WHERE e.org_id = old.org_id AND d.endpoint_id = e.id AND d.event_id = old.event_id
)
DELETE FROM notifications n
USING old
WHERE n.event_id = old.event_id
RETURNING n.event_id
"""


async def forget_deliveries(pool: Pool, *, at_most: int) -> int:
    """Removes deliveries that ended long ago, with their events. How many events."""
    return len(await pool.fetch(FORGET_DELIVERIES, DELIVERIES_KEPT, at_most))


OF_THE_CALLEE = """
SELECT event_id
FROM notifications
WHERE org_id = $1 AND (subject_id = ANY($2::uuid[]) OR position(convert_to($3::text, 'UTF8') IN body) > 0)
"""

LOCK_ENDPOINTS = """
SELECT id
FROM endpoints
WHERE org_id = $1 AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""

EXPUNGE = """
WITH hit AS MATERIALIZED (
    SELECT event_id
    FROM unnest($2::uuid[]) AS h (event_id)
),
expunged AS (
    UPDATE notifications n
    SET body = NULL
    FROM hit
    WHERE n.event_id = hit.event_id AND n.body IS NOT NULL
    RETURNING n.event_id
),
ended AS (
    UPDATE deliveries d
    SET state = 'failed', finished_at = now(), lease_token = NULL
    FROM hit, endpoints e
    WHERE e.org_id = $1 AND d.endpoint_id = e.id AND d.event_id = hit.event_id AND d.state = 'pending'
    RETURNING d.event_id
),
cleaned AS (
    UPDATE attempts a
    SET response = NULL
    FROM hit
    WHERE a.event_id = hit.event_id AND a.response IS NOT NULL
)
SELECT (SELECT count(*) FROM expunged) AS payloads, (SELECT count(*) FROM ended) AS deliveries
"""


async def expunge(pool: Pool, *, org_id: UUID, call_ids: Sequence[UUID], e164: str | None) -> tuple[int, int]:
    """Erases what is stored about a callee: by calls, by the number, or both.

    What was still to be sent is not sent any more. Returns how many payloads were erased and how many deliveries ended.
    """
    # No number: a needle that no JSON text contains.
    needle = f'"{e164}"' if e164 else "\x01"
    # Looking into every body takes its time and holds no lock; what is changed is locked as by everybody else.
    hit = [row["event_id"] for row in await pool.fetch(OF_THE_CALLEE, org_id, call_ids, needle)]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ENDPOINTS, org_id)
        row = await connection.fetchrow(EXPUNGE, org_id, hit)
        await presence.recall(connection)
    assert row is not None
    return row["payloads"], row["deliveries"]
