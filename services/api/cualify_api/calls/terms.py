"""What requests for calls are decided on: the orgs' credit (locked), plans, agents and numbers."""

import time
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cualify_api.calls.decide import Agent, Credit, Plan
from cualify_shared.database import Connection
from cualify_shared.events.call import MOST_CONCURRENT_CALLS, Fallback

FRESH_SEC: Final = 10.0
REMEMBERED: Final = 10_000

LOCK_CREDIT = """
SELECT org_id, granted, held, frozen
FROM org_credit
WHERE org_id = ANY($1::uuid[])
ORDER BY org_id
FOR UPDATE
"""


async def locked_credit(connection: Connection, org_ids: Sequence[UUID]) -> dict[UUID, Credit]:
    """The credit of these orgs, locked in order of org until the transaction ends."""
    rows = await connection.fetch(LOCK_CREDIT, sorted(set(org_ids)))
    return {row["org_id"]: Credit(row["granted"], row["held"], row["frozen"]) for row in rows}


LOCK_TERMS = """
SELECT c.org_id, c.granted, c.held, c.frozen, n.e164,
       p.org_id IS NOT NULL AS has_plan, p.rate_paise_per_sec, p.pulse_sec, p.active_until, p.expired_at,
       p.max_concurrent_calls, p.min_billable_sec
FROM org_credit AS c
LEFT JOIN org_plans AS p ON p.org_id = c.org_id
LEFT JOIN org_numbers AS n ON n.org_id = c.org_id AND n.is_default
WHERE c.org_id = ANY($1::uuid[])
ORDER BY c.org_id
FOR UPDATE OF c
"""


@dataclass(frozen=True, slots=True)
class OrgTerms:
    """What orgs may spend, on which terms, and from which number they call unless they say."""

    credits: dict[UUID, Credit]
    plans: dict[UUID, Plan]
    default_numbers: dict[UUID, str]


async def locked_terms(connection: Connection, org_ids: Sequence[UUID]) -> OrgTerms:
    """The credit of these orgs, locked in order of org until the transaction ends, with plan and default number.

    Those two are as they stood when the statement began: a plan that ends while a batch waits for the lock still
    counts for that batch.
    """
    rows = await connection.fetch(LOCK_TERMS, org_ids)
    return OrgTerms(
        credits={row["org_id"]: Credit(row["granted"], row["held"], row["frozen"]) for row in rows},
        plans={
            row["org_id"]: Plan(
                row["rate_paise_per_sec"],
                row["pulse_sec"],
                row["active_until"],
                row["expired_at"],
                min(row["max_concurrent_calls"], MOST_CONCURRENT_CALLS),
                row["min_billable_sec"],
            )
            for row in rows
            if row["has_plan"]
        },
        default_numbers={row["org_id"]: row["e164"] for row in rows if row["e164"] is not None},
    )


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


READ_AGENTS = """
SELECT org_id, id, language, max_duration_sec, provider, provider_agent_id, fallback_providers
FROM agents
WHERE (org_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
"""


class Agents:
    """Agents by (org, id), remembered for ten seconds. Another org's agent is none, and none is never remembered."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[UUID, UUID], tuple[float, Agent]] = {}

    async def of(self, connection: Connection, pairs: AbstractSet[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Agent]:
        """Those of these agents that there are."""
        at = self._clock()
        fresh = {pair: known[1] for pair in pairs if (known := self._known.get(pair)) and at - known[0] < FRESH_SEC}
        wanted = [pair for pair in pairs if pair not in fresh]
        if not wanted:
            return fresh
        read = await _agents(connection, wanted)
        if len(self._known) + len(read) > REMEMBERED:
            self._known.clear()
        self._known.update((pair, (at, agent)) for pair, agent in read.items())
        return fresh | read


async def _agents(connection: Connection, pairs: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Agent]:
    rows = await connection.fetch(READ_AGENTS, [org_id for org_id, _ in pairs], [agent_id for _, agent_id in pairs])
    return {
        (row["org_id"], row["id"]): Agent(
            row["language"],
            row["max_duration_sec"],
            row["provider"],
            row["provider_agent_id"],
            tuple(map(Fallback.model_validate, row["fallback_providers"])) or None,
        )
        for row in rows
    }


OWN_NUMBERS = """
SELECT org_id, e164
FROM org_numbers
WHERE (org_id, e164) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""


async def own_numbers(connection: Connection, named: Sequence[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Which of these (org, number) pairs are true."""
    if not named:
        return set()
    rows = await connection.fetch(OWN_NUMBERS, [one[0] for one in named], [one[1] for one in named])
    return {(row["org_id"], row["e164"]) for row in rows}
