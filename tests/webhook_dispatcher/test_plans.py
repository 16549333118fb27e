"""How the hot statements find their rows before the first ANALYZE.

A burst right after the first deliveries once took minutes: without statistics two indexes that begin with the endpoint
look alike, the plan was kept, and each row of a batch read everything that its endpoint had waiting.
"""

import re
from datetime import timedelta

import pytest

from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import claims, leases, queries
from cualify_webhook_dispatcher.jobs import Notification
from cualify_webhook_dispatcher.main import SERVICE
from tests.webhook_dispatcher.conftest import Dispatcher

PRIMARY_KEY, BY_CALL, BY_DUE = "an_event_goes_to_an_endpoint_once", "deliveries_in_order", "deliveries_due"


@pytest.mark.parametrize(
    ("statement", "used", "unused"),
    [
        (queries.RECORD, {PRIMARY_KEY, BY_CALL}, {BY_DUE}),
        (queries.INSERT_DELIVERIES, {PRIMARY_KEY, BY_CALL}, {BY_DUE}),
        (claims.RENEW, {PRIMARY_KEY}, {BY_DUE, BY_CALL}),
        (claims.CLAIM, {BY_DUE}, {BY_CALL}),
        (claims.LOOK_AGAIN, {BY_DUE}, {BY_CALL}),
        (leases.LEFT_BEHIND, {BY_DUE}, {BY_CALL}),
    ],
    ids=["record", "insert", "renew", "claim", "look again", "left behind"],
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


FILL = """
INSERT INTO deliveries (event_id, endpoint_id, subject_id, sequence, state, behind, attempts, due_at, finished_at)
SELECT gen_random_uuid(), $1, gen_random_uuid(), 1, 'delivered', false, 1, now(), now()
FROM generate_series(1, $2::integer)
"""


async def test_statistics_from_when_there_was_one_delivery_make_no_batch_read_them_all(idle: Dispatcher) -> None:
    pool, org_id, count = idle.pool, new_id(), 100
    endpoint_id, _ = await idle.register(org_id, "http://127.0.0.1:9/")
    await pool.execute("ALTER TABLE deliveries SET (autovacuum_enabled = false)")
    await pool.execute(FILL, endpoint_id, 1)
    await pool.execute("VACUUM ANALYZE deliveries")
    await pool.execute("VACUUM ANALYZE endpoints")
    await pool.execute(FILL, endpoint_id, 20_000)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for setting, value in SERVICE.database_settings.items():
            await connection.execute(f"SET LOCAL {setting} = {value}")
        told = [
            Notification(new_id(), org_id, new_id(), "call.completed", n, now(), b"{}") for n in range(1, count + 1)
        ]
        rows = await connection.fetch(
            "EXPLAIN (ANALYZE, TIMING OFF) " + queries.INSERT_DELIVERIES,
            *queries.arrays_of(told),
            [endpoint_id],
            [1000],
            1000,
            timedelta(seconds=8),
            new_id(),
        )
    plan = "\n".join(row[0] for row in rows)
    read = [float(rows) * int(loops) for rows, loops in re.findall(r"actual rows=([\d.]+) loops=(\d+)", plan)]
    passed_over = [int(n) for n in re.findall(r"Rows Removed by .*Filter: (\d+)", plan)]
    assert max(read) <= 2 * count, plan
    assert max(passed_over, default=0) <= 2 * count, plan
