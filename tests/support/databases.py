"""Fresh databases for tests: migrated once a package, then copied, which takes milliseconds."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from cualify_local.postgres import Postgres, start_postgres
from cualify_shared.database import migrate

MakeDatabase = Callable[[str], Awaitable[str]]


def start_test_postgres(folder: Path) -> Postgres:
    """A server that forgets everything: no fsync, in memory where there is room."""
    return start_postgres(folder / "postgres", folder / "postgres.log", durable=False)


class Databases:
    """Makes a new database for whoever asks, and drops them all in the end."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._templates: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._made: list[str] = []

    async def fresh(self, package: str) -> str:
        """The DSN of a database with that package's schema and nothing in it."""
        template = self._templates.get(package) or await self._make_template(package)
        name = f"{template}_{next(self._numbers)}"
        await self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._made.append(name)
        return self._dsn(name)

    async def empty(self) -> str:
        """The DSN of a database with nothing in it."""
        name = f"test_empty_{next(self._numbers)}"
        await self._admin(f'CREATE DATABASE "{name}"')
        self._made.append(name)
        return self._dsn(name)

    async def drop_all(self) -> None:
        """Drops every database made here, whoever is still connected."""
        for name in [*self._made, *self._templates.values()]:
            await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _make_template(self, package: str) -> str:
        name = f"test_{package}"
        await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await self._admin(f'CREATE DATABASE "{name}"')
        await migrate(self._dsn(name), package=package)
        self._templates[package] = name
        return name

    async def _admin(self, statement: str) -> None:
        connection = await asyncpg.connect(self._admin_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _dsn(self, database: str) -> str:
        return urlunsplit(urlsplit(self._admin_url)._replace(path=f"/{database}"))
