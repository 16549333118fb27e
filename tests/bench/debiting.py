"""A replica of billing that does nothing but debit: ended calls made beforehand, then batch after batch at a signal.

python -m tests.bench.debiting <dsn> <orgs> <batches> <calls a batch>
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from uuid import UUID

from cualify_billing.consume import on_call_events
from cualify_shared.database import create_pool
from cualify_shared.events import Event
from tests.billing.conftest import ended


def orgs(count: int) -> list[UUID]:
    """The orgs of the benchmark."""
    return [UUID(int=n) for n in range(1, count + 1)]


async def main(dsn: str, org_count: int, batches: int, size: int) -> None:
    """Says `ready`, waits for a line, debits, says `done`."""
    pool = await create_pool(dsn, application_name="bench", size=2)
    chosen = orgs(org_count)
    work: list[Sequence[Event]] = [
        [ended(random.choice(chosen), duration_sec=1) for _ in range(size)] for _ in range(batches)
    ]
    async with pool.acquire() as connection, connection.transaction():
        await on_call_events(connection, work.pop())
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in work:
        async with pool.acquire() as connection, connection.transaction():
            await on_call_events(connection, batch)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
