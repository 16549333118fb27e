"""The SQL of the claims: who may be dialed now, and what is to be looked up. One replica at a time claims a dial.

A slot is an open attempt itself: nothing counts up that could fail to count down. A job whose number is busy is parked,
so that a claim's cost does not grow with what waits behind one number; whoever frees a number says so in the same
transaction, and only the claim, under its lock, parks and unparks. So no job is forgotten between the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from cualify_dialer.breaker import Breaker
from cualify_dialer.model import time_limit
from cualify_dialer.providers import Snapshot
from cualify_shared.database import Connection

DIALING_LOCK = 0x6469616C
"""Advisory lock of the claim."""

QUEUES_BEHIND_A_NUMBER = 100

LOCK_DIALING = """
SELECT pg_advisory_xact_lock($1::bigint)
"""


async def lock_dialing(connection: Connection) -> None:
    """Makes this transaction the only one that dials."""
    await connection.execute(LOCK_DIALING, DIALING_LOCK)


SOMEBODY_WAITS = """
SELECT EXISTS (SELECT FROM dial_jobs WHERE state = 'queued')
"""


async def somebody_waits(connection: Connection) -> bool:
    """Whether a claim is worth its while: whoever waits for a time, a line or a number is queued."""
    return bool(await connection.fetchval(SOMEBODY_WAITS))


ROOM = """
SELECT known.provider,
       (SELECT count(*)
        FROM attempts
        WHERE provider = known.provider AND state IN ('asking', 'unknown', 'accepted', 'in_progress')) AS busy_lines,
       (SELECT count(*)
        FROM attempts
        WHERE provider = known.provider
          AND claimed_at > clock_timestamp() - make_interval(secs => known.within_sec)) AS started,
       coalesce(breaker.failures, 0) AS failures,
       breaker.open_until,
       breaker.probing_until
