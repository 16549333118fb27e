"""Claims and leases: the ready-list of endpoints, what is due of each, and what is given back.

`endpoints.next_due_at` says when somebody has to look at an endpoint. Whoever looks locks its row, takes what he can,
and sets it anew from what is left; whoever adds or puts off a delivery holds the same lock. So nothing that is due is
ever without a day on which it is looked for. An open breaker puts that day at its next probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from cualify_shared.database import Connection, Pool
from cualify_webhook_dispatcher.jobs import Endpoint, Job
from cualify_webhook_dispatcher.queries import endpoint_of, job_of, names

ENDPOINTS_AT_ONCE = 200
LOW_AT_ONCE = 16
"""Deliveries of replays that are claimed at once for one endpoint."""
PROBE_LEASE = timedelta(seconds=90)
"""If who probes dies, the next probe is due after so long; longer than the longest deadline."""

READY = """
SELECT id, org_id, url, secret_sealed, secret_key_id, old_secret_sealed, old_secret_key_id, old_secret_until,
       recovered_at,
       opened_at IS NOT NULL AS is_open
FROM endpoints
WHERE active AND deleted_at IS NULL AND next_due_at <= now() AND (not_before IS NULL OR not_before <= now())
  AND NOT id = ANY($1::uuid[])
ORDER BY next_due_at
LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""


@dataclass(frozen=True, slots=True)
class Ready:
    """An endpoint of which something may be due. With an open breaker one delivery is taken, as a probe."""

    endpoint: Endpoint
    is_open: bool


async def ready(connection: Connection, *, full: Sequence[UUID]) -> list[Ready]:
    """Locks the endpoints that are to be looked at, but those of which this process has enough."""
    rows = await connection.fetch(READY, full, ENDPOINTS_AT_ONCE)
    return [Ready(endpoint_of(row), row["is_open"]) for row in rows]


CLAIM = """
WITH ready AS MATERIALIZED (
    SELECT r.id, r.org_id, r.free
    FROM unnest($2::uuid[], $3::uuid[], $4::integer[]) AS r (id, org_id, free)
),
due AS MATERIALIZED (
    SELECT r.org_id, d.event_id, d.endpoint_id, d.due_at, d.low
    FROM ready r
    CROSS JOIN LATERAL (
        (
            SELECT event_id, endpoint_id, due_at, false AS low
            FROM deliveries
            WHERE endpoint_id = r.id AND finished_at IS NULL AND (replay_id IS NOT NULL) = false AND due_at <= now()
            ORDER BY due_at
            LIMIT r.free
        )
        UNION ALL
        (
            SELECT event_id, endpoint_id, due_at, true
            FROM deliveries
            WHERE endpoint_id = r.id AND finished_at IS NULL AND (replay_id IS NOT NULL) = true AND due_at <= now()
            ORDER BY due_at
            LIMIT least(r.free, $5::integer)
        )
    ) d
),
chosen AS MATERIALIZED (
    SELECT event_id, endpoint_id
    FROM due
    ORDER BY low, row_number() OVER (PARTITION BY org_id, low ORDER BY due_at), random()
    LIMIT $1
)
UPDATE deliveries d
SET due_at = now() + $6::interval, lease_token = $7::uuid, out_of_order = d.out_of_order OR d.behind, behind = false
FROM chosen c
JOIN notifications n ON n.event_id = c.event_id
WHERE d.event_id = c.event_id AND d.endpoint_id = c.endpoint_id
RETURNING d.event_id, n.type, n.body, d.burned, d.created_at, d.out_of_order, d.endpoint_id,
          d.replay_id IS NOT NULL AS low
"""

PROBE = """
WITH chosen AS MATERIALIZED (
    SELECT p.event_id, p.endpoint_id
    FROM unnest($1::uuid[]) AS r (id)
    CROSS JOIN LATERAL (
        SELECT event_id, endpoint_id
        FROM deliveries
        WHERE endpoint_id = r.id AND finished_at IS NULL AND NOT behind AND (lease_token IS NULL OR due_at <= now())
          AND (asked_until IS NULL OR asked_until <= now())
        ORDER BY replay_id IS NOT NULL, due_at
        LIMIT 1
    ) p
)
UPDATE deliveries d
SET due_at = now() + $2::interval, lease_token = $3::uuid
FROM chosen c
JOIN notifications n ON n.event_id = c.event_id
WHERE d.event_id = c.event_id AND d.endpoint_id = c.endpoint_id
RETURNING d.event_id, n.type, n.body, d.burned, d.created_at, d.out_of_order, d.endpoint_id,
          d.replay_id IS NOT NULL AS low
"""

