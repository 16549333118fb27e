"""What requests for calls are decided on: the orgs' credit (locked), plans, agents and numbers."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from cualify_api.calls.decide import Agent, Credit, Plan
from cualify_shared.database import Connection

LOCK_CREDIT = """
SELECT org_id, granted, held
FROM org_credit
WHERE org_id = ANY($1::uuid[])
ORDER BY org_id
FOR UPDATE
"""


async def locked_credit(connection: Connection, org_ids: Sequence[UUID]) -> dict[UUID, Credit]:
    """The credit of these orgs, locked in order of org until the transaction ends."""
    rows = await connection.fetch(LOCK_CREDIT, sorted(set(org_ids)))
    return {row["org_id"]: Credit(row["granted"], row["held"]) for row in rows}


CHANGE_CREDIT = """
UPDATE org_credit AS c
SET granted = c.granted + d.granted_paise, held = c.held + d.held_paise
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS d (org_id, granted_paise, held_paise)
WHERE c.org_id = d.org_id
"""


async def change_credit(connection: Connection, changes: Mapping[UUID, tuple[int, int]]) -> None:
    """Adds to (granted, held) of orgs whose rows this transaction has locked."""
    if not changes:
        return
    await connection.execute(
        CHANGE_CREDIT, list(changes), [one[0] for one in changes.values()], [one[1] for one in changes.values()]
    )


READ_PLANS = """
SELECT org_id, rate_paise_per_sec, pulse_sec, active_until, expired_at
FROM org_plans
WHERE org_id = ANY($1::uuid[])
"""


async def plans(connection: Connection, org_ids: Sequence[UUID]) -> dict[UUID, Plan]:
    """The newest plan of each org, active or not."""
    rows = await connection.fetch(READ_PLANS, org_ids)
    return {
        row["org_id"]: Plan(row["rate_paise_per_sec"], row["pulse_sec"], row["active_until"], row["expired_at"])
        for row in rows
    }


READ_AGENTS = """
SELECT org_id, id, language, max_duration_sec, provider, provider_agent_id
FROM agents
WHERE (org_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
"""


async def agents(connection: Connection, pairs: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Agent]:
    """Agents by (org, id): another org's agent is none."""
    rows = await connection.fetch(READ_AGENTS, [org_id for org_id, _ in pairs], [agent_id for _, agent_id in pairs])
    return {
        (row["org_id"], row["id"]): Agent(
            row["language"], row["max_duration_sec"], row["provider"], row["provider_agent_id"]
        )
        for row in rows
    }


READ_NUMBERS = """
SELECT org_id, e164, is_default
FROM org_numbers
WHERE (is_default AND org_id = ANY($1::uuid[]))
   OR (org_id, e164) IN (SELECT * FROM unnest($2::uuid[], $3::text[]))
"""


async def numbers(
    connection: Connection, org_ids: Sequence[UUID], named: Sequence[tuple[UUID, str]]
) -> tuple[dict[UUID, str], set[tuple[UUID, str]]]:
    """The default number of each org; and which of the (org, number) pairs are true."""
    rows = await connection.fetch(READ_NUMBERS, org_ids, [one[0] for one in named], [one[1] for one in named])
    return (
        {row["org_id"]: row["e164"] for row in rows if row["is_default"]},
        {(row["org_id"], row["e164"]) for row in rows},
    )
