"""Millions of calls over a few orgs, as a year of use would leave them: made by the server itself, indexed afterwards.

    python -m tests.support.many_calls postgresql://… 10000000

fills an empty database that is kept, for CALLS_DATABASE_URL of the benchmark of lists.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from cualify_shared.database import Pool, create_pool, migrate
from cualify_shared.ids import new_id

AGENTS = 5
SHARES = (80, 15, 5)
"""Of a hundred calls, how many are each org's."""
UNTIL = datetime(2026, 6, 1, tzinfo=UTC)

ADD_ORGS = """
WITH org AS (
    INSERT INTO orgs (id, name, created_at)
    SELECT id, 'org', $2::timestamptz
    FROM unnest($1::uuid[]) AS o (id)
    RETURNING id
)
INSERT INTO org_credit (org_id, granted)
SELECT id, 1000000000
FROM org
"""

ADD_AGENTS = """
INSERT INTO agents (id, org_id, name, language, max_duration_sec, provider, provider_agent_id, created_at)
SELECT id, org_id, 'agent', 'hi-IN', 300, 'bolna', 'prov', $3::timestamptz
FROM unnest($1::uuid[], $2::uuid[]) AS a (id, org_id)
"""

# n is the call's number from the newest on. Everything about it follows from n, so a seed can be made again.
ADD_CALLS = """
INSERT INTO calls (
    id, org_id, agent_id, status, from_e164, to_e164, language, metadata, external_id, key_prefix, request_id,
    created_at, latest_at, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider, provider_call_id,
    attempt, started_at, ended_at, duration_sec, debited_paise, terminal_at, end_told, customer_sequence
)
SELECT id, org_id, agent_id, status, '+918012345678', to_e164, 'hi-IN', metadata, 'crm-' || n, 'aaaaaaaa', 'req_seed',
       at, at + interval '15 minutes', 10, 1, 300, 3000, 'bolna', 'boln_' || replace(id::text, '-', ''), 1,
       at, ended_at, 60, 600, ended_at, ended_at IS NOT NULL, 3
FROM (
    SELECT *, CASE WHEN status NOT IN ('queued', 'in_progress') THEN at + interval '2 minutes' END AS ended_at,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8'
               || substr(h, 4, 15))::uuid AS id
    FROM (
        SELECT n, md5(n::text) AS h, $1::uuid AS org_id,
               ($2::uuid[])[1 + (hashint8(n) & 2147483647) % cardinality($2::uuid[])] AS agent_id,
               CASE WHEN n <= $3::bigint / 1000 THEN CASE n % 2 WHEN 0 THEN 'queued' ELSE 'in_progress' END
                    WHEN (hashint8(n + 7) & 1023) < 716 THEN 'completed'
                    WHEN (hashint8(n + 7) & 1023) < 870 THEN 'no_answer'
                    WHEN (hashint8(n + 7) & 1023) < 950 THEN 'busy'
                    WHEN (hashint8(n + 7) & 1023) < 1020 THEN 'failed'
                    ELSE 'canceled' END AS status,
               '+9198' || lpad(((hashint8(n + 11) & 2147483647) % greatest($3::bigint / 10, 10))::text, 8, '0')
                   AS to_e164,
               jsonb_build_object(
                   'crm_lead_id', 'L-' || n,
                   'lead_source', (ARRAY['google_ads', 'meta_ads', 'referral', 'walk_in'])[1 + (hashint8(n) & 3)]
               ) AS metadata,
               $4::timestamptz - (interval '365 days' / $3::bigint) * n AS at
        FROM generate_series(1, $3::bigint) AS n
    ) AS made
) AS dated
"""

ADD_LABELS = """
INSERT INTO call_labels (org_id, label, created_at, call_id)
SELECT c.org_id, call_label(m.key, m.value #>> '{}'), c.created_at, c.id
FROM calls AS c
CROSS JOIN jsonb_each(c.metadata) AS m
"""

ADD_COUNTS = """
INSERT INTO call_counts (org_id, status, calls)
SELECT org_id, status, count(*)
FROM calls
GROUP BY 1, 2
"""

