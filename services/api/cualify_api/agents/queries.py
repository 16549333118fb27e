"""Agents in the database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from cualify_shared.database import Pool, Row

ADD = """
INSERT INTO agents (
    id, org_id, name, language, max_duration_sec, provider, provider_agent_id, created_at,
    fallback_providers
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id, name, language, max_duration_sec, provider, provider_agent_id, fallback_providers, created_at
"""


async def add(
    pool: Pool,
    *,
    agent_id: UUID,
    org_id: UUID,
    name: str,
    language: str,
    max_duration_sec: int,
    provider: str,
    provider_agent_id: str,
    fallback_providers: Sequence[Mapping[str, str]],
    at: datetime,
) -> Row:
    """Stores a new agent and returns it."""
    row = await pool.fetchrow(
        ADD,
        agent_id,
        org_id,
        name,
        language,
        max_duration_sec,
        provider,
        provider_agent_id,
        at,
        fallback_providers,
    )
    assert row is not None
    return row


LIST = """
SELECT id, name, language, max_duration_sec, provider, provider_agent_id, fallback_providers, created_at
FROM agents
WHERE org_id = $1
ORDER BY created_at DESC, id DESC
LIMIT $2 OFFSET $3
"""

TOTAL = """
SELECT count(*)
FROM agents
WHERE org_id = $1
"""


async def listed(pool: Pool, org_id: UUID, *, limit: int, offset: int) -> tuple[list[Row], int]:
    """One page of an org's agents, newest first, and how many there are."""
    return await pool.fetch(LIST, org_id, limit, offset), await pool.fetchval(TOTAL, org_id)
