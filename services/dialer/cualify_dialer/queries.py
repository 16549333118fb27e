"""The dialer's SQL. Rows are locked in one order everywhere: jobs by call_id, then their attempts by ref."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_dialer.model import Attempt, AttemptState, Call, CallState
from cualify_shared.database import Connection, Row
from cualify_shared.events.call import CallCancelRequested, CallRequested

PUT_JOBS = """
INSERT INTO dial_jobs (call_id, org_id, state, request, to_e164, next_at, latest_at)
SELECT call_id, org_id, 'queued', request, to_e164, next_at, latest_at
FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::text[], $5::timestamptz[], $6::timestamptz[])
     AS new (call_id, org_id, request, to_e164, next_at, latest_at)
ORDER BY call_id
ON CONFLICT (call_id) DO UPDATE
SET state = 'queued',
    request = EXCLUDED.request,
    to_e164 = EXCLUDED.to_e164,
    next_at = EXCLUDED.next_at,
    latest_at = EXCLUDED.latest_at
WHERE dial_jobs.state = 'tombstone'
RETURNING call_id, cancel_requested_at
"""


async def put_jobs(connection: Connection, requests: Iterable[CallRequested]) -> dict[UUID, datetime | None]:
    """Queues calls that are new; returns them, and when their cancellation was asked for, if that came first."""
    new = list({request.call_id: request for request in requests}.values())
    rows = await connection.fetch(
        PUT_JOBS,
        [request.call_id for request in new],
        [request.org_id for request in new],
        [request.model_dump(mode="json") for request in new],
        [request.to_e164 for request in new],
        [request.earliest_at or request.requested_at for request in new],
        [request.latest_at for request in new],
    )
    return {row["call_id"]: row["cancel_requested_at"] for row in rows}


PUT_TOMBSTONES = """
INSERT INTO dial_jobs (call_id, org_id, state, cancel_requested_at)
SELECT call_id, org_id, 'tombstone', requested_at
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS wish (call_id, org_id, requested_at)
ORDER BY call_id
ON CONFLICT (call_id) DO NOTHING
"""


async def put_tombstones(connection: Connection, wishes: Sequence[CallCancelRequested]) -> None:
    """Keeps the wish to cancel a call that was not asked for yet: its request may still be on its way."""
    await connection.execute(
        PUT_TOMBSTONES,
        [wish.call_id for wish in wishes],
        [wish.org_id for wish in wishes],
        [wish.requested_at for wish in wishes],
    )


LOCK_JOBS = """
SELECT call_id, state, request, next_at, cancel_requested_at, event_sequence, artifact_sequence,
       status, ended_reason, ended_at
FROM dial_jobs
WHERE call_id = ANY($1::uuid[]) AND state <> 'tombstone'
ORDER BY call_id
FOR UPDATE
"""

LOCK_ATTEMPTS = """
SELECT call_id, number, ref, state, asked_at, look_up_at, empty_looks, execution_id, provider_status,
       started_at, disconnected_at, told, result, ended_at
FROM attempts
WHERE call_id = ANY($1::uuid[])
ORDER BY ref
FOR UPDATE
"""


async def locked_calls(connection: Connection, call_ids: Iterable[UUID]) -> dict[UUID, Call]:
    """The calls that there are among these, locked to the end of the transaction."""
    ids = sorted(set(call_ids))
    jobs = await connection.fetch(LOCK_JOBS, ids)
    attempts: dict[UUID, list[Attempt]] = {row["call_id"]: [] for row in jobs}
    for row in await connection.fetch(LOCK_ATTEMPTS, list(attempts)):
        attempts[row["call_id"]].append(_attempt(row))
    return {row["call_id"]: _call(row, attempts[row["call_id"]]) for row in jobs}


def _call(row: Row, attempts: Iterable[Attempt]) -> Call:
    return Call(
        request=CallRequested.model_validate(row["request"], extra="ignore"),
        state=CallState(row["state"]),
        next_at=row["next_at"],
        cancel_requested_at=row["cancel_requested_at"],
        event_sequence=row["event_sequence"],
        artifact_sequence=row["artifact_sequence"],
        status=row["status"],
        ended_reason=row["ended_reason"],
        ended_at=row["ended_at"],
        attempts=tuple(sorted(attempts, key=lambda attempt: attempt.number)),
    )


def _attempt(row: Row) -> Attempt:
    return Attempt(
        number=row["number"],
        ref=row["ref"],
        state=AttemptState(row["state"]),
        asked_at=row["asked_at"],
        look_up_at=row["look_up_at"],
        empty_looks=row["empty_looks"],
        execution_id=row["execution_id"],
        provider_status=row["provider_status"],
        started_at=row["started_at"],
        disconnected_at=row["disconnected_at"],
        told=frozenset(row["told"]),
        result=row["result"],
        ended_at=row["ended_at"],
    )


WRITE_JOBS = """
UPDATE dial_jobs
SET state = new.state,
    next_at = new.next_at,
    cancel_requested_at = new.cancel_requested_at,
    event_sequence = new.event_sequence,
    artifact_sequence = new.artifact_sequence,
    status = new.status,
    ended_reason = new.ended_reason,
    ended_at = new.ended_at
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[],
            $7::text[], $8::text[], $9::timestamptz[])
     AS new (call_id, state, next_at, cancel_requested_at, event_sequence, artifact_sequence,
             status, ended_reason, ended_at)
