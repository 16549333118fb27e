"""The SQL of endpoints and deliveries, set-wise, and what goes in and comes out.

Whoever inserts deliveries or records attempts locks the endpoints' rows first, in order of id. So for one endpoint
these happen one after another: an event that must wait for an earlier one is never overlooked when the earlier one
ends, and after a DELETE has committed nothing of that endpoint is inserted or recorded any more.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from cualify_shared.database import Connection, Pool, Row
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Notification, Paused, Recorded, Result

LOCK_ENDPOINTS_OF_ORGS = """
SELECT id, org_id, url, secret_sealed, secret_key_id, active
FROM endpoints
WHERE org_id = ANY($1::uuid[]) AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""


async def lock_endpoints_of_orgs(connection: Connection, org_ids: set[UUID]) -> dict[UUID, Endpoint]:
    """The endpoints of these orgs by their id, paused ones included."""
    return {
        row["id"]: _endpoint(row, row["id"]) for row in await connection.fetch(LOCK_ENDPOINTS_OF_ORGS, list(org_ids))
    }


INSERT_DELIVERIES = """
WITH arrived AS (
    SELECT event_id, org_id, subject_id, type, sequence, occurred_at, body, n
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::timestamptz[], $7::bytea[])
         WITH ORDINALITY AS a (event_id, org_id, subject_id, type, sequence, occurred_at, body, n)
),
wanted AS MATERIALIZED (
    SELECT DISTINCT ON (a.event_id, e.id) a.*, e.id AS endpoint_id, CASE WHEN e.active THEN f.free ELSE 0 END AS free
    FROM arrived a
    JOIN endpoints e ON e.org_id = a.org_id AND e.deleted_at IS NULL AND e.created_at <= a.occurred_at
                    AND e.events && ARRAY['*', a.type]
    JOIN unnest($8::uuid[], $9::integer[]) AS f (endpoint_id, free) ON f.endpoint_id = e.id
    WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.event_id = a.event_id AND d.endpoint_id = e.id)
    ORDER BY a.event_id, e.id
),
kept AS (
    INSERT INTO notifications (event_id, org_id, subject_id, type, sequence, occurred_at, body)
    SELECT DISTINCT ON (event_id) event_id, org_id, subject_id, type, sequence, occurred_at, body
    FROM wanted
    ORDER BY event_id
    ON CONFLICT (event_id) DO NOTHING
),
placed AS (
    SELECT w.*,
           row_number() OVER (PARTITION BY w.endpoint_id, w.subject_id ORDER BY w.sequence) > 1
           OR EXISTS (
               SELECT FROM deliveries d
               WHERE d.endpoint_id = w.endpoint_id AND d.subject_id = w.subject_id AND d.state = 'pending'
                 AND d.sequence < w.sequence
           ) AS behind
    FROM wanted w
),
ranked AS (
    SELECT p.*, row_number() OVER (PARTITION BY endpoint_id, behind ORDER BY n) AS turn
    FROM placed p
),
chosen AS (
    SELECT r.*,
           NOT behind AND turn <= free
           AND row_number() OVER (ORDER BY behind OR turn > free, turn, n) <= $10::integer AS claimed
    FROM ranked r
)
INSERT INTO deliveries (event_id, endpoint_id, subject_id, sequence, behind, due_at, lease_token)
SELECT event_id, endpoint_id, subject_id, sequence, behind,
       now() + CASE WHEN behind THEN interval '10 minutes' WHEN claimed THEN $11::interval ELSE interval '0' END,
       CASE WHEN claimed THEN $12::uuid END
FROM chosen
ON CONFLICT ON CONSTRAINT an_event_goes_to_an_endpoint_once DO NOTHING
RETURNING event_id, endpoint_id, behind, lease_token IS NOT NULL AS claimed, created_at
"""


async def insert_deliveries(
    connection: Connection,
    notifications: Sequence[Notification],
    *,
    free: Mapping[UUID, int],
    room: int,
    lease: timedelta,
    lease_token: UUID,
) -> list[Row]:
    """One delivery per notification and endpoint that was registered for it when it happened; nothing for those known.

    `free` says for each locked endpoint how many of them this process can take at once, `room` how many in all.
    Returns `event_id, endpoint_id, behind, claimed, created_at` of each that is new.
    """
    return await connection.fetch(
        INSERT_DELIVERIES,
        [n.event_id for n in notifications],
        [n.org_id for n in notifications],
        [n.subject_id for n in notifications],
        [n.type for n in notifications],
        [n.sequence for n in notifications],
        [n.occurred_at for n in notifications],
        [n.body for n in notifications],
        list(free),
        list(free.values()),
        room,
        lease,
        lease_token,
    )


