"""Every SQL constant of every member prepares against its migrated schema: no statement is met first in production."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import asyncpg
import pytest

from tests.support.databases import MakeDatabase

PACKAGES = ("cualify_api", "cualify_billing", "cualify_dialer", "cualify_webhook_dispatcher")
STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


def statements(package: str) -> Iterator[tuple[str, str]]:
    """(`module.NAME`, SQL) of each upper-case constant that is a statement."""
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, str) and STATEMENT.match(value):
                yield f"{found.name}.{name}", value


@pytest.mark.parametrize("package", PACKAGES)
async def test_every_statement_prepares_against_the_migrated_schema(package: str, database: MakeDatabase) -> None:
    connection = await asyncpg.connect(await database(package))
    broken: list[str] = []
    own = dict(statements(package))
    for name, sql in {**own, **dict(statements("cualify_shared"))}.items():
        try:
            await connection.prepare(sql)
        except asyncpg.PostgresError as error:
            broken.append(f"{name}: {error}")
    await connection.close()
    assert broken == []
    assert len(own) >= 5, "the walk finds the service's statements"


@pytest.mark.parametrize("package", PACKAGES)
async def test_constraints_carry_names_that_read_as_rules(package: str, database: MakeDatabase) -> None:
    connection = await asyncpg.connect(await database(package))
    generated = await connection.fetch(
        "SELECT conrelid::regclass || '.' || conname AS name FROM pg_constraint"
        " WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND conname ~ '_check[0-9]*$'"
    )
    await connection.close()
    assert [row["name"] for row in generated] == []


async def test_the_walk_would_see_a_broken_statement(database: MakeDatabase) -> None:
    connection = await asyncpg.connect(await database("cualify_billing"))
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.prepare("SELECT 1 FROM no_such_table")
    await connection.close()
