"""Every SQL statement of the api is one that the migrated schema understands; customers' begin with the org."""

import re
from types import ModuleType

import pytest

from cualify_api.agents import queries as agents
from cualify_api.calls import kept_counts, kept_sums, listing, queries as calls, terms, totals
from cualify_api.contacts import queries as contacts
from cualify_api.feed import queries as feed
from cualify_api.keys import queries as keys
from cualify_api.limits import queries as limits
from cualify_api.orgs import queries as orgs
from cualify_api.wallet import low_balance, queries as wallet, reductions, truth
from cualify_api.web import idempotency, once, rate_limit
from tests.api.world import World

STARTS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
MODULES = (
    *(
        agents,
        calls,
        listing,
        totals,
        kept_sums,
        kept_counts,
        terms,
        contacts,
        feed,
        limits,
        keys,
        orgs,
        wallet,
        low_balance,
        reductions,
        truth,
    ),
    *(idempotency, once, rate_limit),
)


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


OF_CUSTOMERS = (calls.GET, calls.TIMELINE, calls.TRANSCRIPT, feed.POSITION, feed.AFTER, wallet.READ, agents.LIST)
STARTING_WITH = ("LIST", "TOTAL", "COUNT_LABELS", "GET", "LOCK", "CHANGE", "REMOVE", "CONSENTS")


@pytest.mark.parametrize(
    "statement",
    [
        *OF_CUSTOMERS,
        *(
            statement
            for module in (listing, totals, kept_sums, kept_counts, contacts)
            for name, statement in statements(module)
            if name.rpartition(".")[2].startswith(STARTING_WITH)
        ),
    ],
)
def test_the_org_is_the_first_condition(statement: str) -> None:
    assert re.search(r"WHERE\s+(\w\.)?org_id = \$1\b", statement)
