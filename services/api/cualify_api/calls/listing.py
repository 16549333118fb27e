"""Lists of calls: which page, and of how many. Both cost the same among ten million calls as among ten thousand.

A filter that names few calls (external_id, to_e164, a key of metadata that few calls share) is walked by its own
index, and what it finds is compared with the rest. All others are walked newest first, status by status, and merged:
a list of statuses is as many short walks along one index. Every walk ends with the page.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from cualify_api.calls import kept_counts, kept_sums, totals
from cualify_api.calls.call import STATUSES, Call
from cualify_api.calls.kept_sums import Shared
from cualify_api.calls.queries import COLUMNS, call_of
from cualify_api.calls.totals import PLAN_AFRESH, Span
from cualify_api.web.paging import TOP, Cursor
from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool

FEW: Final = 10_000
"""As many calls are counted one by one. Where more share a key of metadata or a number that is asked for with other
filters, `total` is a least number."""

INSTANT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which of an org's calls a list shows."""

    statuses: tuple[str, ...] | None = None
    agent_id: UUID | None = None
    to_e164: str | None = None
    external_id: str | None = None
    span: Span = totals.ALWAYS
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys and their values as text."""

    @property
    def walked(self) -> tuple[str, ...]:
        """The statuses to walk along."""
        return self.statuses or STATUSES


@dataclass(frozen=True, slots=True)
class Listed:
    """A page, one call longer than asked for where there is more; and how many there are."""

    calls: list[Call]
    total: int
    total_is_exact: bool = True


_MATCHES: Final = """
  AND ($2::text[] IS NULL OR status = ANY($2))
  AND ($3::uuid IS NULL OR agent_id = $3)
  AND created_at >= $4::timestamptz
  AND created_at < $5::timestamptz
  AND (created_at, id) < ($6::timestamptz, $7::uuid)
  AND ($8::text[] IS NULL OR NOT EXISTS (
      SELECT FROM unnest($8::text[], $9::text[]) AS w (key, value) WHERE metadata ->> w.key IS DISTINCT FROM w.value
  ))
"""

_NEWEST: Final = """
ORDER BY created_at DESC, id DESC
LIMIT $10 OFFSET $11
"""

LIST = "SELECT" + COLUMNS + "FROM calls WHERE org_id = $1" + _MATCHES + _NEWEST

LIST_BY_STATUS = (
    "SELECT"
    + COLUMNS
    + """
FROM unnest($2::text[]) AS s (wanted)
CROSS JOIN LATERAL (
    SELECT """
    + COLUMNS
    + """
    FROM calls
    WHERE org_id = $1 AND status = s.wanted"""
    + _MATCHES
    + """
    ORDER BY created_at DESC, id DESC
    LIMIT $10::bigint + $11::bigint
) AS c
"""
    + _NEWEST
)

LIST_TO_NUMBER = "SELECT" + COLUMNS + "FROM calls WHERE org_id = $1 AND to_e164 = $12" + _MATCHES + _NEWEST

LIST_OF_EXTERNAL_ID = (
    "SELECT"
    + COLUMNS
    + "FROM calls WHERE org_id = $1 AND external_id = $12 AND ($13::text IS NULL OR to_e164 = $13)"
    + _MATCHES
    + _NEWEST
)

# OFFSET 0 keeps the planner from turning the look-up of each call into a pass over all of them.
LIST_LABELLED = (
    "SELECT"
    + COLUMNS
    + """
FROM (
    SELECT created_at AS labelled_at, call_id
    FROM call_labels
    WHERE org_id = $1
      AND label = call_label($12, $13)
      AND created_at >= $4::timestamptz
      AND created_at < $5::timestamptz
      AND (created_at, call_id) < ($6::timestamptz, $7::uuid)
    ORDER BY created_at DESC, call_id DESC
    LIMIT $14
) AS l
CROSS JOIN LATERAL (SELECT * FROM calls WHERE id = l.call_id OFFSET 0) AS c
WHERE org_id = $1"""
    + _MATCHES
    + """
