"""Every SQL statement of the api is one that the migrated schema understands; customers' begin with the org."""

import re
from types import ModuleType

import pytest

from cualify_api.agents import queries as agents
from cualify_api.calls import queries as calls, tell, terms
from cualify_api.keys import queries as keys
from cualify_api.orgs import queries as orgs
from cualify_api.wallet import queries as wallet
from cualify_api.web import idempotency, once, rate_limit
from tests.api.world import World

STARTS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
MODULES = (agents, calls, tell, terms, keys, orgs, wallet, idempotency, once, rate_limit)


def statements(module: ModuleType) -> list[tuple[str, str]]:
    return [
        (f"{module.__name__}.{name}", value)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and STARTS.match(value)
    ]


@pytest.mark.parametrize(("name", "statement"), [found for module in MODULES for found in statements(module)])
async def test_a_statement_can_be_prepared(lasting: World, name: str, statement: str) -> None:
    async with lasting.pool.acquire() as connection:
        assert await connection.prepare(statement), name


@pytest.mark.parametrize(
    "statement", [calls.GET, calls.LIST, calls.LIST_OF_STATUS, calls.TIMELINE, calls.TRANSCRIPT, calls.TOTAL]
)
def test_the_org_is_the_first_condition(statement: str) -> None:
    assert re.search(r"WHERE\s+org_id = \$1\b", statement)
