"""How many calls share a key of metadata or a number: exact, and fast however many they are.

Counters would have to be written with each call, for every key that it has; most are never asked for, and most are
shared by no other call. So whoever asks counts, once: what lies in hours that are over is kept as a running sum, and
the next to ask counts from there. Nothing is kept of what few calls share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cualify_api.calls.totals import Span
from cualify_shared.database import Connection

FEW: Final = 10_000
"""As many are counted each time."""
STEP: Final = 1_000_000
"""At most so many are counted by one statement, and then kept: who gives up waiting has not waited in vain."""
SETTLED_AFTER: Final = timedelta(hours=1)
"""A call is written within seconds of the instant it says it was placed at."""

# Made of parts: a label's rows are counted in `call_labels`, a number's in `calls`, both along one index.
_LABELLED: Final = "call_labels WHERE org_id = $1 AND label = call_label($2, $3)"
_TO_NUMBER: Final = "calls WHERE org_id = $1 AND to_e164 = $3"


def _keeping(*, kind: str, rows: str) -> str:
    return f"""
WITH known AS (
    SELECT until, calls
    FROM kept_sums
    WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3)
    ORDER BY until DESC
    LIMIT 1
), start AS (
    SELECT coalesce((SELECT until FROM known), '-infinity') AS at, coalesce((SELECT calls FROM known), 0) AS calls
), worth AS (
    SELECT count(*) > $5 AS it
    FROM (SELECT FROM {rows} AND created_at >= (SELECT at FROM start) AND created_at < $4 LIMIT $5::bigint + 1) AS few
), stop AS (
    SELECT least($4, date_trunc('hour', (
        SELECT created_at
        FROM {rows} AND created_at >= (SELECT at FROM start) AND created_at < $4
        ORDER BY created_at
        OFFSET $6::bigint
        LIMIT 1
    ), 'UTC')) AS at
    FROM worth
    WHERE it
), hours AS (
    SELECT date_trunc('hour', created_at, 'UTC') + interval '1 hour' AS until, count(*) AS calls
    FROM {rows} AND created_at >= (SELECT at FROM start) AND created_at < (SELECT at FROM stop)
    GROUP BY 1
), kept AS (
    INSERT INTO kept_sums (org_id, kind, label, until, calls)
    SELECT $1, '{kind}', call_label($2, $3), until, start.calls + sum(hours.calls) OVER (ORDER BY until)
    FROM hours
    CROSS JOIN start
    ORDER BY until
    ON CONFLICT (org_id, kind, label, until) DO NOTHING
    RETURNING 1
)
SELECT count(*)
FROM kept
"""


def _totalling(*, kind: str, rows: str) -> str:
    return f"""
WITH first AS (
    SELECT until, calls
    FROM kept_sums
    WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3) AND until >= $4
    ORDER BY until
    LIMIT 1
), last AS (
    SELECT until, calls
    FROM kept_sums
    WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3) AND until <= $5
    ORDER BY until DESC
    LIMIT 1
), kept AS (
    SELECT first.until AS starts_at, last.until AS ends_at, last.calls - first.calls AS calls
    FROM first
    JOIN last ON last.until >= first.until
)
SELECT coalesce((SELECT calls FROM kept), 0)
     + (SELECT count(*) FROM {rows} AND created_at >= $4 AND created_at < coalesce((SELECT starts_at FROM kept), $5))
     + (SELECT count(*) FROM {rows} AND created_at >= (SELECT ends_at FROM kept) AND created_at < $5)
"""


KEEP_LABELLED = _keeping(kind="metadata", rows=_LABELLED)
KEEP_TO_NUMBER = _keeping(kind="to_e164", rows=_TO_NUMBER)
TOTAL_LABELLED = _totalling(kind="metadata", rows=_LABELLED)
TOTAL_TO_NUMBER = _totalling(kind="to_e164", rows=_TO_NUMBER)


@dataclass(frozen=True, slots=True)
class Shared:
    """What many calls may have in common."""

    kind: str
    keeping: str
    total: str
    key: str
    value: str


def a_label(metadata: Mapping[str, str]) -> Shared:
    """A key of metadata and its value as text."""
    [(key, value)] = metadata.items()
    return Shared("metadata", KEEP_LABELLED, TOTAL_LABELLED, key, value)


def a_number(e164: str) -> Shared:
    """The callee's number."""
    return Shared("to_e164", KEEP_TO_NUMBER, TOTAL_TO_NUMBER, "to_e164", e164)


async def keep(connection: Connection, org_id: UUID, shared: Shared, *, at: datetime) -> None:
    """Keeps the sums of hours that are over, where they are worth it. Not to be called in a transaction: each step
    stands by itself, and two who take it at once write the same."""
    settled = (at - SETTLED_AFTER).replace(minute=0, second=0, microsecond=0)
    while await connection.fetchval(shared.keeping, org_id, shared.key, shared.value, settled, FEW, STEP):
        pass


async def total(connection: Connection, org_id: UUID, shared: Shared, span: Span) -> int:
    """How many calls that share it were placed in this time."""
    found: int = await connection.fetchval(shared.total, org_id, shared.key, shared.value, span.start, span.end)
    return found
