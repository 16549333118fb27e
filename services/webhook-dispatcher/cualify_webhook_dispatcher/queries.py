"""The SQL of deliveries in and results out, set-wise. Claims and leases are in `claims`.

Whoever inserts deliveries or records attempts locks the endpoints' rows first, in order of id. So for one endpoint
these happen one after another: an event that must wait for an earlier one is never overlooked when the earlier one
ends, and after a DELETE has committed nothing of that endpoint is inserted or recorded any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from cualify_shared.clock import now, unix_ms
from cualify_shared.database import Connection, Row
from cualify_webhook_dispatcher import decide
from cualify_webhook_dispatcher.breaker import Health
from cualify_webhook_dispatcher.decide import Decided
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Notification, Paused, Recorded, Result

LOCK_ENDPOINTS_OF_ORGS = """
SELECT id, org_id, url, secret_sealed, secret_key_id, old_secret_sealed, old_secret_key_id, old_secret_until,
       recovered_at
FROM endpoints
WHERE org_id = ANY($1::uuid[]) AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""


async def lock_endpoints_of_orgs(connection: Connection, org_ids: set[UUID]) -> dict[UUID, Endpoint]:
    """The endpoints of these orgs by their id, paused ones included."""
    return {row["id"]: endpoint_of(row) for row in await connection.fetch(LOCK_ENDPOINTS_OF_ORGS, list(org_ids))}


INSERT_DELIVERIES = """
WITH arrived AS (
    SELECT event_id, org_id, subject_id, type, sequence, to_timestamp(occurred_at_ms / 1000.0) AS occurred_at, body, n
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[], $7::bytea[])
         WITH ORDINALITY AS a (event_id, org_id, subject_id, type, sequence, occurred_at_ms, body, n)
),
wanted AS MATERIALIZED (
    SELECT DISTINCT ON (a.event_id, e.id) a.*, e.id AS endpoint_id, e.not_before,
           CASE WHEN e.active AND e.opened_at IS NULL AND (e.not_before IS NULL OR e.not_before <= now())
                THEN f.free ELSE 0 END AS free
    FROM arrived a
    JOIN endpoints e ON e.org_id = a.org_id AND e.deleted_at IS NULL AND e.created_at <= a.occurred_at
                    AND CASE WHEN a.occurred_at < e.events_changed_at THEN e.events_before ELSE e.events END
                        && ARRAY['*', a.type]
    JOIN unnest($8::uuid[], $9::integer[]) AS f (endpoint_id, free) ON f.endpoint_id = e.id
    -- No NOT EXISTS: as a join it once, by stale statistics, read all of an endpoint's deliveries for each event.
    WHERE (SELECT d.event_id FROM deliveries d WHERE d.endpoint_id = e.id AND d.event_id = a.event_id LIMIT 1) IS NULL
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
                 AND d.sequence < w.sequence AND d.replay_id IS NULL
           ) AS behind
    FROM wanted w
),
ranked AS (
    SELECT p.*, row_number() OVER (PARTITION BY endpoint_id, behind ORDER BY n) AS turn,
           row_number() OVER (PARTITION BY org_id, behind ORDER BY n) AS turn_of_org
    FROM placed p
),
chosen AS (
    SELECT r.*,
           NOT behind AND turn <= free
           AND row_number() OVER (ORDER BY behind OR turn > free, turn_of_org, n) <= $10::integer AS claimed
    FROM ranked r
),
timed AS (
    SELECT c.*,
           now() + CASE WHEN behind THEN interval '10 minutes' WHEN claimed THEN $11::interval ELSE interval '0' END
           AS due_at
    FROM chosen c
),
listed AS (
    UPDATE endpoints e
    SET next_due_at = t.at
    FROM (
        SELECT endpoint_id, greatest(min(due_at), min(not_before)) AS at
        FROM timed
        GROUP BY endpoint_id
    ) t
    WHERE e.id = t.endpoint_id AND (e.next_due_at IS NULL OR e.next_due_at > t.at)
)
INSERT INTO deliveries (event_id, endpoint_id, subject_id, sequence, behind, due_at, lease_token)
SELECT event_id, endpoint_id, subject_id, sequence, behind, due_at, CASE WHEN claimed THEN $12::uuid END
FROM timed
ON CONFLICT ON CONSTRAINT an_event_goes_to_an_endpoint_once DO NOTHING
RETURNING event_id, endpoint_id, behind, lease_token IS NOT NULL AS claimed
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
    Returns `event_id, endpoint_id, behind, claimed` of each that is new.
    """
    return await connection.fetch(
        INSERT_DELIVERIES,
        *arrays_of(notifications),
        list(free),
        list(free.values()),
        room,
        lease,
        lease_token,
    )


