"""What an org's plan allows, and how much of it is used."""

from uuid import UUID

from cualify_shared.database import Pool, Row

READ = """
SELECT p.plan, p.rate_limit_per_minute, p.max_concurrent_calls, p.active_until, p.expired_at,
       (SELECT coalesce(sum(c.calls), 0)::bigint
        FROM call_counts AS c
        WHERE c.org_id = $1 AND c.status IN ('dialing', 'in_progress')) AS under_way,
       (SELECT coalesce(sum(c.calls), 0)::bigint
        FROM call_counts AS c
        WHERE c.org_id = $1 AND c.status IN ('queued', 'scheduled')) AS waiting,
       (SELECT w.taken - coalesce(
            (SELECT l.before
             FROM rate_log AS l
             WHERE l.org_id = $1 AND l.at > clock_timestamp() - interval '60 seconds'
             ORDER BY l.at
             LIMIT 1),
            w.taken)
        FROM rate_windows AS w
        WHERE w.org_id = $1) AS requests_used
FROM orgs AS o
LEFT JOIN org_plans AS p ON p.org_id = o.id
WHERE o.id = $1
"""


async def limits(pool: Pool, org_id: UUID) -> Row:
    """The plan's columns are NULL where the org has never had one."""
    row = await pool.fetchrow(READ, org_id)
    assert row is not None, "the key's org exists"
    return row
