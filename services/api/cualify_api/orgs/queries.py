"""Orgs and their numbers in the database."""

from datetime import datetime
from uuid import UUID

from cualify_shared.database import Connection, Pool, Row

ADD = """
WITH org AS (
    INSERT INTO orgs (id, name, created_at)
    VALUES ($1, $2, $3)
    RETURNING id, name, created_at
), wallet AS (
    INSERT INTO org_credit (org_id)
    SELECT id FROM org
)
SELECT id, name, created_at
FROM org
"""


async def add(pool: Pool, *, org_id: UUID, name: str, at: datetime) -> Row:
    """A new org with an empty wallet."""
    row = await pool.fetchrow(ADD, org_id, name, at)
    assert row is not None
    return row


EXISTS = """
SELECT EXISTS (SELECT FROM orgs WHERE id = $1)
"""


async def exists(pool: Pool, org_id: UUID) -> bool:
    """Whether there is such an org."""
    found: bool = await pool.fetchval(EXISTS, org_id)
    return found


LIST = """
SELECT o.id, o.name, o.created_at, c.granted AS balance_paise, c.held AS held_paise, p.plan,
       p.rate_paise_per_sec, p.rate_limit_per_minute, p.active_until, p.expired_at
FROM orgs AS o
JOIN org_credit AS c ON c.org_id = o.id
LEFT JOIN org_plans AS p ON p.org_id = o.id
ORDER BY o.created_at DESC, o.id DESC
LIMIT $1 OFFSET $2
"""

TOTAL = """
SELECT count(*)
FROM orgs
"""


async def listed(pool: Pool, *, limit: int, offset: int) -> tuple[list[Row], int]:
    """One page of all orgs, newest first, and how many there are."""
    return await pool.fetch(LIST, limit, offset), await pool.fetchval(TOTAL)


LOCK = """
SELECT id
FROM orgs
WHERE id = $1
FOR NO KEY UPDATE
"""

NO_DEFAULT = """
UPDATE org_numbers
SET is_default = false
WHERE org_id = $1 AND is_default AND e164 <> $2
"""

ADD_NUMBER = """
INSERT INTO org_numbers (org_id, e164, is_default, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, e164) DO UPDATE SET is_default = excluded.is_default
RETURNING e164, is_default, created_at
"""


async def add_number(connection: Connection, org_id: UUID, *, e164: str, is_default: bool, at: datetime) -> Row:
    """Adds a number, or changes whether it is the default; there is one default at most."""
    await connection.fetchval(LOCK, org_id)
    if is_default:
        await connection.execute(NO_DEFAULT, org_id, e164)
    row = await connection.fetchrow(ADD_NUMBER, org_id, e164, is_default, at)
    assert row is not None
    return row
