"""One platform for all journeys: they use different callees and orgs, so that they don't meet."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.support.platform import Platform, platform


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cualify(
    postgres: Postgres, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    """The running platform."""
    folder: Path = tmp_path_factory.mktemp("journeys")
    async with platform(postgres, kafka, folder) as running:
        yield running
