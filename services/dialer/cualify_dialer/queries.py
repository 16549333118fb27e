"""The dialer's SQL. Rows are locked in one order everywhere: jobs by call_id, then their attempts by ref."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from cualify_dialer.model import Attempt, AttemptState, Call, CallState, HangUpState
from cualify_shared.database import Connection, Row
from cualify_shared.events.call import CallCancelRequested, CallRequested

REQUESTS_REMEMBERED = 2000

PUT_JOBS = """
INSERT INTO dial_jobs (call_id, org_id, state, request, to_e164, next_at, latest_at, provider, has_fallback,
                       max_concurrent_calls, correlation_id)
SELECT call_id, org_id, 'queued', request, to_e164, next_at, latest_at, provider, has_fallback,
       max_concurrent_calls, correlation_id
FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[],
            $8::boolean[], $9::integer[], $10::text[])
     AS new (call_id, org_id, request, to_e164, next_at, latest_at, provider, has_fallback,
             max_concurrent_calls, correlation_id)
ORDER BY call_id
ON CONFLICT (call_id) DO UPDATE
SET state = 'queued',
    request = EXCLUDED.request,
    to_e164 = EXCLUDED.to_e164,
    next_at = EXCLUDED.next_at,
    latest_at = EXCLUDED.latest_at,
    provider = EXCLUDED.provider,
    has_fallback = EXCLUDED.has_fallback,
    max_concurrent_calls = EXCLUDED.max_concurrent_calls,
    correlation_id = EXCLUDED.correlation_id
WHERE dial_jobs.state = 'tombstone'
RETURNING call_id, cancel_requested_at
"""


@dataclass(frozen=True, slots=True)
class Requested:
    """A call that was asked for, and the id of the HTTP request that asked for it, as the event carried it."""

    request: CallRequested
    correlation_id: str | None


async def put_jobs(connection: Connection, requested: Iterable[Requested]) -> dict[UUID, datetime | None]:
    """Queues calls that are new; returns them, and when their cancellation was asked for, if that came first."""
    new = list({one.request.call_id: one for one in requested}.values())
    requests = [one.request for one in new]
    rows = await connection.fetch(
        PUT_JOBS,
        [request.call_id for request in requests],
        [request.org_id for request in requests],
        [request.model_dump(mode="json") for request in requests],
        [request.to_e164 for request in requests],
        [request.earliest_at or request.requested_at for request in requests],
        [request.latest_at for request in requests],
        [request.provider for request in requests],
        [bool(request.fallback_providers) for request in requests],
        [request.max_concurrent_calls for request in requests],
        [one.correlation_id for one in new],
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
SELECT call_id, state, request::text AS request, next_at, cancel_requested_at, event_sequence, artifact_sequence,
       route, correlation_id, status, ended_reason, ended_at
FROM dial_jobs
WHERE call_id = ANY($1::uuid[]) AND state <> 'tombstone'
ORDER BY call_id
FOR UPDATE
"""

LOCK_ATTEMPTS = """
SELECT call_id, number, ref, provider, agent_id, hang_up, state, asked_at, look_up_at, empty_looks, execution_id,
       carrier_id, second_id, provider_status, started_at, disconnected_at, told, result, ended_at
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


@lru_cache(maxsize=REQUESTS_REMEMBERED)
def _request(text: str) -> CallRequested:
    """A call is locked some ten times in its life, with the same words each time: they are read once."""
    return CallRequested.model_validate_json(text, extra="ignore")


def _call(row: Row, attempts: Iterable[Attempt]) -> Call:
    return Call(
        request=_request(row["request"]),
        state=CallState(row["state"]),
        next_at=row["next_at"],
        cancel_requested_at=row["cancel_requested_at"],
        event_sequence=row["event_sequence"],
        artifact_sequence=row["artifact_sequence"],
        route=row["route"],
        correlation_id=row["correlation_id"],
        status=row["status"],
        ended_reason=row["ended_reason"],
        ended_at=row["ended_at"],
        attempts=tuple(sorted(attempts, key=lambda attempt: attempt.number)),
    )


def _attempt(row: Row) -> Attempt:
    return Attempt(
        number=row["number"],
        ref=row["ref"],
        provider=row["provider"],
        agent_id=row["agent_id"],
        hang_up=HangUpState(row["hang_up"]) if row["hang_up"] else None,
        state=AttemptState(row["state"]),
        asked_at=row["asked_at"],
        look_up_at=row["look_up_at"],
        empty_looks=row["empty_looks"],
        execution_id=row["execution_id"],
        carrier_id=row["carrier_id"],
        second_id=row["second_id"],
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
    ended_at = new.ended_at,
    route = new.route,
    provider = new.provider,
    parked = false
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[],
            $7::text[], $8::text[], $9::timestamptz[], $10::integer[], $11::text[])
     AS new (call_id, state, next_at, cancel_requested_at, event_sequence, artifact_sequence,
             status, ended_reason, ended_at, route, provider)
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
        [call.route for call in calls],
        [call.provider for call in calls],
    )


WRITE_ATTEMPTS = """
INSERT INTO attempts (ref, call_id, number, org_id, provider, to_e164, state, asked_at, look_up_at, empty_looks,
                      execution_id, provider_status, started_at, disconnected_at, told, result, ended_at, agent_id,
                      hang_up, carrier_id, second_id)
SELECT *
FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
            $9::timestamptz[], $10::integer[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
            $15::jsonb[], $16::text[], $17::timestamptz[], $18::text[], $19::text[], $20::text[], $21::text[])
ON CONFLICT (ref) DO UPDATE
SET state = EXCLUDED.state,
    look_up_at = EXCLUDED.look_up_at,
    empty_looks = EXCLUDED.empty_looks,
    execution_id = EXCLUDED.execution_id,
    carrier_id = EXCLUDED.carrier_id,
    second_id = EXCLUDED.second_id,
    provider_status = EXCLUDED.provider_status,
    started_at = EXCLUDED.started_at,
    disconnected_at = EXCLUDED.disconnected_at,
    told = EXCLUDED.told,
    hang_up = EXCLUDED.hang_up,
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
        [attempt.provider for _, attempt in attempts],
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
        [attempt.agent_id for _, attempt in attempts],
        [attempt.hang_up for _, attempt in attempts],
        [attempt.carrier_id for _, attempt in attempts],
        [attempt.second_id for _, attempt in attempts],
    )


PUT_FREED_NUMBERS = """
INSERT INTO freed_numbers (to_e164)
SELECT unnest($1::text[])
"""


async def put_freed_numbers(connection: Connection, numbers: Iterable[str]) -> None:
    """Says that somebody may wait behind these numbers who need not any more."""
    await connection.execute(PUT_FREED_NUMBERS, sorted(set(numbers)))