LOOK_AGAIN = """
UPDATE endpoints e
SET next_due_at = (
    SELECT greatest(min(at), CASE WHEN e.id = ANY($2::uuid[]) THEN now() + $3::interval ELSE e.not_before END)
    FROM (
        (SELECT due_at AS at FROM deliveries d
         WHERE d.endpoint_id = e.id AND d.finished_at IS NULL AND (d.replay_id IS NOT NULL) = false
         ORDER BY due_at LIMIT 1)
        UNION ALL
        (SELECT due_at FROM deliveries d
         WHERE d.endpoint_id = e.id AND d.finished_at IS NULL AND (d.replay_id IS NOT NULL) = true
         ORDER BY due_at LIMIT 1)
    ) pending
    HAVING min(at) IS NOT NULL
)
WHERE e.id = ANY($1::uuid[])
"""


async def claim(
    connection: Connection,
    found: Sequence[Ready],
    *,
    at_most: int,
    free: Mapping[UUID, int],
    lease: timedelta,
    lease_token: UUID,
) -> tuple[list[Job], list[Job]]:
    """Leases what is due of the locked endpoints, org by org in turn; `free` says how many of each may be taken.

    Returns the deliveries and, apart, the probes. Then sets when each endpoint is to be looked at next.
    """
    closed = [one.endpoint for one in found if not one.is_open]
    opened = [one.endpoint.id for one in found if one.is_open]
    jobs: list[Job] = []
    probes: list[Job] = []
    if closed and at_most > 0:
        ids, orgs = [one.id for one in closed], [one.org_id for one in closed]
        frees = [max(0, free[id_]) for id_ in ids]
        rows = await connection.fetch(CLAIM, at_most, ids, orgs, frees, LOW_AT_ONCE, lease, lease_token)
        jobs = [job_of(row, lease_token) for row in rows]
    if opened:
        probes = [
            job_of(row, lease_token, probe=True) for row in await connection.fetch(PROBE, opened, lease, lease_token)
        ]
    await connection.execute(
        LOOK_AGAIN, [one.endpoint.id for one in found], [job.endpoint_id for job in probes], PROBE_LEASE
    )
    return jobs, probes


RENEW = """
UPDATE deliveries d
SET due_at = now() + $4::interval
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS h (event_id, endpoint_id, lease_token, n)
JOIN endpoints e ON e.id = h.endpoint_id AND e.deleted_at IS NULL
WHERE d.event_id = h.event_id AND d.endpoint_id = h.endpoint_id AND d.lease_token = h.lease_token
RETURNING h.n
"""


async def renew(pool: Pool, jobs: Sequence[Job], *, lease: timedelta) -> list[Job]:
    """Extends leases; those that still hold. A lost lease or a deleted endpoint is not among them."""
    rows = await pool.fetch(RENEW, *names(jobs), lease)
    return [jobs[row["n"] - 1] for row in rows]


LOCK = """
SELECT id
FROM endpoints
WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""

GIVE_BACK = """
WITH back AS (
    UPDATE deliveries d
    SET due_at = now(), lease_token = NULL
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS h (event_id, endpoint_id, lease_token)
    WHERE d.event_id = h.event_id AND d.endpoint_id = h.endpoint_id AND d.lease_token = h.lease_token
    RETURNING d.endpoint_id
)
UPDATE endpoints e
SET next_due_at = greatest(least(e.next_due_at, now()), e.not_before)
WHERE e.id IN (SELECT endpoint_id FROM back)
"""


async def give_back(pool: Pool, jobs: Sequence[Job]) -> None:
    """Lets anybody claim what was claimed here and not begun."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK, list({job.endpoint_id for job in jobs}))
        await connection.execute(GIVE_BACK, *names(jobs))


async def look_again(pool: Pool, endpoint_ids: Sequence[UUID]) -> None:
    """Sets anew when these are to be looked at, from what they have pending."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK, endpoint_ids)
        await connection.execute(LOOK_AGAIN, endpoint_ids, [], PROBE_LEASE)


UNSCHEDULED = """
SELECT count(*)
FROM deliveries d
LEFT JOIN endpoints e ON e.id = d.endpoint_id
WHERE d.state = 'pending'
  AND e.deleted_at IS NULL
  AND (e.id IS NULL OR e.next_due_at IS NULL OR e.next_due_at > greatest(d.due_at, e.not_before) + interval '2 minutes')
"""

MEND_READY_LIST = """
UPDATE endpoints e
SET next_due_at = now()
WHERE e.deleted_at IS NULL
  AND EXISTS (
      SELECT FROM deliveries d
      WHERE d.endpoint_id = e.id AND d.state = 'pending'
        AND (e.next_due_at IS NULL OR e.next_due_at > greatest(d.due_at, e.not_before) + interval '2 minutes')
  )
RETURNING id
"""


async def unscheduled(pool: Pool) -> int:
    """Events that nobody would ever look for: without a finished, scheduled or paused delivery. Always 0."""
    return int(await pool.fetchval(UNSCHEDULED))


async def mend_ready_list(pool: Pool) -> int:
    """Puts such endpoints on the list all the same. How many; more than 0 is a bug that was made harmless."""
    return len(await pool.fetch(MEND_READY_LIST))
