"""A running api: fresh for each test, or one for all tests that only ask and are refused."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from cualify_shared.database import Pool, create_pool
from tests.api.world import Org, World, running
from tests.support.databases import Databases, MakeDatabase


@pytest_asyncio.fixture(loop_scope="session")
async def world(database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]]) -> AsyncIterator[World]:
    """The api on a fresh database."""
    async with running(await pool_for(await database("cualify_api"))) as made:
        yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting(databases: Databases) -> AsyncIterator[World]:
    """The api on a database that the tests of refusals share."""
    pool = await create_pool(await databases.fresh("cualify_api"), application_name="test", size=10)
    async with running(pool) as made:
        yield made
    await pool.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def caller(lasting: World) -> Org:
    """An org that can call."""
    return await lasting.org()
