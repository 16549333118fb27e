"""How many of the calls that share a key of metadata or a number ended in some way, or are of some agent.

The same idea as `kept_sums`: who asks counts, and what was counted is kept. Here of hours whose calls are all over, for
how a call ended never changes again: by the hour, by the day, by agent and status. What is not kept yet is counted each
time, up to `WALKED` calls; where there are more, as behind a call that is scheduled for next week, the total is a least
number.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cualify_api.calls.kept_sums import SETTLED_AFTER, Shared
from cualify_api.calls.totals import DAY, HOUR, OPEN, PLAN_AFRESH, Span, edges, whole
from cualify_shared.database import Connection

WALKED: Final = 50_000
"""As many calls are looked at each time."""
WORTH: Final = 5_000
"""From so many on they are counted for good."""
STEP: Final = 50_000
"""About so many are counted by one statement, in whole hours."""
KEEPING_SEC: Final = 2.0
"""After which a request takes no further step. The next one does."""

# Both take the same parameters, so that either stands for the other; a number's key says nothing.
# OFFSET 0 keeps the planner from turning the look-up of each call into a pass over all of them.
_LABELLED: Final = """(
    SELECT l.created_at, c.agent_id, c.status
    FROM call_labels AS l
    CROSS JOIN LATERAL (SELECT agent_id, status FROM calls WHERE id = l.call_id OFFSET 0) AS c
    WHERE l.org_id = $1 AND l.label = call_label($2, $3)
      AND l.created_at >= {start} AND l.created_at < {end}
    ORDER BY l.created_at
    LIMIT {limit}
)"""
_TO_NUMBER: Final = """(
    SELECT created_at, agent_id, status
    FROM calls
    WHERE org_id = $1 AND $2::text IS NOT NULL AND to_e164 = $3
      AND created_at >= {start} AND created_at < {end}
    ORDER BY created_at
    LIMIT {limit}
)"""


def _marking(kind: str) -> str:
    return f"""
INSERT INTO kept_count_marks (org_id, kind, label)
VALUES ($1, '{kind}', call_label($2, $3))
ON CONFLICT (org_id, kind, label) DO NOTHING
"""


def _locking(kind: str) -> str:
    return f"""
SELECT until
FROM kept_count_marks
WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3)
FOR UPDATE
"""


def _horizon() -> str:
    """No call that was placed before it can change any more."""
    return """
SELECT least($4::timestamptz, date_trunc('hour', min(o.created_at), 'UTC'))
FROM unnest($2::text[]) AS s (status)
CROSS JOIN LATERAL (
    SELECT created_at
    FROM calls
    WHERE org_id = $1 AND status = s.status AND created_at >= $3
    ORDER BY created_at
    LIMIT 1
) AS o
"""


def _stopping(rows: str) -> str:
    """Where a step from $4 on ends, at $5 at the latest; NULL: it isn't worth it."""
    from_start = rows.format(start="$4::timestamptz", end="$5::timestamptz", limit="$6::bigint + 1")
    return f"""
SELECT CASE
    WHEN count(*) <= $7::bigint THEN NULL
    WHEN count(*) <= $6::bigint THEN $5::timestamptz
    ELSE least($5, greatest(
        date_trunc('hour', max(created_at), 'UTC'), date_trunc('hour', min(created_at), 'UTC') + interval '1 hour'))
END
FROM {from_start} AS step
"""


def _keeping(kind: str, rows: str) -> str:
    step = rows.format(start="$4::timestamptz", end="$5::timestamptz", limit="NULL")
    return f"""
WITH counted AS (
    SELECT g.grain, date_trunc(g.grain, step.created_at, 'UTC') AS starts_at, step.agent_id, step.status,
           count(*) AS calls
    FROM {step} AS step
    CROSS JOIN (VALUES ('day'), ('hour')) AS g (grain)
    GROUP BY 1, 2, 3, 4
), kept AS (
    INSERT INTO kept_counts (org_id, kind, label, grain, starts_at, agent_id, status, calls)
    SELECT $1, '{kind}', call_label($2, $3), grain, starts_at, agent_id, status, calls
    FROM counted
    ON CONFLICT (org_id, kind, label, grain, starts_at, agent_id, status)
    DO UPDATE SET calls = kept_counts.calls + excluded.calls
)
UPDATE kept_count_marks
SET until = $5
WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3)
"""


def _reading(kind: str) -> str:
    return f"""
SELECT until
FROM kept_count_marks
WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3)
"""


def _totalling(kind: str) -> str:
    return f"""
SELECT coalesce(sum(calls), 0)::bigint
FROM kept_counts
WHERE org_id = $1 AND kind = '{kind}' AND label = call_label($2, $3)
  AND status = ANY($4::text[])
  AND ($5::uuid IS NULL OR agent_id = $5)
  AND (
      (grain = 'day' AND starts_at >= $6 AND starts_at < $7)
      OR (grain = 'hour' AND starts_at >= $8 AND starts_at < $6)
      OR (grain = 'hour' AND starts_at >= $7 AND starts_at < $9)
  )
"""


