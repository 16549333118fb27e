"""The local PostgreSQL: one database a service, and nothing lost or left behind when something is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from cualify_local.children import wait_until
from cualify_local.postgres import (
    Postgres,
    create_databases,
    kill_postgres,
    restart_postgres,
    start_postgres,
    stop_postgres,
)
from cualify_local.postgres_files import remove_data

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.skipif("POSTGRES_URL" in os.environ, reason="POSTGRES_URL names a server that isn't ours")

START_AND_DIE = """
import os, sys
from pathlib import Path
from cualify_local.postgres import start_postgres
server = start_postgres(Path(sys.argv[1]) / "data", Path(sys.argv[1]) / "log")
print(server.child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    started = start_postgres(folder / "data", folder / "log", durable=False)
    yield started
    stop_postgres(started)


@pytest.fixture(scope="module")
async def dsns(server: Postgres) -> dict[str, str]:
    return await create_databases(server.admin_url)


async def test_each_service_owns_a_database(dsns: dict[str, str]) -> None:
    async with connected(dsns["webhook-dispatcher"]) as connection:
        await connection.execute("CREATE TABLE endpoints (id int)")
        assert await connection.fetchval("SELECT current_database()") == "cualify_webhook_dispatcher"


async def test_a_service_cannot_connect_to_anothers_database(dsns: dict[str, str]) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(dsns["api"], database="cualify_billing")


async def test_a_role_needs_its_password(dsns: dict[str, str]) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(dsns["api"], password="guessed")


async def test_creating_databases_again_keeps_their_rows(server: Postgres) -> None:
    first = await create_databases(server.admin_url, ["billing"], prefix="again_")
    async with connected(first["billing"]) as connection:
        await connection.execute("CREATE TABLE wallets AS SELECT 1 AS id")
    second = await create_databases(server.admin_url, ["billing"], prefix="again_")
    async with connected(second["billing"]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM wallets") == 1


async def test_a_killed_server_starts_again_with_its_data(tmp_path: Path) -> None:
    started = start_postgres(tmp_path / "data", tmp_path / "log", durable=False)
    dsns = await create_databases(started.admin_url, ["dialer"])
    async with connected(dsns["dialer"]) as connection:
        await connection.execute("CREATE TABLE attempts AS SELECT 1 AS id")
        kill_postgres(started)
    again = restart_postgres(started)
    assert urlsplit(again.admin_url).port == urlsplit(started.admin_url).port
    async with connected(dsns["dialer"]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 1
    stop_postgres(again)


def test_nothing_outlives_a_killed_launcher_and_its_data_serves_the_next(tmp_path: Path) -> None:
    launcher = subprocess.run([sys.executable, "-c", START_AND_DIE, tmp_path], capture_output=True, text=True)
    assert launcher.returncode == -signal.SIGKILL, launcher.stderr
    server_pid = int(launcher.stdout)
    assert wait_until(lambda: is_gone(server_pid), timeout_sec=10)
    stop_postgres(start_postgres(tmp_path / "data", tmp_path / "log"))
    remove_data(tmp_path / "data")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["Connection"]:
    connection: Connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()