FROM unnest($1::text[], $2::float8[]) AS known (provider, within_sec)
LEFT JOIN provider_breakers AS breaker ON breaker.provider = known.provider
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What of a provider is in use, and how it fares."""

    provider: str
    busy_lines: int
    started: int
    breaker: Breaker


async def in_use(connection: Connection, within_sec: Mapping[str, float]) -> list[Use]:
    """For each provider: lines that are or may be in use, attempts begun within so many seconds, and its breaker."""
    rows = await connection.fetch(ROOM, list(within_sec), list(within_sec.values()))
    return [
        Use(
            provider=row["provider"],
            busy_lines=row["busy_lines"],
            started=row["started"],
            breaker=Breaker(row["failures"], row["open_until"], row["probing_until"]),
        )
        for row in rows
    ]


UNPARK = """
WITH freed AS (
    DELETE FROM freed_numbers
    WHERE id IN (SELECT id FROM freed_numbers ORDER BY id LIMIT $1::integer)
    RETURNING to_e164
),
first AS (
    SELECT job.call_id
    FROM (SELECT DISTINCT to_e164 FROM freed) AS number
    CROSS JOIN LATERAL (
        WITH RECURSIVE behind AS (
            (SELECT org_id, provider, call_id
             FROM dial_jobs
             WHERE state = 'queued' AND parked AND to_e164 = number.to_e164
             ORDER BY org_id, provider, next_at, call_id
             LIMIT 1)
            UNION ALL
            SELECT another.org_id, another.provider, another.call_id
            FROM behind
            CROSS JOIN LATERAL (
                SELECT org_id, provider, call_id
                FROM dial_jobs
                WHERE state = 'queued' AND parked AND to_e164 = number.to_e164
                  AND (org_id, provider) > (behind.org_id, behind.provider)
                ORDER BY org_id, provider, next_at, call_id
                LIMIT 1
            ) AS another
        )
        SELECT call_id
        FROM behind
        LIMIT $2::integer
    ) AS job
    WHERE NOT EXISTS (SELECT FROM attempts WHERE attempts.to_e164 = number.to_e164 AND state <> 'ended')
),
locked AS (
    SELECT dial_jobs.call_id
    FROM dial_jobs
    JOIN first ON first.call_id = dial_jobs.call_id
    ORDER BY dial_jobs.call_id
    FOR UPDATE OF dial_jobs
)
UPDATE dial_jobs
SET parked = false
FROM locked
WHERE dial_jobs.call_id = locked.call_id AND dial_jobs.state = 'queued'
"""

PARK = """
WITH waiting AS (
    SELECT call_id
    FROM dial_jobs
    WHERE state = 'queued' AND NOT parked AND to_e164 = ANY($1::text[])
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE dial_jobs
SET parked = true
FROM waiting
WHERE dial_jobs.call_id = waiting.call_id
"""


async def unpark(connection: Connection, *, limit: int) -> None:
    """The first of each org and provider behind a number that was freed takes part in the claim again.

    Not only the first of all: that one may have to wait for its org's or its provider's next line.
    """
    await connection.execute(UNPARK, limit, QUEUES_BEHIND_A_NUMBER)


async def park(connection: Connection, numbers: Sequence[str], *, limit: int) -> None:
    """Takes what waits behind these numbers, to each of which an attempt is open, out of the claim."""
    await connection.execute(PARK, numbers, limit)


EXPIRED = """
SELECT call_id
FROM dial_jobs
WHERE state = 'queued' AND latest_at <= $1::timestamptz
ORDER BY latest_at
LIMIT $2::integer
FOR UPDATE SKIP LOCKED
"""

STRANDED = """
SELECT call_id
FROM dial_jobs
WHERE state = 'queued' AND has_fallback AND provider = ANY($1::text[]) AND next_at <= $2::timestamptz
LIMIT $3::integer
FOR UPDATE SKIP LOCKED
"""

QUEUES = """
WITH RECURSIVE queues AS (
    (SELECT org_id, provider
     FROM dial_jobs
     WHERE state = 'queued' AND NOT parked AND (org_id, provider) > ($1::uuid, $2::text)
     ORDER BY org_id, provider
     LIMIT 1)
    UNION ALL
    SELECT another.org_id, another.provider
    FROM queues
    CROSS JOIN LATERAL (
        SELECT org_id, provider
        FROM dial_jobs
        WHERE state = 'queued' AND NOT parked AND (org_id, provider) > (queues.org_id, queues.provider)
        ORDER BY org_id, provider
        LIMIT 1
    ) AS another
)
SELECT org_id, provider
FROM queues
LIMIT $3::integer
"""

DUE = """
WITH queues AS (
    SELECT org_id, provider
    FROM unnest($6::uuid[], $7::text[]) AS queue (org_id, provider)
),
served AS (
    SELECT queues.org_id, queues.provider, coalesce(room.lines, $2::integer) AS lines, open.calls AS open_calls
    FROM queues
    LEFT JOIN unnest($3::text[], $4::integer[]) AS room (provider, lines) ON room.provider = queues.provider
    CROSS JOIN LATERAL (
        SELECT count(*) AS calls
        FROM attempts
        WHERE attempts.org_id = queues.org_id AND state IN ('asking', 'unknown', 'accepted', 'in_progress')
    ) AS open
    WHERE coalesce(room.lines, $2::integer) > 0
),
candidates AS (
    SELECT served.org_id, served.provider, served.lines, served.open_calls, job.call_id, job.next_at, job.to_e164,
           coalesce(job.max_concurrent_calls, $5::integer) AS org_lines,
           EXISTS (SELECT FROM attempts WHERE attempts.to_e164 = job.to_e164 AND state <> 'ended') AS is_busy
    FROM served
    CROSS JOIN LATERAL (
        SELECT call_id, next_at, to_e164, max_concurrent_calls
        FROM dial_jobs
        WHERE state = 'queued' AND NOT parked
          AND org_id = served.org_id AND provider = served.provider
          AND next_at <= $1::timestamptz
        ORDER BY next_at, call_id
        LIMIT (SELECT greatest(5, 2 * $2::integer / count(*)) FROM served)
    ) AS job
),
turns AS (
    SELECT candidates.*,
           open_calls + row_number() OVER (PARTITION BY org_id, is_busy ORDER BY next_at, call_id) AS turn
    FROM candidates
),
allowed AS (
    SELECT weighed.*, row_number() OVER (PARTITION BY to_e164 ORDER BY share, next_at, call_id) AS for_number
    FROM (SELECT turns.*, (turn - 1)::float8 / org_lines AS share FROM turns) AS weighed
    WHERE is_busy OR turn <= org_lines
),
chosen AS (
    SELECT call_id, next_at, share, is_busy, lines,
           row_number() OVER (PARTITION BY provider, is_busy ORDER BY share, next_at, call_id) AS place
    FROM allowed
    WHERE is_busy OR for_number = 1
)
SELECT dial_jobs.call_id, dial_jobs.to_e164, chosen.is_busy
FROM dial_jobs
JOIN chosen ON chosen.call_id = dial_jobs.call_id
WHERE dial_jobs.call_id = ANY(ARRAY(SELECT call_id FROM chosen WHERE place <= lines))
  AND dial_jobs.state = 'queued' AND chosen.place <= chosen.lines
ORDER BY chosen.is_busy, chosen.share, chosen.next_at, dial_jobs.call_id
LIMIT 2 * $2::integer
FOR UPDATE OF dial_jobs SKIP LOCKED
"""
# The array, beside the join, keeps the planner from reading the whole queue when it believes that many are chosen.


@dataclass(frozen=True, slots=True)
class Turns:
    """OfProviders turn it is, in order, locked; and the numbers behind which others have to wait."""

    due: list[UUID]
    busy_numbers: list[str]


async def expired_jobs(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Jobs that waited too long, locked."""
    return [row["call_id"] for row in await connection.fetch(EXPIRED, now, limit)]


async def stranded_jobs(connection: Connection, *, providers: Sequence[str], now: datetime, limit: int) -> list[UUID]:
    """Jobs at providers that are not to be asked for now, and that have another to turn to; locked."""
    return [row["call_id"] for row in await connection.fetch(STRANDED, providers, now, limit)]


Queue: TypeAlias = tuple[UUID, str]
"""What one org has waiting at one provider."""
BEFORE_ALL: Queue = (UUID(int=0), "")


async def queues_after(connection: Connection, after: Queue, *, limit: int) -> list[Queue]:
    """The next queues that are not empty, in a fixed order, one index probe each."""
    return [(row["org_id"], row["provider"]) for row in await connection.fetch(QUEUES, *after, limit)]


async def due_jobs(
    connection: Connection,
    queues: Sequence[Queue],
    *,
    now: datetime,
    limit: int,
    room: Mapping[str, int],
    org_lines: int,
) -> Turns:
    """The next line goes to the org that uses the smallest share of what its plan allows, whoever queued most or first.

    So orgs get lines in proportion to their plans, and one that has nothing open goes before all that have something.

    `room` are the free lines of each provider that we know; a job of any other is due too, to be given up.
    """
    orgs, providers = [org_id for org_id, _ in queues], [provider for _, provider in queues]
    rows = await connection.fetch(DUE, now, limit, list(room), list(room.values()), org_lines, orgs, providers)
    return Turns(
        due=[row["call_id"] for row in rows if not row["is_busy"]][:limit],
        busy_numbers=sorted({row["to_e164"] for row in rows if row["is_busy"]}),
    )


@dataclass(frozen=True, slots=True)
class OfProviders:
    """The attempts of these providers, or of all others."""

    providers: Sequence[str]
    are_meant: bool


OF_ANY = OfProviders((), are_meant=False)

CLAIM_LOOK_UPS = """
WITH due AS (
    SELECT ref
    FROM attempts
    WHERE state <> 'ended' AND look_up_at <= $1::timestamptz AND (provider = ANY($5::text[])) = $6::boolean
    ORDER BY look_up_at
    LIMIT $4::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE attempts
SET look_up_at = CASE WHEN attempts.execution_id IS NULL THEN $3::timestamptz ELSE $2::timestamptz END
FROM due, dial_jobs AS job
WHERE attempts.ref = due.ref AND job.call_id = attempts.call_id
RETURNING attempts.call_id, attempts.number, attempts.ref, attempts.provider, attempts.to_e164, attempts.asked_at,
          attempts.execution_id, attempts.carrier_id, attempts.look_up_at, attempts.org_id, attempts.agent_id,
          attempts.second_id, attempts.started_at, attempts.hang_up, attempts.disconnected_at,
          job.cancel_requested_at, job.latest_at,
          job.request ->> 'from_e164' AS from_e164,
          (job.request #>> '{terms,max_duration_sec}')::integer AS max_duration_sec,
          ARRAY(
              SELECT coalesce(other.carrier_id, other.execution_id)
              FROM attempts AS other
              WHERE other.to_e164 = attempts.to_e164
                AND other.ref <> attempts.ref
                AND other.execution_id IS NOT NULL
                AND other.asked_at > attempts.asked_at - interval '1 day'
              ORDER BY other.asked_at DESC
              LIMIT 100
          ) AS not_ours
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
    carrier_id: str | None
    second_id: str | None
    look_up_at: datetime
    org_id: UUID
    agent_id: str
    started_at: datetime | None
    hang_up: str | None
    disconnected_at: datetime | None
    cancel_requested_at: datetime | None
    latest_at: datetime
    from_e164: str | None
    max_duration_sec: int
    not_ours: list[str]

    def is_to_be_ended(self, *, now: datetime, overtime_sec: float) -> bool:
        """Whether the provider is to be asked to end it: the customer wants it, or its time is over."""
        if self.execution_id is None or self.hang_up is not None or self.disconnected_at is not None:
            return False
        limit = time_limit(
            asked_at=self.asked_at,
            started_at=self.started_at,
            max_duration_sec=self.max_duration_sec,
            overtime_sec=overtime_sec,
        )
        return self.cancel_requested_at is not None or now >= limit

    def waits_too_long(self, snapshot: Snapshot, *, now: datetime) -> bool:
        """Whether the provider still has it in its queue when the phone must not ring any more."""
        return snapshot.is_waiting and self.hang_up is None and now >= self.latest_at


async def claim_look_ups(
    connection: Connection,
    of: OfProviders,
    *,
    now: datetime,
    reading_until: datetime,
    searching_until: datetime,
    limit: int,
) -> list[Due]:
    """Attempts of which we want to hear, leased; longer where the execution has yet to be searched for."""
    rows = await connection.fetch(
        CLAIM_LOOK_UPS, now, reading_until, searching_until, limit, of.providers, of.are_meant
    )
    return [Due(**row) for row in rows]