def _walking(rows: str) -> str:
    walked = rows.format(start="$6::timestamptz", end="$7::timestamptz", limit="$8::bigint + 1")
    return f"""
SELECT count(*) AS walked,
       count(*) FILTER (WHERE status = ANY($4::text[]) AND ($5::uuid IS NULL OR agent_id = $5)) AS matching
FROM {walked} AS walked
"""


HORIZON = _horizon()
MARK_LABELLED, MARK_TO_NUMBER = _marking("metadata"), _marking("to_e164")
LOCK_MARK_LABELLED, LOCK_MARK_TO_NUMBER = _locking("metadata"), _locking("to_e164")
STOP_LABELLED, STOP_TO_NUMBER = _stopping(_LABELLED), _stopping(_TO_NUMBER)
KEEP_LABELLED, KEEP_TO_NUMBER = _keeping("metadata", _LABELLED), _keeping("to_e164", _TO_NUMBER)
READ_MARK_LABELLED, READ_MARK_TO_NUMBER = _reading("metadata"), _reading("to_e164")
TOTAL_LABELLED, TOTAL_TO_NUMBER = _totalling("metadata"), _totalling("to_e164")
COUNT_LABELLED, COUNT_TO_NUMBER = _walking(_LABELLED), _walking(_TO_NUMBER)


@dataclass(frozen=True, slots=True)
class _Statements:
    mark: str
    lock: str
    stop: str
    keep: str
    read: str
    total: str
    count: str


_OF: Final = {
    "metadata": _Statements(
        MARK_LABELLED,
        LOCK_MARK_LABELLED,
        STOP_LABELLED,
        KEEP_LABELLED,
        READ_MARK_LABELLED,
        TOTAL_LABELLED,
        COUNT_LABELLED,
    ),
    "to_e164": _Statements(
        MARK_TO_NUMBER,
        LOCK_MARK_TO_NUMBER,
        STOP_TO_NUMBER,
        KEEP_TO_NUMBER,
        READ_MARK_TO_NUMBER,
        TOTAL_TO_NUMBER,
        COUNT_TO_NUMBER,
    ),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """A total, or at least so many."""

    calls: int
    is_exact: bool


async def keep(connection: Connection, org_id: UUID, shared: Shared, *, at: datetime) -> None:
    """Counts for good what is over and not counted yet, where it is worth it: a few steps, each a transaction."""
    settled = (at - SETTLED_AFTER).replace(minute=0, second=0, microsecond=0)
    ends_at, has_more = time.monotonic() + KEEPING_SEC, True
    while has_more and time.monotonic() < ends_at:
        async with connection.transaction():
            await connection.execute(PLAN_AFRESH)
            has_more = await _step(connection, org_id, shared, settled=settled)


async def _step(connection: Connection, org_id: UUID, shared: Shared, *, settled: datetime) -> bool:
    """Whether anything was counted. Who counts at the same time waits here, and goes on from there."""
    of, named = _OF[shared.kind], (org_id, shared.key, shared.value)
    start = await connection.fetchval(of.lock, *named)
    if start is None:
        await connection.execute(of.mark, *named)
        start = await connection.fetchval(of.lock, *named)
    horizon = await connection.fetchval(HORIZON, org_id, OPEN, start, settled)
    if horizon <= start:
        return False
    stop = await connection.fetchval(of.stop, *named, start, horizon, STEP, WORTH)
    if stop is None:
        return False
    await connection.execute(of.keep, *named, start, stop)
    return True


async def total(
    connection: Connection, org_id: UUID, shared: Shared, *, statuses: Sequence[str], agent_id: UUID | None, span: Span
) -> Counted:
    """How many calls that share it have one of these statuses, are of this agent or of any, and lie in this time."""
    of, named = _OF[shared.kind], (org_id, shared.key, shared.value, list(statuses), agent_id)
    until = await connection.fetchval(of.read, *named[:3]) or span.start
    hours = whole(Span(span.start, max(span.start, min(span.end, until))), HOUR)
    days = whole(hours, DAY)
    if days.is_empty:
        days = Span(hours.start, hours.start)
    found = 0
    if not hours.is_empty:
        found = await connection.fetchval(of.total, *named, days.start, days.end, hours.start, hours.end)
    left = WALKED
    for part in edges(span, hours):
        if not part.is_empty and left >= 0:
            row = await connection.fetchrow(of.count, *named, part.start, part.end, left)
            assert row is not None
            found, left = found + row["matching"], left - row["walked"]
    return Counted(found, is_exact=left >= 0)
