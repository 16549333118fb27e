"""Fixtures that every folder of tests shares: one PostgreSQL and one Kafka a run, a fresh database a test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
import structlog

from cualify_local.kafka.broker import Kafka
from cualify_local.kafka.choose import stop_kafka
from cualify_local.postgres import Postgres, stop_postgres
from cualify_shared.database import Pool, create_pool
from tests.support.broker import described, shared_folder, shared_kafka
from tests.support.databases import Databases, MakeDatabase, start_test_postgres


def pytest_report_header(config: pytest.Config) -> str:
    """Says which broker this run is on, before anything else."""
    return "broker: none started" if config.option.collectonly else described(shared_kafka())


def pytest_configure() -> None:
    """Logs in plain lines: a trace drawn in colours takes longer than most tests."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain],
        cache_logger_on_first_use=False,
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends what the run has started."""
    if shared_kafka.cache_info().currsize:
        stop_kafka(shared_kafka())
    if shared_folder.cache_info().currsize:
        shutil.rmtree(shared_folder(), ignore_errors=True)


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """The run's broker."""
    return shared_kafka()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The run's PostgreSQL server."""
    server = start_test_postgres(shared_folder())
    yield server
    stop_postgres(server)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def databases(postgres: Postgres) -> AsyncIterator[Databases]:
    """Makes databases on the run's server."""
    made = Databases(postgres.admin_url)
    yield made
    await made.drop_all()


@pytest.fixture
def database(databases: Databases) -> MakeDatabase:
    """`await database("cualify_billing")`: the DSN of a fresh, migrated database."""
    return databases.fresh


@pytest_asyncio.fixture(loop_scope="session")
async def pool_for() -> AsyncIterator[Callable[[str], Awaitable[Pool]]]:
    """`await pool_for(dsn)`: a pool with our codecs, closed when the test ends."""
    pools: list[Pool] = []

    async def make(dsn: str) -> Pool:
        pools.append(await create_pool(dsn, application_name="test", size=10))
        return pools[-1]

    yield make
    await asyncio.gather(*(asyncio.wait_for(pool.close(), 5) for pool in pools))
