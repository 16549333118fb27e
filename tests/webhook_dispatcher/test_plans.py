"""How the hot statements find their rows before the first ANALYZE.

A burst right after the first deliveries once took minutes: without statistics two indexes that begin with the endpoint
look alike, the plan was kept, and each row of a batch read everything that its endpoint had waiting.
"""

import re

import pytest

from cualify_shared.database import Pool
from cualify_webhook_dispatcher import claims, queries

PRIMARY_KEY, BY_CALL, BY_DUE = "an_event_goes_to_an_endpoint_once", "deliveries_in_order", "deliveries_due"


@pytest.mark.parametrize(
    ("statement", "used", "unused"),
    [
        (queries.RECORD, {PRIMARY_KEY, BY_CALL}, {BY_DUE}),
        (queries.INSERT_DELIVERIES, {PRIMARY_KEY, BY_CALL}, {BY_DUE}),
        (claims.RENEW, {PRIMARY_KEY}, {BY_DUE, BY_CALL}),
        (claims.CLAIM, {BY_DUE}, {BY_CALL}),
        (claims.LOOK_AGAIN, {BY_DUE}, {BY_CALL}),
    ],
    ids=["record", "insert", "renew", "claim", "look again"],
)
async def test_a_hot_statement_finds_its_rows_by_the_right_index_without_statistics(
    pool: Pool, statement: str, used: set[str], unused: set[str]
) -> None:
    parameters = len(set(re.findall(r"\$\d+", statement)))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE hot AS {statement}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE hot ({', '.join(['NULL'] * parameters)})")
        await connection.execute("DEALLOCATE hot")
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on deliveries" not in plan, plan
    for index in used:
        assert index in plan, plan
    for index in unused:
        assert index not in plan, plan
