"""An org's endpoints: registered, listed, deleted, swept. `org_id` comes first in what customers reach."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import sign
from cualify_webhook_dispatcher.secrets import Secrets

MAX_PER_ORG = 20


@dataclass(frozen=True, slots=True)
class Registered:
    """The endpoint as it is shown, and its secret, shown this once."""

    shown: dict[str, Any]
    secret: str


@dataclass(frozen=True, slots=True)
class TooMany:
    """The org has as many as it may have."""


LOCK_ORG = """
SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))
"""

REGISTER = """
INSERT INTO endpoints (id, org_id, url, events, secret_sealed, secret_key_id)
SELECT $2::uuid, $1::uuid, $3::text, $4::text[], $5::bytea, $6::text
WHERE (SELECT count(*) FROM endpoints WHERE org_id = $1::uuid AND deleted_at IS NULL) < $7::integer
RETURNING id, url, events, active, created_at
"""


async def register(pool: Pool, secrets: Secrets, *, org_id: UUID, url: str, events: list[str]) -> Registered | TooMany:
    """A new endpoint with a secret of its own. Two at once can't pass the limit together."""
    endpoint_id, secret = new_id(), sign.new_secret()
    sealed = secrets.seal(secret, endpoint_id=endpoint_id, org_id=org_id)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ORG, str(org_id))
        row = await connection.fetchrow(REGISTER, org_id, endpoint_id, url, events, sealed, secrets.key_id, MAX_PER_ORG)
    return TooMany() if row is None else Registered(dict(row), secret)


LIST = """
SELECT id, url, events, active, created_at, last_delivery_at, last_status
FROM endpoints
WHERE org_id = $1 AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC
LIMIT $2 OFFSET $3
"""

COUNT = """
SELECT count(*)
FROM endpoints
WHERE org_id = $1 AND deleted_at IS NULL
"""


async def listed(pool: Pool, *, org_id: UUID, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
    """A page, newest first, and how many there are."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(LIST, org_id, limit, offset)
        return [dict(row) for row in rows], int(await connection.fetchval(COUNT, org_id))


DELETE = """
UPDATE endpoints
SET deleted_at = clock_timestamp(), secret_sealed = NULL
WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id
"""


async def delete(pool: Pool, *, org_id: UUID, endpoint_id: UUID) -> bool:
    """Whether the org had it. From the COMMIT on nothing of it is claimed, and its secret is gone."""
    return await pool.fetchval(DELETE, org_id, endpoint_id) is not None


SWEEP_DELIVERIES = """
DELETE FROM deliveries d
USING (
    SELECT p.event_id, p.endpoint_id
    FROM endpoints e
    JOIN deliveries p ON p.endpoint_id = e.id AND p.state = 'pending'
    WHERE e.deleted_at IS NOT NULL
    LIMIT $1
) gone
WHERE d.event_id = gone.event_id AND d.endpoint_id = gone.endpoint_id
RETURNING d.event_id
"""

SWEEP_ENDPOINTS = """
DELETE FROM endpoints e
WHERE e.deleted_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.endpoint_id = e.id AND d.state = 'pending')
"""


async def sweep(pool: Pool, *, at_most: int) -> int:
    """Removes what was to go to deleted endpoints, then their rows. How many deliveries went."""
    swept = len(await pool.fetch(SWEEP_DELIVERIES, at_most))
    if swept < at_most:
        await pool.execute(SWEEP_ENDPOINTS)
    return swept
