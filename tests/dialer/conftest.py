"""A dialer on a fresh database."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cualify_shared.database import Pool
from tests.dialer.support import Dialer, ScriptedProvider
from tests.support.databases import MakeDatabase


@pytest.fixture
async def pool(database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]]) -> Pool:
    """A pool on the dialer's schema."""
    return await pool_for(await database("cualify_dialer"))


@pytest.fixture
def provider() -> ScriptedProvider:
    """A provider that does what the test says."""
    return ScriptedProvider()


@pytest.fixture
def dialer(pool: Pool, provider: ScriptedProvider) -> Dialer:
    """One replica."""
    return Dialer(pool, provider)


@pytest.fixture
def make_dialer(pool: Pool, provider: ScriptedProvider) -> Callable[..., Dialer]:
    """A replica with other settings, on the same database and provider."""

    def make(*more: ScriptedProvider, **settings: Any) -> Dialer:
        return Dialer(pool, provider, *more, **settings)

    return make