WHERE dial_jobs.call_id = new.call_id
"""


async def write_jobs(connection: Connection, calls: Sequence[Call]) -> None:
    """Writes calls that this transaction has locked."""
    await connection.execute(
        WRITE_JOBS,
        [call.call_id for call in calls],
        [call.state for call in calls],
        [call.next_at for call in calls],
        [call.cancel_requested_at for call in calls],
        [call.event_sequence for call in calls],
        [call.artifact_sequence for call in calls],
        [call.status for call in calls],
        [call.ended_reason for call in calls],
        [call.ended_at for call in calls],
    )


WRITE_ATTEMPTS = """
INSERT INTO attempts (ref, call_id, number, org_id, provider, to_e164, state, asked_at, look_up_at, empty_looks,
                      execution_id, provider_status, started_at, disconnected_at, told, result, ended_at)
SELECT *
FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::timestamptz[], $10::integer[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
            $15::jsonb[], $16::text[], $17::timestamptz[])
ON CONFLICT (ref) DO UPDATE
SET state = EXCLUDED.state,
    look_up_at = EXCLUDED.look_up_at,
    empty_looks = EXCLUDED.empty_looks,
    execution_id = EXCLUDED.execution_id,
    provider_status = EXCLUDED.provider_status,
    started_at = EXCLUDED.started_at,
    disconnected_at = EXCLUDED.disconnected_at,
    told = EXCLUDED.told,
    result = EXCLUDED.result,
    ended_at = EXCLUDED.ended_at