CLAIM = """
WITH RECURSIVE backlog (endpoint_id) AS (
    (SELECT endpoint_id FROM deliveries WHERE state = 'pending' ORDER BY endpoint_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT d.endpoint_id FROM deliveries d
        WHERE d.state = 'pending' AND d.endpoint_id > b.endpoint_id
        ORDER BY d.endpoint_id LIMIT 1
    )
    FROM backlog b
    WHERE b.endpoint_id IS NOT NULL
),
ready AS MATERIALIZED (
    SELECT e.id, coalesce(f.free, $2::integer) AS free
    FROM backlog b
    JOIN endpoints e ON e.id = b.endpoint_id AND e.active AND e.deleted_at IS NULL
    LEFT JOIN unnest($3::uuid[], $4::integer[]) AS f (endpoint_id, free) ON f.endpoint_id = e.id
),
due AS MATERIALIZED (
    SELECT d.event_id, d.endpoint_id, d.due_at
    FROM ready r
    CROSS JOIN LATERAL (
        SELECT event_id, endpoint_id, due_at
        FROM deliveries
        WHERE endpoint_id = r.id AND state = 'pending' AND due_at <= now()
        ORDER BY due_at
        LIMIT greatest(r.free, 0)
        FOR UPDATE SKIP LOCKED
    ) d
),
chosen AS MATERIALIZED (
    SELECT event_id, endpoint_id
    FROM due
    ORDER BY row_number() OVER (PARTITION BY endpoint_id ORDER BY due_at), random()
    LIMIT $1
)
UPDATE deliveries d
SET due_at = now() + $5::interval, lease_token = $6::uuid, out_of_order = d.out_of_order OR d.behind, behind = false
FROM chosen c
JOIN notifications n ON n.event_id = c.event_id
JOIN endpoints e ON e.id = c.endpoint_id AND e.deleted_at IS NULL
WHERE d.event_id = c.event_id AND d.endpoint_id = c.endpoint_id
RETURNING d.event_id, n.type, n.body, d.burned, d.created_at, d.out_of_order,
          d.endpoint_id, e.org_id, e.url, e.secret_sealed, e.secret_key_id
"""


async def claim(
    pool: Pool, *, at_most: int, cap: int, free: Mapping[UUID, int], lease: timedelta, lease_token: UUID
) -> list[Job]:
    """Leases due deliveries, in turn endpoint by endpoint: `cap` of each, or what `free` says of those named there."""
    rows = await pool.fetch(CLAIM, at_most, cap, list(free), list(free.values()), lease, lease_token)
    return [_job(row, lease_token) for row in rows]


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
    rows = await pool.fetch(RENEW, *_names(jobs), lease)
    return [jobs[row["n"] - 1] for row in rows]


GIVE_BACK = """
UPDATE deliveries d
SET due_at = now(), lease_token = NULL
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS h (event_id, endpoint_id, lease_token)
WHERE d.event_id = h.event_id AND d.endpoint_id = h.endpoint_id AND d.lease_token = h.lease_token
"""


async def give_back(pool: Pool, jobs: Sequence[Job]) -> None:
    """Lets anybody claim what was claimed here and not begun."""
    await pool.execute(GIVE_BACK, *_names(jobs))


LOCK_ENDPOINTS = """
SELECT id, org_id, active
FROM endpoints
WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""

RECORD = """
WITH result AS (
    SELECT event_id, endpoint_id, lease_token, state, again_in_sec, burned, at, duration_ms, status_code,
           failure_code, gone, n
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::float8[], $6::boolean[], $7::timestamptz[],
                $8::integer[], $9::integer[], $10::text[], $11::boolean[])
         WITH ORDINALITY AS r (event_id, endpoint_id, lease_token, state, again_in_sec, burned, at, duration_ms,
                               status_code, failure_code, gone, n)
),
recorded AS (
    UPDATE deliveries d
    SET state = r.state,
        attempts = d.attempts + 1,
        burned = d.burned + r.burned::integer,
        due_at = now() + make_interval(secs => r.again_in_sec),
        lease_token = NULL,
        finished_at = CASE WHEN r.state <> 'pending' THEN now() END
    FROM result r
    JOIN endpoints e ON e.id = r.endpoint_id AND e.deleted_at IS NULL
    WHERE d.event_id = r.event_id AND d.endpoint_id = r.endpoint_id AND d.lease_token = r.lease_token
      AND d.state = 'pending'
    RETURNING r.n, d.event_id, d.endpoint_id, d.attempts, r.at, r.duration_ms, r.status_code, r.failure_code, r.gone
),
kept AS (
    INSERT INTO attempts (event_id, endpoint_id, n, at, duration_ms, status_code, failure_code)
    SELECT event_id, endpoint_id, attempts, at, duration_ms, status_code, failure_code
    FROM recorded
),
told AS (
    UPDATE endpoints e
    SET event_sequence = e.event_sequence + s.events + (e.active AND s.gone)::integer,
        last_delivery_at = s.at,
        last_status = s.status_code,
        active = e.active AND NOT s.gone,
        paused_reason = CASE WHEN e.active AND s.gone THEN 'gone' ELSE e.paused_reason END
    FROM (
        SELECT endpoint_id, count(*) AS events, max(at) AS at, bool_or(gone) AS gone,
               (array_agg(status_code ORDER BY at DESC))[1] AS status_code
        FROM recorded
        GROUP BY endpoint_id
    ) s
    WHERE e.id = s.endpoint_id
    RETURNING e.id, e.event_sequence, e.active, s.events
)
SELECT r.n, r.endpoint_id, r.attempts, t.event_sequence, t.active
FROM recorded r
JOIN told t ON t.id = r.endpoint_id
ORDER BY r.endpoint_id, r.n DESC
"""


async def record(connection: Connection, results: Sequence[Result]) -> tuple[list[Recorded], list[Paused]]:
    """Records attempts whose lease still holds; what the others did is somebody else's to tell."""
    jobs = [result.job for result in results]
    locked = {row["id"]: row for row in await connection.fetch(LOCK_ENDPOINTS, list({job.endpoint.id for job in jobs}))}
    rows = await connection.fetch(
        RECORD,
        *_names(jobs),
        [r.state for r in results],
        [r.again_in_sec for r in results],
        [r.burned for r in results],
        [r.at for r in results],
        [r.duration_ms for r in results],
        [r.status_code for r in results],
        [r.failure_code for r in results],
        [r.gone for r in results],
    )
    return _numbered(rows, was_active={id_: row["active"] for id_, row in locked.items()}, org_of=locked)