ORDER BY labelled_at DESC, call_id DESC
LIMIT $10 OFFSET $11
"""
)

COUNT_BY_STATUS = "SELECT count(*) FROM (" + LIST_BY_STATUS + ") AS few"
COUNT_TO_NUMBER = "SELECT count(*) FROM (" + LIST_TO_NUMBER + ") AS few"
COUNT_OF_EXTERNAL_ID = "SELECT count(*) FROM (" + LIST_OF_EXTERNAL_ID + ") AS few"
COUNT_LABELLED = "SELECT count(*) FROM (" + LIST_LABELLED + ") AS few"

COUNT_LABELS = """
SELECT count(*)
FROM (
    SELECT
    FROM call_labels
    WHERE org_id = $1 AND label = call_label($2, $3) AND created_at >= $4 AND created_at < $5
    LIMIT $6
) AS few
"""


# The second parameter has no use here; it is the label's key above.
COUNT_NUMBERS = """
SELECT count(*)
FROM (
    SELECT
    FROM calls
    WHERE org_id = $1 AND $2::text IS NOT NULL AND to_e164 = $3 AND created_at >= $4 AND created_at < $5
    LIMIT $6
) AS few
"""


@dataclass(frozen=True, slots=True)
class _Page:
    start: Cursor
    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Walk:
    """One way through the calls: a statement for the page, one that counts, and what both take beside the filters."""

    page: str
    count: str
    more: tuple[object, ...] = ()


async def listed(pool: Pool, org_id: UUID, wanted: Wanted, *, start: Cursor, limit: int, offset: int) -> Listed:
    """Up to `limit` + 1 calls after `start`, and the total, both of one moment."""
    page, shared = _Page(start, limit + 1, offset), _shared_alone(wanted)
    async with pool.acquire() as connection:
        if shared is not None and not wanted.span.is_empty:
            await kept_sums.keep(connection, org_id, shared, at=now())
        elif (beside := _shared_beside(wanted)) is not None and await _many_share(connection, org_id, beside, wanted):
            await kept_counts.keep(connection, org_id, beside, at=now())
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(PLAN_AFRESH)
            if shared is not None:
                return await _sharing(connection, org_id, wanted, shared, page)
            return await _listed(connection, org_id, wanted, page)


def _shared_alone(wanted: Wanted) -> Shared | None:
    """The key of metadata or the number that is asked for with nothing beside it but a time."""
    if len(wanted.metadata) == 1 and wanted == Wanted(metadata=wanted.metadata, span=wanted.span):
        return kept_sums.a_label(wanted.metadata)
    if wanted.to_e164 is not None and wanted == Wanted(to_e164=wanted.to_e164, span=wanted.span):
        return kept_sums.a_number(wanted.to_e164)
    return None


def _shared_beside(wanted: Wanted) -> Shared | None:
    """The one key of metadata, or the number, that is asked for together with statuses or an agent."""
    if wanted.external_id is not None or wanted.span.is_empty:
        return None
    if wanted.to_e164 is not None:
        return None if wanted.metadata else kept_sums.a_number(wanted.to_e164)
    return kept_sums.a_label(wanted.metadata) if len(wanted.metadata) == 1 else None


async def _many_share(connection: Connection, org_id: UUID, shared: Shared, wanted: Wanted) -> bool:
    counting = COUNT_LABELS if shared.kind == "metadata" else COUNT_NUMBERS
    named = (org_id, shared.key, shared.value, wanted.span.start, wanted.span.end)
    return bool(await connection.fetchval(counting, *named, FEW + 1) > FEW)


async def _sharing(connection: Connection, org_id: UUID, wanted: Wanted, shared: Shared, page: _Page) -> Listed:
    total = 0 if wanted.span.is_empty else await kept_sums.total(connection, org_id, shared, wanted.span)
    if page.offset >= total:
        return Listed([], total)
    if wanted.to_e164 is not None:
        return Listed(await _rows(connection, LIST_TO_NUMBER, org_id, wanted, page, shared.value), total)
    labelled = (shared.key, shared.value, 2**62)
    return Listed(await _rows(connection, LIST_LABELLED, org_id, wanted, page, *labelled), total)


async def _listed(connection: Connection, org_id: UUID, wanted: Wanted, page: _Page) -> Listed:
    if wanted.external_id is not None:
        walk = _Walk(LIST_OF_EXTERNAL_ID, COUNT_OF_EXTERNAL_ID, (wanted.external_id, wanted.to_e164))
        return await _among_few(connection, org_id, wanted, walk, page)
    if wanted.to_e164 is not None:
        walk = _Walk(LIST_TO_NUMBER, COUNT_TO_NUMBER, (wanted.to_e164,))
        found, shared = await _among_few(connection, org_id, wanted, walk, page), _shared_beside(wanted)
        if found.total_is_exact or shared is None:
            return found
        return await _kept(connection, org_id, wanted, shared, found.calls)
    total = await totals.total(connection, org_id, statuses=wanted.walked, agent_id=wanted.agent_id, span=wanted.span)
    if total and wanted.metadata:
        return await _labelled(connection, org_id, wanted, page, without_labels=total)
    if page.offset >= total:
        return Listed([], total)
    by_status = wanted.statuses is not None or wanted.agent_id is not None
    return Listed(await _rows(connection, LIST_BY_STATUS if by_status else LIST, org_id, wanted, page), total)


async def _labelled(
    connection: Connection, org_id: UUID, wanted: Wanted, page: _Page, *, without_labels: int
) -> Listed:
    """By the key of metadata that fewest calls share; if many share it, and few match the rest, the other way round."""
    shared, key, value = FEW + 1, *next(iter(wanted.metadata.items()))
    for one in wanted.metadata.items():
        calls = await connection.fetchval(COUNT_LABELS, org_id, *one, wanted.span.start, wanted.span.end, FEW + 1)
        shared, key, value = min((shared, key, value), (calls, *one))
    if shared > FEW and without_labels <= FEW:
        return await _among_few(connection, org_id, wanted, _Walk(LIST_BY_STATUS, COUNT_BY_STATUS), page)
    calls = await _rows(connection, LIST_LABELLED, org_id, wanted, page, key, value, 2**62)
    if shared > FEW and (beside := _shared_beside(wanted)) is not None:
        return await _kept(connection, org_id, wanted, beside, calls)
    counting = _Page(TOP, FEW + 1, 0)
    total = await _number(connection, COUNT_LABELLED, org_id, wanted, counting, key, value, FEW)
    return Listed(calls, total, total_is_exact=shared <= FEW)


async def _kept(connection: Connection, org_id: UUID, wanted: Wanted, shared: Shared, calls: list[Call]) -> Listed:
    """The page with its total, of what was counted before and what has come since."""
    kept = await kept_counts.total(
        connection, org_id, shared, statuses=wanted.walked, agent_id=wanted.agent_id, span=wanted.span
    )
    return Listed(calls, kept.calls, kept.is_exact)


async def _among_few(connection: Connection, org_id: UUID, wanted: Wanted, walk: _Walk, page: _Page) -> Listed:
    total = await _number(connection, walk.count, org_id, wanted, _Page(TOP, FEW + 1, 0), *walk.more)
    calls = await _rows(connection, walk.page, org_id, wanted, page, *walk.more) if total else []
    return Listed(calls, min(total, FEW), total_is_exact=total <= FEW)


async def _rows(
    connection: Connection, statement: str, org_id: UUID, wanted: Wanted, page: _Page, *more: object
) -> list[Call]:
    rows = await connection.fetch(statement, *_arguments(org_id, wanted, page, statement), *more)
    return [call_of(row) for row in rows]


async def _number(
    connection: Connection, statement: str, org_id: UUID, wanted: Wanted, page: _Page, *more: object
) -> int:
    found: int = await connection.fetchval(statement, *_arguments(org_id, wanted, page, statement), *more)
    return found


def _arguments(org_id: UUID, wanted: Wanted, page: _Page, statement: str) -> tuple[object, ...]:
    by_status = statement in (LIST_BY_STATUS, COUNT_BY_STATUS)
    # Said of `created_at` alone too: of two upper bounds PostgreSQL may begin at the other and walk to the cursor.
    end = page.start.at + INSTANT if page.start.at < wanted.span.end else wanted.span.end
    return (
        org_id,
        wanted.walked if by_status else wanted.statuses,
        wanted.agent_id,
        wanted.span.start,
        end,
        page.start.at,
        page.start.id,
        list(wanted.metadata) or None,
        list(wanted.metadata.values()) or None,
        page.limit,
        page.offset,
    )
