"""API keys in the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_shared.database import Pool, Row


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is needed to let a request in."""

    prefix: str
    org_id: UUID
    key_hash: bytes
    expires_at: datetime | None
    revoked_at: datetime | None
    test: bool
    scopes: frozenset[str] | None
    """None: all."""


FIND = """
SELECT prefix, org_id, key_hash, expires_at, revoked_at, test, scopes
FROM api_keys
WHERE prefix = $1
"""


async def find(pool: Pool, prefix: str) -> StoredKey | None:
    """A key by its public part, revoked or not."""
    row = await pool.fetchrow(FIND, prefix)
    if row is None:
        return None
    scopes = None if row["scopes"] is None else frozenset(row["scopes"])
    return StoredKey(**(dict(row) | {"scopes": scopes}))


ADD = """
INSERT INTO api_keys (prefix, org_id, name, key_hash, created_at, expires_at, scopes, test)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def add(
    pool: Pool,
    *,
    org_id: UUID,
    prefix: str,
    name: str | None,
    key_hash: bytes,
    at: datetime,
    expires_at: datetime | None,
    scopes: Sequence[str] | None,
    test: bool,
) -> None:
    """Stores a new key."""
    await pool.execute(ADD, prefix, org_id, name, key_hash, at, expires_at, scopes, test)


LIST = """
SELECT prefix, name, test, scopes, created_at, expires_at, revoked_at, last_used_at
FROM api_keys
WHERE org_id = $1
ORDER BY created_at, prefix
"""


async def of_org(pool: Pool, org_id: UUID) -> list[Row]:
    """An org's keys, oldest first."""
    return await pool.fetch(LIST, org_id)


REVOKE = """
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, $2::timestamptz)
WHERE prefix = $1
RETURNING revoked_at
"""


async def revoke(pool: Pool, prefix: str, *, at: datetime) -> datetime | None:
    """When the key was revoked, now or before; None if there is no such key."""
    revoked_at: datetime | None = await pool.fetchval(REVOKE, prefix, at)
    return revoked_at


NOTE_USE = """
UPDATE api_keys AS k
SET last_used_at = u.at
FROM unnest($1::text[], $2::timestamptz[]) AS u (prefix, at)
WHERE k.prefix = u.prefix
  AND (k.last_used_at IS NULL OR k.last_used_at < u.at)
"""


async def note_use(pool: Pool, used: Mapping[str, datetime]) -> None:
    """Keeps when keys were last used."""
    await pool.execute(NOTE_USE, list(used), list(used.values()))
