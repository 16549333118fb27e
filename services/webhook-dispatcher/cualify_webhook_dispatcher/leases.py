"""Whose a lease is: the first half of its token says it. So a named replica finds what it held before it was killed.

Only what is started again under the same name may know that its predecessor is dead; a lease of anybody else's lapses.
The ids of replicas are made the same way. So one that is given a name in use sees that it is, and takes nothing.
"""

import hashlib
import os
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from cualify_shared.database import Pool
from cualify_webhook_dispatcher import claims, presence

_HALF = 8
_LIVES = timedelta(seconds=2.4 * presence.LOOK_EVERY_SEC)
"""A replica that has confirmed a look within this time may be alive."""


def tokens_of(replica: str) -> Callable[[], UUID]:
    """Makes fencing tokens: none is made twice, and all of a named replica's begin alike."""
    whose = _beginning(replica) if replica else os.urandom(_HALF)
    return lambda: UUID(bytes=whose + os.urandom(_HALF))


LIVES = """
SELECT count(*)
FROM replicas
WHERE id BETWEEN $1::uuid AND $2::uuid AND id <> $3 AND confirmed_at > clock_timestamp() - $4::interval
"""

LEFT_BEHIND = """
SELECT d.event_id, d.endpoint_id, d.lease_token
FROM endpoints e
CROSS JOIN LATERAL (
    SELECT event_id, endpoint_id, lease_token
    FROM deliveries
    WHERE endpoint_id = e.id AND finished_at IS NULL AND (replay_id IS NOT NULL) = false
      AND due_at > now() AND due_at <= now() + $3::interval
    UNION ALL
    SELECT event_id, endpoint_id, lease_token
    FROM deliveries
    WHERE endpoint_id = e.id AND finished_at IS NULL AND (replay_id IS NOT NULL) = true
      AND due_at > now() AND due_at <= now() + $3::interval
) d
WHERE e.deleted_at IS NULL AND d.lease_token BETWEEN $1::uuid AND $2::uuid
"""


async def give_back_what_was_left(pool: Pool, replica: str, *, replica_id: UUID, lease: timedelta) -> int | None:
    """Lets anybody claim what this replica had claimed in its last life. How many; call it before it claims again.

    `replica_id` is that of the life that has begun. None: another of its name may be alive.
    """
    low, high = (UUID(bytes=_beginning(replica) + end * _HALF) for end in (b"\x00", b"\xff"))
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(LIVES, low, high, replica_id, _LIVES):
            return None
        left = await connection.fetch(LEFT_BEHIND, low, high, lease)
        if left:
            await connection.execute(claims.LOCK, list({row["endpoint_id"] for row in left}))
            events, endpoints, tokens = ([row[n] for row in left] for n in range(3))
            await connection.execute(claims.GIVE_BACK, events, endpoints, tokens)
    return len(left)


def _beginning(replica: str) -> bytes:
    return hashlib.sha256(replica.encode()).digest()[:_HALF]