"""


async def write_attempts(connection: Connection, attempts: Sequence[tuple[Call, Attempt]]) -> None:
    """Writes new and changed attempts of calls that this transaction has locked."""
    await connection.execute(
        WRITE_ATTEMPTS,
        [attempt.ref for _, attempt in attempts],
        [call.call_id for call, _ in attempts],
        [attempt.number for _, attempt in attempts],
        [call.request.org_id for call, _ in attempts],
        [call.request.provider for call, _ in attempts],
        [call.request.to_e164 for call, _ in attempts],
        [attempt.state for _, attempt in attempts],
        [attempt.asked_at for _, attempt in attempts],
        [attempt.look_up_at for _, attempt in attempts],
        [attempt.empty_looks for _, attempt in attempts],
        [attempt.execution_id for _, attempt in attempts],
        [attempt.provider_status for _, attempt in attempts],
        [attempt.started_at for _, attempt in attempts],
        [attempt.disconnected_at for _, attempt in attempts],
        [dict.fromkeys(sorted(attempt.told), True) for _, attempt in attempts],
        [attempt.result for _, attempt in attempts],
        [attempt.ended_at for _, attempt in attempts],
    )


DIALING_LOCK = 0x6469616C
"""Advisory lock of the claim: one replica at a time counts free lines and takes numbers, for milliseconds."""

LOCK_DIALING = """
SELECT pg_advisory_xact_lock($1::bigint)
"""

COUNT_BUSY_LINES = """
SELECT count(*)
FROM attempts
WHERE state IN ('asking', 'unknown', 'accepted', 'in_progress')
"""

EXPIRED = """
SELECT call_id
FROM dial_jobs
WHERE state = 'queued' AND latest_at <= $1::timestamptz
ORDER BY latest_at
LIMIT $2::integer
FOR UPDATE SKIP LOCKED
"""

DUE = """
WITH RECURSIVE orgs AS (
    (SELECT org_id FROM dial_jobs WHERE state = 'queued' ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT another.org_id
    FROM orgs
    CROSS JOIN LATERAL (
        SELECT org_id FROM dial_jobs WHERE state = 'queued' AND org_id > orgs.org_id ORDER BY org_id LIMIT 1
    ) AS another
),
turns AS (
    SELECT job.call_id,
           job.next_at,
           open.calls + row_number() OVER (PARTITION BY orgs.org_id ORDER BY job.next_at, job.call_id) AS turn
    FROM orgs
    CROSS JOIN LATERAL (
        SELECT count(*) AS calls FROM attempts WHERE org_id = orgs.org_id AND state <> 'ended'
    ) AS open
    CROSS JOIN LATERAL (
        SELECT call_id, next_at
        FROM dial_jobs AS waiting
        WHERE state = 'queued'
          AND org_id = orgs.org_id
          AND next_at <= $1::timestamptz
          AND NOT EXISTS (SELECT FROM attempts WHERE to_e164 = waiting.to_e164 AND state <> 'ended')
        ORDER BY next_at, call_id
        LIMIT $2::integer
    ) AS job
)
SELECT call_id
FROM dial_jobs
JOIN turns USING (call_id)
WHERE dial_jobs.state = 'queued'
ORDER BY turns.turn, turns.next_at, call_id
LIMIT $2::integer
FOR UPDATE OF dial_jobs SKIP LOCKED
"""


async def lock_dialing(connection: Connection) -> None:
    """Makes this transaction the only one that dials."""
    await connection.execute(LOCK_DIALING, DIALING_LOCK)


async def busy_lines(connection: Connection) -> int:
    """Lines at the provider that are in use, or may be."""
    count: int = await connection.fetchval(COUNT_BUSY_LINES)
    return count


async def expired_jobs(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Jobs that waited too long, locked."""
    return [row["call_id"] for row in await connection.fetch(EXPIRED, now, limit)]


async def due_jobs(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Whose turn it is, locked: the next line goes to the org that has the fewest, whoever queued most or first."""
    return [row["call_id"] for row in await connection.fetch(DUE, now, limit)]


CLAIM_LOOK_UPS = """
WITH due AS (
    SELECT ref
    FROM attempts
    WHERE state <> 'ended' AND look_up_at <= $1::timestamptz
    ORDER BY look_up_at
    LIMIT $4::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE attempts
SET look_up_at = CASE WHEN attempts.execution_id IS NULL THEN $3::timestamptz ELSE $2::timestamptz END
FROM due, dial_jobs AS job
WHERE attempts.ref = due.ref AND job.call_id = attempts.call_id
RETURNING attempts.call_id, attempts.number, attempts.ref, attempts.provider, attempts.to_e164, attempts.asked_at,
          attempts.execution_id, attempts.look_up_at, attempts.org_id,
          job.request ->> 'provider_agent_id' AS agent_id, job.request ->> 'from_e164' AS from_e164
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An attempt to be looked up. `look_up_at` is the lease, and the fence."""

    call_id: UUID
    number: int
    ref: str
    provider: str
    to_e164: str
    asked_at: datetime
    execution_id: str | None
    look_up_at: datetime
    org_id: UUID
    agent_id: str
    from_e164: str | None


async def claim_look_ups(
    connection: Connection, *, now: datetime, reading_until: datetime, searching_until: datetime, limit: int
) -> list[Due]:
    """Attempts of which we want to hear, leased; longer where the execution has yet to be searched for."""
    rows = await connection.fetch(CLAIM_LOOK_UPS, now, reading_until, searching_until, limit)
    return [Due(**row) for row in rows]


PUT_PROVIDER_EVENTS = """
INSERT INTO provider_events (provider, body_sha256, body, execution_id, status, call_id)
SELECT *
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::text[], $6::uuid[])
ON CONFLICT ON CONSTRAINT a_provider_says_a_thing_once DO NOTHING
RETURNING body_sha256
"""

WHOSE = """
SELECT ref, execution_id, call_id, number
FROM attempts
WHERE ref = ANY($1::text[]) OR execution_id = ANY($2::text[])
"""


@dataclass(frozen=True, slots=True)
class Whose:
    """To which attempts callbacks belong."""

    by_ref: dict[str, tuple[UUID, int]]
    by_execution: dict[str, tuple[UUID, int]]


async def whose(connection: Connection, *, refs: Sequence[str], execution_ids: Sequence[str]) -> Whose:
    """Finds attempts by our references and by the provider's ids."""
    rows = await connection.fetch(WHOSE, refs, execution_ids)
    return Whose(
        by_ref={row["ref"]: (row["call_id"], row["number"]) for row in rows},
        by_execution={row["execution_id"]: (row["call_id"], row["number"]) for row in rows if row["execution_id"]},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A callback as it came, and whose it is, if anybody's."""

    provider: str
    sha256: bytes
    body: bytes
    execution_id: str | None
    status: str | None
    call_id: UUID | None


async def put_provider_events(connection: Connection, events: Sequence[ProviderEvent]) -> set[bytes]:
    """Keeps what came; returns the hashes of what had not come before."""
    rows = await connection.fetch(
        PUT_PROVIDER_EVENTS,
        [event.provider for event in events],
        [event.sha256 for event in events],
        [event.body for event in events],
        [event.execution_id for event in events],
        [event.status for event in events],
        [event.call_id for event in events],
    )
    return {row["body_sha256"] for row in rows}
