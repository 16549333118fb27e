"""A real PostgreSQL 18 server that belongs to this process, and one database and login role for each service.

The server comes from a wheel and needs nothing installed; `POSTGRES_URL` (a superuser's, or one's who may create roles
and databases) names another to use instead. Starting and stopping is synchronous and may be done from any thread.
"""

import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import psutil

from cualify_local import children
from cualify_local.children import Child, Program
from cualify_local.postgres_files import (
    PASSWORD_FILE,
    SUPERUSER,
    PostgresUnavailable as PostgresUnavailable,
    find_binaries,
    find_place,
    make_cluster,
    server_account,
)
from cualify_local.scratch import make_scratch, remove_scratch

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

SERVICES = ("api", "dialer", "billing", "webhook-dispatcher")
START_TIMEOUT_SEC = 60


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. `child` is None when `POSTGRES_URL` named it: then it isn't ours to stop."""

    admin_url: str
    child: Child | None = None
    data_dir: Path | None = None
    socket_dir: Path | None = None


def start_postgres(data_dir: Path, log: Path, *, durable: bool = True, port: int | None = None) -> Postgres:
    """Start a server on 127.0.0.1, with the data in `data_dir` (made on first use, kept for the next start).

    `durable=False` trades safety for speed: no fsync, and data on a RAM disk where there is one with room. A power cut
    would ruin it, a killed server doesn't. On a RAM disk it is gone when this process ends.
    Where the data had to go elsewhere, `data_dir` becomes a link to it. Raises PostgresUnavailable.
    """
    if url := os.environ.get("POSTGRES_URL"):
        return Postgres(url)
    account = server_account()
    binaries = find_binaries(account)
    place = find_place(data_dir.absolute(), account, durable=durable)
    if not (place / "PG_VERSION").exists():
        make_cluster(place, account, binaries)
    _await_predecessor(place)
    socket_dir = make_scratch(owner=account.owner)
    program = Program(
        name="postgres",
        args=_command(binaries, place, socket_dir, port=port or children.free_port(), durable=durable),
        log=log,
        cwd=Path("/"),
        env=os.environ | {"LC_ALL": "C", "TZ": "UTC"},
        user=account.name,
        stop_signal=signal.SIGINT,  # "fast": open sessions are cut, then a checkpoint
        death_signal=signal.SIGQUIT,  # "immediate": takes its own backends along, which SIGKILL would not
    )
    return _run(program, place, socket_dir)


def stop_postgres(postgres: Postgres, *, grace_sec: float = 20.0) -> None:
    """A fast shutdown: sessions are cut, the data is checkpointed. The data stays."""
    if postgres.child:
        children.stop(postgres.child, grace_sec)
    if postgres.socket_dir:
        remove_scratch(postgres.socket_dir)


def kill_postgres(postgres: Postgres) -> None:
    """As if the power went for this server alone: SIGKILL for it and its backends, which have groups of their own."""
    if postgres.child and postgres.data_dir:
        children.kill(postgres.child)
        for backend in _server_processes(postgres.data_dir):
            with suppress(psutil.NoSuchProcess):
                backend.kill()


def restart_postgres(postgres: Postgres) -> Postgres:
    """Start a stopped or killed server again: same port, same data, same settings."""
    child, place = postgres.child, postgres.data_dir
    if child is None or place is None:
        raise PostgresUnavailable("POSTGRES_URL names this server: restart it where it runs")
    socket_dir = make_scratch(owner=server_account().owner)
    if postgres.socket_dir:
        remove_scratch(postgres.socket_dir)
    old, new = str(postgres.socket_dir), str(socket_dir)
    _await_predecessor(place)
    return _run(
        replace(child.program, args=tuple(arg.replace(old, new) for arg in child.program.args)), place, socket_dir
    )


async def create_databases(admin_url: str, names: Sequence[str] = SERVICES, *, prefix: str = "") -> dict[str, str]:
    """One login role and one database for each service in `names`; returns a DSN by service name.

    The database belongs to the role, and no other service's role may connect to it. What exists is kept, but each call
    gives the roles new random passwords: DSNs of earlier calls no longer log in. `prefix` keeps parallel runs apart.
    """
    admin = await _connect(admin_url)
    try:
        # One at a time on this server: two at once would trip over each other's roles.
        await admin.execute("SELECT pg_advisory_lock(hashtext('cualify.create_databases'))")
        return {name: await _create_database(admin, admin_url, _identifier(name, prefix)) for name in names}
    finally:
        await admin.close()