def arrays_of(notifications: Sequence[Notification]) -> list[list[Any]]:
    """The first seven parameters of `INSERT_DELIVERIES`."""
    return [
        [n.event_id for n in notifications],
        [n.org_id for n in notifications],
        [n.subject_id for n in notifications],
        [n.type for n in notifications],
        [n.sequence for n in notifications],
        [unix_ms(n.occurred_at) for n in notifications],
        [n.body for n in notifications],
    ]


LOCK_ENDPOINTS = """
SELECT id, org_id, active, failures_in_a_row, failing_since, opened_at, probes, not_before, recovered_at
FROM endpoints
WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL
ORDER BY id
FOR NO KEY UPDATE
"""

RECORD = """
WITH result AS (
    SELECT event_id, endpoint_id, lease_token, state, again_in_sec, burned, asked, to_timestamp(at_ms / 1000.0) AS at,
           duration_ms, status_code, failure_code, response, n
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::float8[], $6::boolean[], $7::boolean[],
                $8::bigint[], $9::integer[], $10::integer[], $11::text[], $12::bytea[])
         WITH ORDINALITY AS r (event_id, endpoint_id, lease_token, state, again_in_sec, burned, asked, at_ms,
                               duration_ms, status_code, failure_code, response, n)
),
recorded AS (
    UPDATE deliveries d
    SET state = r.state,
        attempts = d.attempts + 1,
        burned = d.burned + r.burned::integer,
        due_at = now() + make_interval(secs => r.again_in_sec),
        asked_until = CASE WHEN r.asked THEN now() + make_interval(secs => r.again_in_sec) END,
        lease_token = NULL,
        finished_at = CASE WHEN r.state <> 'pending' THEN now() END
    FROM result r
    JOIN endpoints e ON e.id = r.endpoint_id AND e.deleted_at IS NULL
    WHERE d.event_id = r.event_id AND d.endpoint_id = r.endpoint_id AND d.lease_token = r.lease_token
    RETURNING r.n, d.event_id, d.endpoint_id, d.subject_id, d.sequence, d.state, d.attempts, d.due_at, r.at,
              r.duration_ms, r.status_code, r.failure_code, r.response
),
kept AS (
    INSERT INTO attempts (event_id, endpoint_id, n, at, duration_ms, status_code, failure_code, response)
    SELECT event_id, endpoint_id, attempts, at, duration_ms, status_code, failure_code, response
    FROM recorded
),
health AS (
    SELECT *
    FROM unnest($13::uuid[], $14::integer[], $15::timestamptz[], $16::timestamptz[], $17::integer[],
                $18::timestamptz[], $19::timestamptz[], $20::text[])
         AS h (endpoint_id, failures_in_a_row, failing_since, opened_at, probes, not_before, recovered_at, paused)
),
told AS (
    UPDATE endpoints e
    SET event_sequence = e.event_sequence + s.events + (e.active AND h.paused IS NOT NULL)::integer,
        last_delivery_at = s.at,
        last_status = s.status_code,
        active = e.active AND h.paused IS NULL,
        paused_reason = CASE WHEN e.active THEN h.paused ELSE e.paused_reason END,
        failures_in_a_row = h.failures_in_a_row,
        failing_since = h.failing_since,
        opened_at = h.opened_at,
        probes = h.probes,
        not_before = h.not_before,
        recovered_at = h.recovered_at,
        next_due_at = CASE WHEN h.recovered_at IS DISTINCT FROM e.recovered_at THEN now()
                           WHEN h.not_before IS NULL AND s.due_at IS NULL THEN e.next_due_at
                           ELSE greatest(least(e.next_due_at, s.due_at), h.not_before) END
    FROM (
        SELECT endpoint_id, count(*) AS events, max(at) AS at,
               min(due_at) FILTER (WHERE state = 'pending') AS due_at,
               (array_agg(status_code ORDER BY at DESC))[1] AS status_code
        FROM recorded
        GROUP BY endpoint_id
    ) s
    JOIN health h ON h.endpoint_id = s.endpoint_id
    WHERE e.id = s.endpoint_id
    RETURNING e.id, e.event_sequence, e.active
)
SELECT r.n, r.endpoint_id, r.attempts, t.event_sequence, t.active,
       r.state <> 'pending' AND EXISTS (
           SELECT FROM deliveries f
           WHERE f.endpoint_id = r.endpoint_id AND f.subject_id = r.subject_id AND f.state = 'pending'
             AND f.sequence > r.sequence AND f.behind
       ) AS is_waited_for
FROM recorded r
JOIN told t ON t.id = r.endpoint_id
ORDER BY r.endpoint_id, r.n DESC
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What was recorded of a batch. `waited_for`: numbers of results that something else waits for."""

    recorded: list[Recorded]
    paused: list[Paused]
    waited_for: list[int]
    before: dict[UUID, Health]
    decided: Decided


