"""A process that dies between the money and its event has done neither; the batch that comes again does both."""

import os
import signal
import subprocess
import sys
from uuid import UUID, uuid4

import pytest

from cualify_shared.database import Pool
from tests.billing.conftest import assert_sound, balance, consume, ended, said, top_up

# A process of its own that handles the batch of one call, as the service would.
CONSUMER = """
import asyncio, sys
from uuid import UUID
from cualify_shared.database import create_pool
from tests.billing.conftest import consume, ended

async def main(dsn, org, call):
    pool = await create_pool(dsn, application_name="dies", size=2)
    await consume(pool, [ended(UUID(org), call_id=UUID(call))])

asyncio.run(main(*sys.argv[1:]))
"""


def consume_elsewhere(dsn: str, *, org: UUID, call: UUID, dies_at: str) -> int:
    """The exit code of a process that dies at that point."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "FAULTS": dies_at, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, "-c", CONSUMER, dsn, str(org), str(call)], env=environment, timeout=60, check=False
    ).returncode


ACTOR = """
import asyncio, sys
from uuid import UUID
from cualify_shared.database import create_pool

async def main(dsn, org):
    await act(await create_pool(dsn, application_name="dies", size=2), UUID(org))

asyncio.run(main(*sys.argv[1:]))
"""


def die_at(point: str, dsn: str, acting: str, org: UUID) -> None:
    """Runs `acting`, which defines `act(pool, org)`, in a process that dies at that point."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "FAULTS": point, "PYTHONPATH": paths}
    command = [sys.executable, "-c", acting + ACTOR, dsn, str(org)]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("point", "written"),
    [("billing.posted", False), ("reads.call.events.handled", False), ("reads.call.events.committed", True)],
)
async def test_a_kill_at_any_point_debits_once_and_says_it_once(
    dsn: str, pool: Pool, point: str, written: bool
) -> None:
    org, call = uuid4(), uuid4()
    await top_up(pool, org, 10_000)
    assert consume_elsewhere(dsn, org=org, call=call, dies_at=point) == -signal.SIGKILL
    assert await balance(pool, org) == (8580 if written else 10_000)
    await consume(pool, [ended(org, call_id=call)])
    assert await balance(pool, org) == 8580
    assert len(await said(pool)) == 2
    await assert_sound(pool)
