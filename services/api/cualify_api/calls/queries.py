"""Calls in the database. Every query on behalf of a customer begins with the org."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from cualify_api.calls.call import Call, TimelineEntry
from cualify_shared.database import Connection, Pool, Row
from cualify_shared.events.topics import CALL_REQUESTS

SOURCE: Final = CALL_REQUESTS.name
"""Of what the api itself says of a call, in the timeline and on Kafka: 1 is that it was placed, 2 a cancellation."""

COLUMNS: Final = """
    id, org_id, agent_id, status, from_e164, to_e164, language, metadata, external_id, key_prefix, request_id,
    created_at, earliest_at, latest_at, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider,
    provider_call_id, provider_execution_id, attempt, started_at, ended_at, duration_sec, ended_by, ended_reason,
    answered_by, llm_extracted_intent, llm_sentiment, llm_outcome, transcript_due, has_transcript, recording_due,
    recording_url, debited_paise, terminal_at, end_told, customer_sequence, test, cancel_requested_at,
    retry, next_attempt_at, carried_by
"""
_COLUMNS = COLUMNS

GET = "SELECT" + _COLUMNS + "FROM calls WHERE org_id = $1 AND id = $2"

GET_FOR_OPERATOR = "SELECT" + _COLUMNS + "FROM calls WHERE id = $1"


async def get(connection: Connection, org_id: UUID, call_id: UUID) -> Call | None:
    """An org's call; None also where it is another org's."""
    return _maybe_call(await connection.fetchrow(GET, org_id, call_id))


async def get_for_operator(connection: Connection, call_id: UUID) -> Call | None:
    """Any call."""
    return _maybe_call(await connection.fetchrow(GET_FOR_OPERATOR, call_id))


READ = "SELECT" + _COLUMNS + "FROM calls WHERE id = ANY($1::uuid[])"


async def read(pool: Pool, ids: Sequence[UUID]) -> list[Call]:
    """These calls, as far as they exist."""
    return [call_of(row) for row in await pool.fetch(READ, ids)]


EXISTING = """
SELECT id
FROM calls
WHERE id = ANY($1::uuid[])
"""


async def existing(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Which of these are calls. For ids that were made here: no customer is told of another's."""
    return [row["id"] for row in await connection.fetch(EXISTING, ids)]


LOCK_ONE = "SELECT" + _COLUMNS + "FROM calls WHERE org_id = $1 AND id = $2 FOR UPDATE"


async def locked_one(connection: Connection, org_id: UUID, call_id: UUID) -> Call | None:
    """An org's call, locked until the transaction ends; None also where it is another org's."""
    return _maybe_call(await connection.fetchrow(LOCK_ONE, org_id, call_id))


CANCEL = """
UPDATE calls
SET cancel_requested_at = $3, requests_sequence = requests_sequence + 1
WHERE org_id = $1 AND id = $2
RETURNING requests_sequence
"""


async def cancel(connection: Connection, org_id: UUID, call_id: UUID, *, at: datetime) -> int:
    """Notes the wish on a call that this transaction has locked; the sequence of what is said of it."""
    sequence: int = await connection.fetchval(CANCEL, org_id, call_id, at)
    return sequence


TRANSCRIPT = """
SELECT transcript
FROM call_transcripts
WHERE org_id = $1 AND call_id = $2
"""


async def transcript(connection: Connection, org_id: UUID, call_id: UUID) -> Any:
    """What was said; None while nothing is known."""
    return await connection.fetchval(TRANSCRIPT, org_id, call_id)


TIMELINE = """
SELECT call_id, org_id, source, sequence, type, at, data
FROM call_events
WHERE org_id = $1 AND call_id = $2
ORDER BY NOT (source = 'call.requests' AND sequence = 1), at, sequence
LIMIT 1000
"""


async def timeline(connection: Connection, org_id: UUID, call_id: UUID) -> list[TimelineEntry]:
    """What happened to a call, oldest first."""
    return [TimelineEntry(**row) for row in await connection.fetch(TIMELINE, org_id, call_id)]


TIMELINES = """
SELECT e.*
FROM unnest($1::uuid[]) AS c (id)
CROSS JOIN LATERAL (
    SELECT call_id, org_id, source, sequence, type, at, data
    FROM call_events
    WHERE call_id = c.id
    ORDER BY NOT (source = 'call.requests' AND sequence = 1), at, sequence
    LIMIT 1000
) AS e
"""


async def timelines(connection: Connection, ids: Iterable[UUID]) -> list[TimelineEntry]:
    """The same of many calls that this transaction has locked, in no order."""
    return [TimelineEntry(**row) for row in await connection.fetch(TIMELINES, list(set(ids)))]


def in_order(entries: Iterable[TimelineEntry]) -> list[TimelineEntry]:
    """The entries of one call, each once, as `timeline` has them."""
    each = {(entry.source, entry.sequence): entry for entry in entries}
    placed = (SOURCE, 1)
    return sorted(each.values(), key=lambda one: ((one.source, one.sequence) != placed, one.at, one.sequence))[:1000]


