"""Every SQL statement of billing is one that the migrated schema understands."""

import importlib
import pkgutil
import re
from types import ModuleType

import pytest

import cualify_billing
from cualify_shared.database import Pool

STARTS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")

MODULES = [
    importlib.import_module(found.name) for found in pkgutil.iter_modules(cualify_billing.__path__, "cualify_billing.")
]


def statements(module: ModuleType) -> list[tuple[str, str]]:
    return [
        (f"{module.__name__}.{name}", value)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and STARTS.match(value)
    ]


@pytest.mark.parametrize(("name", "statement"), [found for module in MODULES for found in statements(module)])
async def test_a_statement_can_be_prepared(untouched_pool: Pool, name: str, statement: str) -> None:
    async with untouched_pool.acquire() as connection:
        assert await connection.prepare(statement), name
