"""How many calls a list has in all, exact, without counting them.

Totals by status are kept with every change of a status (`call_counts`). By agent and by time only ended calls are kept,
for their status never changes again: by the day and by the hour in which they were placed. What is left to count by the
index are the calls that are not over, and the parts of an hour at the two ends of the time asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from cualify_api.calls.call import Call
from cualify_shared.database import Connection

OPEN: Final = ("scheduled", "queued", "dialing", "in_progress")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

# Planned afresh each time, with the values in view: a plan made for any values would not use the indexes' order.
# What is NULL then falls away.
PLAN_AFRESH: Final = "SET LOCAL plan_cache_mode = force_custom_plan"

COUNT_ENDED = """
INSERT INTO ended_call_counts (org_id, grain, starts_at, agent_id, status, calls)
SELECT e.org_id, g.grain, date_trunc(g.grain, e.created_at, 'UTC') AS starts_at, e.agent_id, e.status, count(*)
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) AS e (org_id, agent_id, status, created_at)
CROSS JOIN (VALUES ('day'), ('hour')) AS g (grain)
GROUP BY e.org_id, g.grain, starts_at, e.agent_id, e.status
ORDER BY e.org_id, g.grain, starts_at, e.agent_id, e.status
ON CONFLICT (org_id, grain, starts_at, agent_id, status)
DO UPDATE SET calls = ended_call_counts.calls + excluded.calls
"""


async def count_ended(connection: Connection, ended: Sequence[Call]) -> None:
    """Counts calls whose end this transaction folds in: each call once in its life."""
    if not ended:
        return
    await connection.execute(
        COUNT_ENDED,
        [call.org_id for call in ended],
        [call.agent_id for call in ended],
        [call.status for call in ended],
        [call.created_at for call in ended],
    )


TOTAL_BY_STATUS = """
SELECT coalesce(sum(calls), 0)::bigint
FROM call_counts
WHERE org_id = $1 AND status = ANY($2::text[])
"""

TOTAL_KEPT = """
SELECT coalesce(sum(calls), 0)::bigint
FROM ended_call_counts
WHERE org_id = $1
  AND status = ANY($2::text[])
  AND ($3::uuid IS NULL OR agent_id = $3)
  AND (
      (grain = 'day' AND starts_at >= $4 AND starts_at < $5)
      OR (grain = 'hour' AND starts_at >= $6 AND starts_at < $4)
      OR (grain = 'hour' AND starts_at >= $5 AND starts_at < $7)
  )
"""

TOTAL_INDEXED = """
SELECT count(*)
FROM unnest($2::text[]) AS s (status)
JOIN calls AS c ON c.status = s.status
WHERE c.org_id = $1
  AND ($3::uuid IS NULL OR c.agent_id = $3)
  AND c.created_at >= $4
  AND c.created_at < $5
"""


@dataclass(frozen=True, slots=True)
class Span:
    """From an instant on, until before another."""

    start: datetime
    end: datetime

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies in it."""
        return self.end <= self.start


ALWAYS: Final = Span(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


async def total(
    connection: Connection, org_id: UUID, *, statuses: Sequence[str], agent_id: UUID | None, span: Span
) -> int:
    """How many calls of these statuses, of this agent or of all, were placed in this time."""
    if span.is_empty:
        return 0
    if agent_id is None and span == ALWAYS:
        return await _number(connection, TOTAL_BY_STATUS, org_id, statuses)
    days, hours = whole(span, DAY), whole(span, HOUR)
    if days.is_empty:  # the hours before and after an empty stretch of days are then all the hours there are
        days = Span(hours.start, hours.start)
    over = [status for status in statuses if status not in OPEN]
    under_way = [status for status in statuses if status in OPEN]
    kept = (
        0
        if hours.is_empty
        else await _number(connection, TOTAL_KEPT, org_id, over, agent_id, days.start, days.end, hours.start, hours.end)
    )
    for some, part in ((under_way, span), *((over, edge) for edge in edges(span, hours))):
        if some and not part.is_empty:
            kept += await _number(connection, TOTAL_INDEXED, org_id, some, agent_id, part.start, part.end)
    return kept


def edges(span: Span, hours: Span) -> tuple[Span, ...]:
    """What of `span` is not in `hours`."""
    return (span,) if hours.is_empty else (Span(span.start, hours.start), Span(hours.end, span.end))


def whole(span: Span, grain: timedelta) -> Span:
    """The whole hours or days, in UTC, inside a span."""
    epoch = ALWAYS.start
    start = epoch + -((epoch - span.start) // grain) * grain
    return Span(start, epoch + (span.end - epoch) // grain * grain)


async def _number(connection: Connection, statement: str, *arguments: object) -> int:
    found: int = await connection.fetchval(statement, *arguments)
    return found
