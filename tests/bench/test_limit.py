"""What asking the rate limit costs: an org of 120 a minute beside one of a million, whose minute has 60,000 entries."""

import os
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from cualify_api.web.rate_limit import take
from cualify_shared.database import Connection, Pool
from cualify_shared.ids import new_id
from tests.api.world import running
from tests.support.databases import MakeDatabase

TAKES = 500
FILL = """
WITH head AS (
    INSERT INTO rate_windows (org_id, taken, last_at) VALUES ($1::uuid, $2::bigint * $3::bigint, clock_timestamp())
)
INSERT INTO rate_log (org_id, at, before, after)
SELECT $1::uuid, clock_timestamp() - make_interval(secs => 59.0 * (1 - n::float8 / $2)), (n - 1) * $3, n * $3
FROM generate_series(1, $2::bigint) AS n
"""


@pytest.mark.bench
async def test_a_million_a_minute_costs_what_120_cost(
    database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]]
) -> None:
    pool = await pool_for(await database("cualify_api"))
    async with running(pool) as world:
        small, large = await world.org(per_minute=120), await world.org(per_minute=1_000_000)
    full = new_id()
    async with pool.acquire() as connection:
        await connection.execute(FILL, large.id, 60_000, 16)
        await connection.execute(FILL, full, 60_000, 16)
        await connection.execute("ANALYZE rate_log")
        costs = {
            "120 a minute, passing and refused": await cost_us(connection, small.id),
            "1,000,000 a minute, passing": await cost_us(connection, large.id),
            "60,000 entries, refused": await cost_us(connection, full),
        }
    least = min(costs.values())
    print(f"\n{os.cpu_count()} cores; one question for one org, {TAKES} times")
    for name, cost in costs.items():
        print(f"{name}: {cost:,.0f} µs ({cost / least:.2f})")


async def cost_us(connection: Connection, org_id: UUID) -> float:
    """Of one question, in microseconds, the way to the database and back included."""
    began = time.perf_counter()
    for _ in range(TAKES):
        await take(connection, [org_id])
    return (time.perf_counter() - began) / TAKES * 1e6
