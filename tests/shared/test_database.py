"""Migrations: once each, under a lock, never edited. Constraints hold what code promises."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from cualify_shared.database import MigrationError, Pool, create_pool, is_passing, migrate
from tests.support.databases import Databases


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A member of its own, with one migration."""
    member = tmp_path / f"member_of_{tmp_path.name}"
    (member / "migrations").mkdir(parents=True)
    (member / "__init__.py").touch()
    (member / "migrations" / "0001_things.sql").write_text("CREATE TABLE things (id int)")
    monkeypatch.syspath_prepend(tmp_path)
    return member


async def test_replicas_that_start_together_migrate_once(databases: Databases, package: Path) -> None:
    dsn = await databases.empty()
    applied = await asyncio.gather(*(migrate(dsn, package=package.name) for _ in range(4)))
    assert sorted(applied) == [0, 0, 0, max(applied)]
    assert max(applied) >= 2


async def test_a_migration_that_was_edited_after_it_ran_stops_the_start(databases: Databases, package: Path) -> None:
    dsn = await databases.empty()
    await migrate(dsn, package=package.name)
    (package / "migrations" / "0001_things.sql").write_text("CREATE TABLE things (id bigint)")
    with pytest.raises(MigrationError, match="write a new migration"):
        await migrate(dsn, package=package.name)


async def test_a_migration_that_fails_leaves_nothing_behind(databases: Databases, package: Path) -> None:
    dsn = await databases.empty()
    (package / "migrations" / "0002_broken.sql").write_text("CREATE TABLE more (id int); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(dsn, package=package.name)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT to_regclass('things') IS NOT NULL AND to_regclass('more') IS NULL")
    await connection.close()


async def test_json_goes_in_and_out_as_python(
    databases: Databases, package: Path, pool_for: Callable[[str], Awaitable[Pool]]
) -> None:
    dsn = await databases.empty()
    pool = await pool_for(dsn)
    value = {"naïve": [1, None, "\u2028"]}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value
    assert await pool.fetchval("SELECT ($1::jsonb[])[2]", [None, value]) == value


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (asyncpg.DeadlockDetectedError(""), True),
        (asyncpg.TooManyConnectionsError(""), True),
        (asyncpg.AdminShutdownError(""), True),
        (asyncpg.IdleInTransactionSessionTimeoutError(""), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.UniqueViolationError(""), False),
        (asyncpg.CheckViolationError(""), False),
        (asyncpg.DataError("an integer is required"), False),
        (ValueError(), False),
        (KeyError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_can_pass_by_itself_is_waited_for(error: Exception, passing: bool) -> None:
    assert is_passing(error) is passing


async def test_a_connection_comes_back_without_the_transaction_that_was_left_open(databases: Databases) -> None:
    pool = await create_pool(await databases.empty(), application_name="test", size=1)
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute("CREATE TABLE left_open (id int)")
    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT to_regclass('left_open')") is None
    await pool.close()


async def test_using_the_pool_costs_no_statement_but_ones_own(databases: Databases) -> None:
    dsn = await databases.empty()
    pool = await create_pool(dsn, application_name="frugal", size=1)
    await pool.fetchval("SELECT 'the last'")
    bystander = await asyncpg.connect(dsn)
    last = await bystander.fetchval("SELECT query FROM pg_stat_activity WHERE application_name = 'frugal'")
    await bystander.close()
    await pool.close()
    assert last == "SELECT 'the last'"