LOCK = "SELECT" + _COLUMNS + "FROM calls WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"


async def locked(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Call]:
    """These calls, as far as they exist, locked in order of id until the transaction ends."""
    return {row["id"]: call_of(row) for row in await connection.fetch(LOCK, sorted(set(ids)))}


LOCK_UNTOLD = (
    "SELECT"
    + _COLUMNS
    + """
FROM calls
WHERE terminal_at <= $1 AND NOT end_told
ORDER BY terminal_at
LIMIT $2
FOR UPDATE SKIP LOCKED
"""
)


async def locked_untold(connection: Connection, *, over_since: datetime, limit: int) -> list[Call]:
    """Calls that ended so long ago, whose end is untold, locked; those that somebody else works on are left out."""
    return [call_of(row) for row in await connection.fetch(LOCK_UNTOLD, over_since, limit)]


ADD = """
WITH new AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::text[],
        $10::bytea[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
        $16::integer[], $17::integer[], $18::integer[], $19::bigint[], $20::text[], $21::text[], $22::boolean[],
        $23::jsonb[]
    ) AS n (
        id, org_id, agent_id, status, from_e164, to_e164, language, metadata, external_id,
        fingerprint, key_prefix, request_id, created_at, earliest_at, latest_at,
        rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider, provider_call_id, test, retry
    )
), held AS (
    UPDATE org_credit AS c
    SET held = c.held + h.paise
    FROM (SELECT org_id, sum(hold_paise)::bigint AS paise FROM new GROUP BY org_id) AS h
    WHERE c.org_id = h.org_id AND h.paise > 0
), told AS (
    INSERT INTO call_events (call_id, source, sequence, org_id, type, at, data)
    SELECT id, $24::text, 1, org_id, status, created_at, '{}'
    FROM new
), counted AS (
    INSERT INTO call_counts (org_id, status, calls)
    SELECT org_id, status, count(*)
    FROM new
    GROUP BY org_id, status
    ORDER BY org_id, status
    ON CONFLICT (org_id, status) DO UPDATE SET calls = call_counts.calls + excluded.calls
)
INSERT INTO calls (
    id, org_id, agent_id, status, from_e164, to_e164, language, metadata, external_id, fingerprint, key_prefix,
    request_id, created_at, earliest_at, latest_at, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise,
    provider, provider_call_id, test, retry
)
SELECT *
FROM new
"""


async def add(connection: Connection, calls: Sequence[Call], fingerprints: Sequence[bytes | None]) -> None:
    """Inserts accepted calls: their holds, first lines of the timeline, and counts in the same statement.

    The orgs' credit is locked already. Calls, credit and counts are touched in the order in which all lock them, as
    nobody else can know the new calls.
    """
    await connection.execute(
        ADD,
        [call.id for call in calls],
        [call.org_id for call in calls],
        [call.agent_id for call in calls],
        [call.status for call in calls],
        [call.from_e164 for call in calls],
        [call.to_e164 for call in calls],
        [call.language for call in calls],
        [call.metadata for call in calls],
        [call.external_id for call in calls],
        fingerprints,
        [call.key_prefix for call in calls],
        [call.request_id for call in calls],
        [call.created_at for call in calls],
        [call.earliest_at for call in calls],
        [call.latest_at for call in calls],
        [call.rate_paise_per_sec for call in calls],
        [call.pulse_sec for call in calls],
        [call.max_duration_sec for call in calls],
        [call.hold_paise for call in calls],
        [call.provider for call in calls],
        [call.provider_call_id for call in calls],
        [call.test for call in calls],
        [call.retry for call in calls],
        SOURCE,
    )


CHANGE = """
UPDATE calls AS c
SET status = n.status,
    attempt = n.attempt,
    provider_call_id = n.provider_call_id,
    provider_execution_id = n.provider_execution_id,
    started_at = n.started_at,
    ended_at = n.ended_at,
    duration_sec = n.duration_sec,
    ended_by = n.ended_by,
    ended_reason = n.ended_reason,
    answered_by = n.answered_by,
    llm_extracted_intent = n.llm_extracted_intent,
    llm_sentiment = n.llm_sentiment,
    llm_outcome = n.llm_outcome,
    transcript_due = n.transcript_due,
    has_transcript = n.has_transcript,
    recording_due = n.recording_due,
    recording_url = n.recording_url,
    debited_paise = n.debited_paise,
    terminal_at = n.terminal_at,
    end_told = n.end_told,
    customer_sequence = n.customer_sequence,
    next_attempt_at = n.next_attempt_at,
    carried_by = n.carried_by
FROM unnest(
    $1::uuid[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::integer[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[], $16::boolean[],
    $17::boolean[], $18::text[], $19::bigint[], $20::timestamptz[], $21::boolean[], $22::integer[],
    $23::timestamptz[], $24::text[]
) AS n (
    id, status, attempt, provider_call_id, provider_execution_id, started_at, ended_at, duration_sec, ended_by,
    ended_reason, answered_by, llm_extracted_intent, llm_sentiment, llm_outcome, transcript_due, has_transcript,
    recording_due, recording_url, debited_paise, terminal_at, end_told, customer_sequence, next_attempt_at,
    carried_by
)
WHERE c.id = n.id
"""


