"""Every SQL constant of every member prepares against its migrated schema: no statement is met first in production."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

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


SESSION_STATE = re.compile(
    r"\b(LISTEN|UNLISTEN|DECLARE|PREPARE|CREATE\s+TEMP|DISCARD)\b|\bpg_(try_)?advisory_lock|\bset_config\("
    r"|^\s*SET\s+(?!LOCAL\b)\w+\s*(=|TO\b)"
)
OWN_CONNECTION = {"outbox.py", "database.py"}
"""The relay's lock and the migrations' are on connections of their own, outside of the pool."""


def test_nobody_leaves_state_on_a_pooled_connection() -> None:
    """A connection goes back to the pool as it is: a lock or a setting would be the next one's."""
    looked_at = 0
    for package in (*PACKAGES, "cualify_shared"):
        for path in Path(str(importlib.import_module(package).__path__[0])).rglob("*.py"):
            if path.name in OWN_CONNECTION and package == "cualify_shared":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    looked_at += 1
                    is_sql = STATEMENT.match(node.value) or node.value.lstrip().startswith("SET ")
                    assert not (is_sql and SESSION_STATE.search(node.value)), f"{path.name}: {node.value}"
    assert looked_at > 1000


@pytest.mark.parametrize(
    "sql", ["SELECT pg_advisory_lock(1)", "SET statement_timeout = '1s'", "SELECT set_config('a', 'b', false)"]
)
def test_the_look_for_state_sees_it(sql: str) -> None:
    assert SESSION_STATE.search(sql)
    assert not SESSION_STATE.search("SET LOCAL statement_timeout = '1s'")
    assert not SESSION_STATE.search("SELECT pg_advisory_xact_lock(1)")


async def test_the_walk_would_see_a_broken_statement(database: MakeDatabase) -> None:
    connection = await asyncpg.connect(await database("cualify_billing"))
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.prepare("SELECT 1 FROM no_such_table")
    await connection.close()