async def record(connection: Connection, results: Sequence[Result]) -> Record:
    """Records attempts whose lease still holds; what the others did is somebody else's to tell."""
    jobs = [result.job for result in results]
    locked = {row["id"]: row for row in await connection.fetch(LOCK_ENDPOINTS, list({job.endpoint_id for job in jobs}))}
    before = {id_: _health(row) for id_, row in locked.items()}
    decided = decide.decide(results, before, now=now())
    healths = list(decided.healths.values())
    verdicts = decided.verdicts
    rows = await connection.fetch(
        RECORD,
        *names(jobs),
        [v.state for v in verdicts],
        [v.again_in_sec for v in verdicts],
        [v.burned for v in verdicts],
        [v.asked for v in verdicts],
        [unix_ms(r.at) for r in results],
        [r.duration_ms for r in results],
        [r.status_code for r in results],
        [r.failure_code for r in results],
        [r.response for r in results],
        list(decided.healths),
        [h.failures_in_a_row for h in healths],
        [h.failing_since for h in healths],
        [h.opened_at for h in healths],
        [h.probes for h in healths],
        [h.not_before for h in healths],
        [h.recovered_at for h in healths],
        [decided.paused.get(id_) for id_ in decided.healths],
    )
    recorded, paused = _numbered(rows, locked=locked, decided=decided)
    return Record(recorded, paused, [row["n"] - 1 for row in rows if row["is_waited_for"]], before, decided)


def _health(row: Row) -> Health:
    return Health(
        failures_in_a_row=row["failures_in_a_row"],
        failing_since=row["failing_since"],
        opened_at=row["opened_at"],
        probes=row["probes"],
        not_before=row["not_before"],
        recovered_at=row["recovered_at"],
    )


def _numbered(
    rows: Sequence[Row], *, locked: Mapping[UUID, Row], decided: Decided
) -> tuple[list[Recorded], list[Paused]]:
    """Counts each endpoint's sequence down from its new value: a pause has the last number, then the latest result."""
    recorded: list[Recorded] = []
    paused: list[Paused] = []
    next_of: dict[UUID, int] = {}
    for row in rows:
        id_, n = row["endpoint_id"], row["n"] - 1
        if id_ not in next_of:
            next_of[id_] = row["event_sequence"]
            if locked[id_]["active"] and not row["active"]:
                paused.append(Paused(id_, locked[id_]["org_id"], decided.paused[id_], row["event_sequence"]))
                next_of[id_] -= 1
        final = decided.verdicts[n].state != "pending"
        recorded.append(Recorded(n=n, attempt=row["attempts"], sequence=next_of[id_], final=final))
        next_of[id_] -= 1
    return recorded, paused


