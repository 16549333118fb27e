"""Which replicas may send, and when all of them have seen that an endpoint has changed.

No query for each request: a replica looks twice a second at the endpoints that it holds, acts on what it sees, and
confirms it. From the beginning of such a look it may begin requests for `MAY_SEND_SEC`, then no more until it has
looked again. Who deletes, pauses or moves an endpoint waits, after the COMMIT, until every replica has confirmed a
look that began later, or may no longer send. So after the answer nothing is begun by what was known before.

A replica that had lapsed confirms first and may send only after its next look: between the two, who waits sees it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cualify_shared.database import Connection, Pool
from cualify_webhook_dispatcher.jobs import Endpoint
from cualify_webhook_dispatcher.queries import endpoint_of

LOOK_EVERY_SEC = 0.5
MAY_SEND_SEC = 3.0
_ASK_EVERY_SEC = 0.05
_FORGOTTEN_AFTER = timedelta(minutes=10)

LOOK = """
SELECT e.id, e.org_id, e.url, e.secret_sealed, e.secret_key_id, e.old_secret_sealed, e.old_secret_key_id,
       e.old_secret_until, e.recovered_at,
       NOT e.active OR e.opened_at IS NOT NULL OR coalesce(e.not_before > now(), false) AS closed,
       statement_timestamp() AS seen_at,
       (SELECT at FROM recalls) AS recalled_at
FROM (SELECT) AS always
LEFT JOIN endpoints e ON e.id = ANY($1::uuid[]) AND e.deleted_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has found: the endpoints that are there, which of them are not to be sent to, and when.

    `recalled_at`: when leases were last taken back.
    """

    endpoints: dict[UUID, Endpoint]
    closed: set[UUID]
    at: datetime
    recalled_at: datetime


async def look(pool: Pool, endpoint_ids: Sequence[UUID]) -> Seen:
    """How these endpoints are now."""
    rows = await pool.fetch(LOOK, endpoint_ids)
    there = [row for row in rows if row["id"] is not None]
    return Seen(
        {row["id"]: endpoint_of(row) for row in there},
        {row["id"] for row in there if row["closed"]},
        rows[0]["seen_at"],
        rows[0]["recalled_at"],
    )


RECALL = """
UPDATE recalls
SET at = clock_timestamp()
"""


async def recall(connection: Connection) -> None:
    """Says that leases were taken back, in the transaction that does it. `until_all_know` waits for all to see it."""
    await connection.execute(RECALL)


CONFIRM = """
WITH known AS (
    SELECT confirmed_at > clock_timestamp() - $3::interval AS is_live
    FROM replicas
    WHERE id = $1
),
forgotten AS (
    DELETE FROM replicas WHERE confirmed_at < now() - $4::interval AND id <> $1
),
confirmed AS (
    INSERT INTO replicas (id, confirmed_at)
    VALUES ($1, $2)
    ON CONFLICT (id) DO UPDATE SET confirmed_at = excluded.confirmed_at
)
SELECT coalesce((SELECT is_live FROM known), false)
"""


async def confirm(pool: Pool, replica_id: UUID, *, seen_at: datetime) -> bool:
    """Says that everything committed before `seen_at` is acted on. Whether this replica was known as live till now."""
    return bool(await pool.fetchval(CONFIRM, replica_id, seen_at, timedelta(seconds=MAY_SEND_SEC), _FORGOTTEN_AFTER))


LEAVE = """
DELETE FROM replicas
WHERE id = $1
"""


async def leave(pool: Pool, replica_id: UUID) -> None:
    """This replica sends no more; nobody waits for it."""
    await pool.execute(LEAVE, replica_id)


AFTER_COMMIT = """
SELECT clock_timestamp()
"""

BEHIND = """
SELECT count(*)
FROM replicas
WHERE confirmed_at <= $1 AND confirmed_at > clock_timestamp() - $2::interval AND id <> ALL($3::uuid[])
"""


async def until_all_know(pool: Pool, *, but: Sequence[UUID] = ()) -> None:
    """Returns when no replica acts any more on what was true before this was called; within 4 s at most.

    Call it after the COMMIT. `but`: replicas that have been told already.
    """
    committed_at = await pool.fetchval(AFTER_COMMIT)
    until = time.monotonic() + MAY_SEND_SEC + 0.5
    while await pool.fetchval(BEHIND, committed_at, timedelta(seconds=MAY_SEND_SEC), but):
        if time.monotonic() > until:
            return
        await asyncio.sleep(_ASK_EVERY_SEC)


@dataclass(slots=True)
class Permission:
    """Until when, on the monotonic clock, this replica may begin requests."""

    until: float = 0.0

    def holds(self, at: float) -> bool:
        """Whether a request may begin at that instant."""
        return at < self.until