ADD_ENDED_COUNTS = """
INSERT INTO ended_call_counts (org_id, grain, starts_at, agent_id, status, calls)
SELECT org_id, grain, date_trunc(grain, created_at, 'UTC'), agent_id, status, count(*)
FROM calls
CROSS JOIN (VALUES ('day'), ('hour')) AS g (grain)
WHERE terminal_at IS NOT NULL
GROUP BY 1, 2, 3, 4, 5
"""


@dataclass(frozen=True, slots=True)
class Seeded:
    """An org, its agents, and how many calls it has."""

    org_id: UUID
    agent_ids: Sequence[UUID]
    calls: int


async def seed_calls(pool: Pool, calls: int) -> list[Seeded]:
    """That many calls over three orgs, into an empty database. No trigger runs; what they would write is written."""
    orgs = [Seeded(new_id(), tuple(new_id() for _ in range(AGENTS)), max(1, calls * share // 100)) for share in SHARES]
    agents = [(agent, org.org_id) for org in orgs for agent in org.agent_ids]
    async with pool.acquire() as connection:
        await connection.execute("SET statement_timeout = 0; SET session_replication_role = replica")
        await connection.execute(ADD_ORGS, [org.org_id for org in orgs], UNTIL)
        await connection.execute(ADD_AGENTS, [one for one, _ in agents], [org_id for _, org_id in agents], UNTIL)
        async with _without_indexes(connection, "call_labels"):
            async with _without_indexes(connection, "calls"):
                for org in orgs:
                    await connection.execute(ADD_CALLS, org.org_id, org.agent_ids, org.calls, UNTIL, timeout=3600)
            await connection.execute(ADD_LABELS, timeout=3600)
        for statement in (ADD_COUNTS, ADD_ENDED_COUNTS):
            await connection.execute(statement, timeout=3600)
        await connection.execute("RESET session_replication_role; RESET statement_timeout")
        await _vacuum(connection)
    return orgs


INDEXES = """
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS made, c.conname AS rule,
       pg_get_constraintdef(c.oid) AS ruled
FROM pg_index AS i
LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
WHERE i.indrelid = $1::regclass
ORDER BY i.indexrelid
"""


@asynccontextmanager
async def _without_indexes(connection: asyncpg.pool.PoolConnectionProxy, table: str) -> AsyncIterator[None]:
    """Rows go in without indexes, which are built at the end: each by one sort instead of millions of look-ups."""
    indexes = await connection.fetch(INDEXES, table)
    for one in indexes:
        drop = (
            f"DROP INDEX {one['name']}" if one["rule"] is None else f"ALTER TABLE {table} DROP CONSTRAINT {one['rule']}"
        )
        await connection.execute(drop)
    yield
    await connection.execute("SET maintenance_work_mem = '512MB'")
    for one in indexes:
        made = (
            one["made"] if one["rule"] is None else f"ALTER TABLE {table} ADD CONSTRAINT {one['rule']} {one['ruled']}"
        )
        await connection.execute(made, timeout=3600)


async def _vacuum(connection: asyncpg.pool.PoolConnectionProxy) -> None:
    for table in ("calls", "call_labels", "call_counts", "ended_call_counts"):
        await connection.execute(f"VACUUM ANALYZE {table}", timeout=3600)


KEPT = """
SELECT c.org_id, sum(c.calls)::bigint AS calls,
       (SELECT array_agg(a.id) FROM agents AS a WHERE a.org_id = c.org_id) AS agents
FROM call_counts AS c
GROUP BY c.org_id
ORDER BY calls DESC
"""


async def seeded_before(pool: Pool) -> list[Seeded]:
    """What an earlier run has left in this database; the largest org first."""
    return [Seeded(row["org_id"], row["agents"], row["calls"]) for row in await pool.fetch(KEPT)]


async def main(dsn: str, calls: int) -> None:
    """Brings the database to the api's schema and fills it."""
    await migrate(dsn, package="cualify_api")
    pool, started = await create_pool(dsn, application_name="seed", size=1), time.perf_counter()
    await seed_calls(pool, calls)
    print(f"{calls:,} calls in {time.perf_counter() - started:.0f} s")
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