BRING_FORWARD = """
UPDATE deliveries
SET due_at = now() + CASE WHEN behind THEN interval '10 minutes' ELSE interval '0' END
WHERE endpoint_id = ANY($1::uuid[]) AND finished_at IS NULL AND lease_token IS NULL
  AND (behind OR (due_at > now() AND (asked_until IS NULL OR asked_until <= now())))
"""


async def bring_forward(connection: Connection, endpoint_ids: Sequence[UUID]) -> None:
    """What waited for its next attempt is due now: its endpoint is well again. The endpoints' rows are locked.

    What waits for an earlier event begins to wait anew: while nothing was sent, nothing could go before it.
    """
    await connection.execute(BRING_FORWARD, endpoint_ids)


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
),
timed AS (
    SELECT f.*, e.not_before,
           e.active AND e.opened_at IS NULL AND (e.not_before IS NULL OR e.not_before <= now()) AS goes
    FROM following f
    JOIN endpoints e ON e.id = f.endpoint_id AND e.deleted_at IS NULL
),
listed AS (
    UPDATE endpoints e
    SET next_due_at = t.at
    FROM (SELECT endpoint_id, greatest(now(), min(not_before)) AS at FROM timed WHERE NOT goes GROUP BY endpoint_id) t
    WHERE e.id = t.endpoint_id AND (e.next_due_at IS NULL OR e.next_due_at > t.at)
)
UPDATE deliveries d
SET behind = false,
    due_at = now() + CASE WHEN f.goes THEN $3::interval ELSE interval '0' END,
    lease_token = CASE WHEN f.goes THEN $4::uuid END
FROM timed f
JOIN notifications n ON n.event_id = f.event_id
WHERE d.event_id = f.event_id AND d.endpoint_id = f.endpoint_id AND d.behind AND d.state = 'pending'
RETURNING d.event_id, n.type, n.body, d.burned, d.created_at, d.out_of_order, d.lease_token, d.endpoint_id,
          d.replay_id IS NOT NULL AS low
"""


async def release(connection: Connection, ended: Sequence[Job], *, lease: timedelta, lease_token: UUID) -> list[Job]:
    """What waited for these to end, claimed. A statement after `record`, so that it sees what that has written."""
    event_ids, endpoint_ids, _ = names(ended)
    rows = await connection.fetch(RELEASE, event_ids, endpoint_ids, lease, lease_token)
    return [job_of(row, lease_token) for row in rows if row["lease_token"] is not None]


def names(jobs: Sequence[Job]) -> tuple[list[UUID], list[UUID], list[UUID]]:
    """Event, endpoint and lease of each."""
    return [j.event_id for j in jobs], [j.endpoint_id for j in jobs], [j.lease_token for j in jobs]


def endpoint_of(row: Row) -> Endpoint:
    """An endpoint from its row."""
    return Endpoint(
        row["id"],
        row["org_id"],
        row["url"],
        row["secret_sealed"],
        row["secret_key_id"],
        row["old_secret_sealed"],
        row["old_secret_key_id"],
        row["old_secret_until"],
        row["recovered_at"],
    )


def job_of(row: Row, lease_token: UUID, *, probe: bool = False) -> Job:
    """A claimed delivery from its row."""
    return Job(
        event_id=row["event_id"],
        type=row["type"],
        body=row["body"],
        endpoint_id=row["endpoint_id"],
        lease_token=lease_token,
        burned=row["burned"],
        created_at=row["created_at"],
        out_of_order=row["out_of_order"],
        low=row["low"],
        probe=probe,
    )