async def change(connection: Connection, calls: Sequence[Call]) -> None:
    """Writes back calls that this transaction has locked."""
    if not calls:
        return
    await connection.execute(
        CHANGE,
        [call.id for call in calls],
        [call.status for call in calls],
        [call.attempt for call in calls],
        [call.provider_call_id for call in calls],
        [call.provider_execution_id for call in calls],
        [call.started_at for call in calls],
        [call.ended_at for call in calls],
        [call.duration_sec for call in calls],
        [call.ended_by for call in calls],
        [call.ended_reason for call in calls],
        [call.answered_by for call in calls],
        [call.llm_extracted_intent for call in calls],
        [call.llm_sentiment for call in calls],
        [call.llm_outcome for call in calls],
        [call.transcript_due for call in calls],
        [call.has_transcript for call in calls],
        [call.recording_due for call in calls],
        [call.recording_url for call in calls],
        [call.debited_paise for call in calls],
        [call.terminal_at for call in calls],
        [call.end_told for call in calls],
        [call.customer_sequence for call in calls],
        [call.next_attempt_at for call in calls],
        [call.carried_by for call in calls],
    )


ADD_TO_TIMELINE = """
INSERT INTO call_events (call_id, source, sequence, org_id, type, at, data)
SELECT *
FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::uuid[], $5::text[], $6::timestamptz[], $7::jsonb[])
ON CONFLICT ON CONSTRAINT an_event_stands_once_in_the_timeline DO NOTHING
"""


async def add_to_timeline(connection: Connection, entries: Sequence[TimelineEntry]) -> None:
    """Adds what is not there yet."""
    if not entries:
        return
    await connection.execute(
        ADD_TO_TIMELINE,
        [entry.call_id for entry in entries],
        [entry.source for entry in entries],
        [entry.sequence for entry in entries],
        [entry.org_id for entry in entries],
        [entry.type for entry in entries],
        [entry.at for entry in entries],
        [entry.data for entry in entries],
    )


ADD_TRANSCRIPTS = """
INSERT INTO call_transcripts (call_id, org_id, transcript)
SELECT call_id, org_id, transcript::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS t (call_id, org_id, transcript)
ON CONFLICT (call_id) DO NOTHING
"""


async def add_transcripts(connection: Connection, said: Mapping[tuple[UUID, UUID], Any]) -> None:
    """Keeps transcripts by (call, org); the first stays."""
    if not said:
        return
    # As text: in a jsonb[] a list of lists would be taken for one array of two dimensions.
    await connection.execute(
        ADD_TRANSCRIPTS,
        [call_id for call_id, _ in said],
        [org_id for _, org_id in said],
        [orjson.dumps(turns).decode() for turns in said.values()],
    )


COUNT = """
INSERT INTO call_counts (org_id, status, calls)
SELECT org_id, status, change
FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS d (org_id, status, change)
ORDER BY org_id, status
ON CONFLICT (org_id, status) DO UPDATE SET calls = call_counts.calls + excluded.calls
"""


async def count(connection: Connection, moves: Iterable[tuple[UUID, str | None, str]]) -> None:
    """Keeps the totals: for each call (its org, the status it leaves, the status it gets)."""
    changes: Counter[tuple[UUID, str]] = Counter()
    for org_id, left, entered in moves:
        changes[org_id, entered] += 1
        if left is not None:
            changes[org_id, left] -= 1
    real = [(org_id, status, change) for (org_id, status), change in changes.items() if change]
    if real:
        await connection.execute(COUNT, [r[0] for r in real], [r[1] for r in real], [r[2] for r in real])


BY_EXTERNAL_ID = (
    "SELECT fingerprint,"
    + _COLUMNS
    + """
FROM calls
WHERE (org_id, external_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""
)


async def by_external_id(
    connection: Connection, pairs: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], tuple[bytes | None, Call]]:
    """Calls by (org, external_id), each with the fingerprint of the body that placed it."""
    if not pairs:
        return {}
    rows = await connection.fetch(BY_EXTERNAL_ID, [org_id for org_id, _ in pairs], [one for _, one in pairs])
    return {(row["org_id"], row["external_id"]): (row["fingerprint"], call_of(row)) for row in rows}


def call_of(row: Row) -> Call:
    """A row of `calls`."""
    columns = dict(row)
    columns.pop("fingerprint", None)
    return Call(**columns)


def _maybe_call(row: Row | None) -> Call | None:
    return None if row is None else call_of(row)