def _numbered(
    rows: Sequence[Row], *, was_active: Mapping[UUID, bool], org_of: Mapping[UUID, Any]
) -> tuple[list[Recorded], list[Paused]]:
    """Counts each endpoint's sequence down from its new value: a pause has the last number, then the latest result."""
    recorded: list[Recorded] = []
    paused: list[Paused] = []
    next_of: dict[UUID, int] = {}
    for row in rows:
        id_ = row["endpoint_id"]
        if id_ not in next_of:
            next_of[id_] = row["event_sequence"]
            if was_active[id_] and not row["active"]:
                paused.append(Paused(id_, org_of[id_]["org_id"], row["event_sequence"]))
                next_of[id_] -= 1
        recorded.append(Recorded(n=row["n"] - 1, attempt=row["attempts"], sequence=next_of[id_]))
        next_of[id_] -= 1
    return recorded, paused


RELEASE = """
WITH ended AS (
    SELECT DISTINCT d.endpoint_id, d.subject_id
    FROM unnest($1::uuid[], $2::uuid[]) AS r (event_id, endpoint_id)
    JOIN deliveries d ON d.event_id = r.event_id AND d.endpoint_id = r.endpoint_id AND d.state <> 'pending'
),
following AS MATERIALIZED (
    SELECT f.event_id, f.endpoint_id
    FROM ended x
    CROSS JOIN LATERAL (
        SELECT d.event_id, d.endpoint_id, d.behind
        FROM deliveries d
        WHERE d.endpoint_id = x.endpoint_id AND d.subject_id = x.subject_id AND d.state = 'pending'
        ORDER BY d.sequence
        LIMIT 1
    ) f
    WHERE f.behind
)
UPDATE deliveries d
SET behind = false,
    due_at = now() + CASE WHEN e.active THEN $3::interval ELSE interval '0' END,
    lease_token = CASE WHEN e.active THEN $4::uuid END
FROM following f
JOIN notifications n ON n.event_id = f.event_id
JOIN endpoints e ON e.id = f.endpoint_id AND e.deleted_at IS NULL
WHERE d.event_id = f.event_id AND d.endpoint_id = f.endpoint_id AND d.behind AND d.state = 'pending'
RETURNING d.event_id, n.type, n.body, d.burned, d.created_at, d.out_of_order, d.lease_token,
          d.endpoint_id, e.org_id, e.url, e.secret_sealed, e.secret_key_id
"""


async def release(connection: Connection, ended: Sequence[Job], *, lease: timedelta, lease_token: UUID) -> list[Job]:
    """What waited for these to end, claimed. A statement after `record`, so that it sees what came before the lock."""
    event_ids, endpoint_ids, _ = _names(ended)
    rows = await connection.fetch(RELEASE, event_ids, endpoint_ids, lease, lease_token)
    return [_job(row, lease_token) for row in rows if row["lease_token"] is not None]


def _names(jobs: Sequence[Job]) -> tuple[list[UUID], list[UUID], list[UUID]]:
    return [j.event_id for j in jobs], [j.endpoint.id for j in jobs], [j.lease_token for j in jobs]


def _endpoint(row: Row, endpoint_id: UUID) -> Endpoint:
    return Endpoint(endpoint_id, row["org_id"], row["url"], row["secret_sealed"], row["secret_key_id"])


def _job(row: Row, lease_token: UUID) -> Job:
    return Job(
        event_id=row["event_id"],
        type=row["type"],
        body=row["body"],
        endpoint=_endpoint(row, row["endpoint_id"]),
        lease_token=lease_token,
        burned=row["burned"],
        created_at=row["created_at"],
        out_of_order=row["out_of_order"],
    )