async def drop_databases(admin_url: str, names: Sequence[str] = SERVICES, *, prefix: str = "") -> None:
    """Undo `create_databases`, cutting what is still connected."""
    admin = await _connect(admin_url)
    try:
        for name in names:
            await admin.execute(f"DROP DATABASE IF EXISTS {_identifier(name, prefix)} WITH (FORCE)")
            await admin.execute(f"DROP ROLE IF EXISTS {_identifier(name, prefix)}")
    finally:
        await admin.close()


def _run(program: Program, place: Path, socket_dir: Path) -> Postgres:
    child = children.start(program)
    if not children.wait_until(lambda: _is_ready(place, child.pid), timeout_sec=START_TIMEOUT_SEC, child=child):
        children.kill(child)
        remove_scratch(socket_dir)
        raise PostgresUnavailable(f"PostgreSQL did not start; {program.log} ends:\n{children.tail(program.log)}")
    port = program.args[program.args.index("-p") + 1]
    password = (place / PASSWORD_FILE).read_text().strip()
    return Postgres(f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres", child, place, socket_dir)


def _command(binaries: Path, place: Path, socket_dir: Path, *, port: int, durable: bool) -> tuple[str, ...]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(socket_dir),
        "max_connections": "300",
        "shared_buffers": "128MB",
        "autovacuum_naptime": "5s",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
    }
    if not durable:
        # synchronous_commit stays on: what was acknowledged survives a kill of the server, only a power cut loses it.
        settings |= {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
        settings |= {"dynamic_shared_memory_type": "mmap"}  # in the data directory, so that it is removed with it
    if any((binaries.parent / "lib").rglob("pg_stat_statements.*")):
        settings |= {"shared_preload_libraries": "pg_stat_statements"}
    flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
    return (str(binaries / "postgres"), "-D", str(place), "-p", str(port), *flags)


def _is_ready(place: Path, pid: int) -> bool:
    """The server writes `ready` in the eighth line of its pid file once it takes connections."""
    lines = _pid_file(place)
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _pid_file(place: Path) -> list[str]:
    try:
        return (place / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _await_predecessor(place: Path, timeout_sec: float = 15.0) -> None:
    """Wait for a server whose launcher was just killed to finish ending. A pid file of a dead one needs nothing."""

    if not children.wait_until(lambda: not _is_served(place), timeout_sec=timeout_sec):
        raise PostgresUnavailable(f"another PostgreSQL (pid {_pid_file(place)[0]}) runs on {place}: stop it first")
    # If that id is another process's by now (soon so in a container), the server would take it for its own predecessor.
    (place / "postmaster.pid").unlink(missing_ok=True)


def _is_served(place: Path) -> bool:
    return next(_server_processes(place), None) is not None


def _server_processes(place: Path) -> Iterator[psutil.Process]:
    """The server on `place` and its backends, which work in that folder and can outlive a killed server for a while."""
    for process in psutil.process_iter(["name", "cwd", "status"]):
        known = process.info
        if known["name"] == "postgres" and known["cwd"] == str(place) and known["status"] != psutil.STATUS_ZOMBIE:
            yield process


# --- databases and roles ---


def _identifier(service: str, prefix: str) -> str:
    name = f"{prefix}cualify_{service.replace('-', '_')}"
    if not name.isidentifier() or not name.islower() or len(name) > 63:
        raise ValueError(f"not a plain database name: {name!r}")
    return name


async def _connect(url: str) -> "Connection":
    try:
        connection: Connection = await asyncpg.connect(url)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        address = urlsplit(url).netloc.rpartition("@")[2] or "an address that is no postgresql://…"
        raise PostgresUnavailable(f"PostgreSQL at {address} does not let us in ({error}): see POSTGRES_URL") from error
    return connection


async def _create_database(admin: "Connection", admin_url: str, name: str) -> str:
    password = secrets.token_hex(16)
    await _create_role(admin, name, password)
    if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
        await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    dsn = _with_login(admin_url, user=name, password=password, database=name)
    await _add_statistics(admin, _with_database(admin_url, name))
    return dsn


async def _create_role(admin: "Connection", name: str, password: str) -> None:
    exists = await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name)
    await admin.execute(f"{'ALTER' if exists else 'CREATE'} ROLE {name} LOGIN PASSWORD '{password}'")
    if not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await admin.execute(f"GRANT {name} TO CURRENT_USER")  # else it may not give the role a database


async def _add_statistics(admin: "Connection", url: str) -> None:
    """pg_stat_statements, where the server has loaded it; the wheel's build doesn't ship it."""
    if "pg_stat_statements" not in (await admin.fetchval("SHOW shared_preload_libraries") or ""):
        return
    connection = await _connect(url)
    try:
        with suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    finally:
        await connection.close()


def _with_login(url: str, *, user: str, password: str, database: str) -> str:
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password)}@{address}", path=f"/{database}"))


def _with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
