"""A service's own PostgreSQL: the pool, the migrations, and which errors pass by themselves."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import orjson
import structlog
from asyncpg.pool import PoolConnectionProxy

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    DirectConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Connection: TypeAlias = DirectConnection | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # asyncpg's classes take no type arguments at run time.
    DirectConnection = asyncpg.Connection
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool
Row: TypeAlias = asyncpg.Record

MIGRATION_LOCK = 0x6375616C
"""Advisory lock of a database's migrations: of several replicas that start at once, one migrates."""

_PASSING_SQLSTATE_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
"""Connection, transaction rollback, resources, lock not available, operator intervention, system error."""
_PASSING_SQLSTATES = frozenset({"25P03", "25P04"})
"""A transaction cut because this process stood still in it for too long."""


class MigrationError(Exception):
    """The database and the code's migrations disagree; nothing was changed."""


def is_passing(error: BaseException) -> bool:
    """Whether the same work can succeed later without any change: the database is away, busy, or broke a deadlock."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _PASSING_SQLSTATE_CLASSES or state in _PASSING_SQLSTATES
    if isinstance(error, asyncpg.DataError | asyncpg.exceptions.ClientConfigurationError):
        return False
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError)


async def connect(dsn: str, *, application_name: str) -> DirectConnection:
    """One connection outside the pool, with the same codecs."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": application_name}, timeout=10)
    await _speak_json(connection)
    return connection


async def create_pool(dsn: str, *, application_name: str, size: int, settings: Mapping[str, str] | None = None) -> Pool:
    """A pool whose connections give up a statement after 30 s and an idle transaction after 15 s.

    `settings` are PostgreSQL's, for each of its sessions. Waits up to 30 s for the server to be there.
    """
    for attempt in range(60):
        try:
            return await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                init=_speak_json,
                reset=_has_nothing_to_reset,
                command_timeout=35,
                server_settings={
                    "application_name": application_name,
                    "statement_timeout": "30s",
                    "idle_in_transaction_session_timeout": "15s",
                    "jit": "off",
                    **(settings or {}),
                },
            )
        except Exception as error:
            if not is_passing(error) or attempt == 59:
                raise
            log.warning("database_not_reachable", attempt=attempt + 1, error=str(error))
            await asyncio.sleep(0.5)
    raise AssertionError("unreachable")


async def _speak_json(connection: Any) -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
        )


async def _has_nothing_to_reset(_: Any) -> None:
    """Asked when a connection goes back to the pool, whose open transaction has been rolled back by then.

    No service changes its session (a test reads every statement for that), so asyncpg's own four statements, a round
    trip with each use of the pool, would undo nothing.
    """


LEDGER_OF_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    member     text NOT NULL,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (member, name)
)
"""


async def migrate(dsn: str, *, package: str) -> int:
    """Brings a database to this code's schema: the shared migrations, then `<package>/migrations/*.sql`, by name.

    Runs under a lock, each file in a transaction of its own. Returns how many files were applied.

    Raises:
        MigrationError: a file that was applied here has been edited since.
    """
    connection = await connect(dsn, application_name=f"{package}:migrate")
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        await connection.execute(LEDGER_OF_MIGRATIONS)
        applied = {
            (row["member"], row["name"]): row["sha256"]
            for row in await connection.fetch("SELECT member, name, sha256 FROM schema_migrations")
        }
        return sum([await _apply(connection, member, file, applied) for member, file in _migrations(package)])
    finally:
        await connection.close()


async def _apply(
    connection: DirectConnection, member: str, file: Traversable, applied: dict[tuple[str, str], str]
) -> int:
    sql = file.read_text("utf-8")
    digest = hashlib.sha256(sql.encode()).hexdigest()
    known = applied.get((member, file.name))
    if known == digest:
        return 0
    if known is not None:
        raise MigrationError(
            f"{member}/migrations/{file.name} was applied and then edited; write a new migration instead"
        )
    async with connection.transaction():
        await connection.execute(sql)
        await connection.execute(
            "INSERT INTO schema_migrations (member, name, sha256) VALUES ($1, $2, $3)", member, file.name, digest
        )
    log.info("migration_applied", member=member, migration=file.name)
    return 1


def _migrations(package: str) -> Iterator[tuple[str, Traversable]]:
    for member in ("cualify_shared", package):
        folder = files(member) / "migrations"
        for file in sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name):
            yield member, file
