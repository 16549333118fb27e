"""One shape for every service: what is wrong is said by name, and stopping is orderly."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from cualify_local.children import free_port
from cualify_local.kafka.broker import Kafka
from cualify_shared.events.create_topics import create_topics
from tests.support.databases import Databases
from tests.support.platform import until

A_SERVICE = """
import asyncio, pathlib, os
from cualify_shared.events.call import CallDialing
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.service import Context, Loop, Parts, Read, Service
from cualify_shared.settings import ServiceSettings

def parts(ctx):
    async def fragile(stop):
        while not stop.is_set():
            if pathlib.Path(os.environ["BREAK"]).exists():
                raise RuntimeError("it broke")
            await asyncio.sleep(0.01)
    async def handler(connection, events):
        return None
    return Parts(reads=[Read(CALL_EVENTS, (CallDialing,), handler)], loops=[Loop("fragile", fragile)])

SERVICE = Service("sample", package="sample_member", settings=ServiceSettings, parts=parts)
if __name__ == "__main__":
    SERVICE.run()
"""


class Sample:
    """A small service as a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        (folder / "sample_member" / "migrations").mkdir(parents=True)
        (folder / "sample_member" / "__init__.py").touch()
        (folder / "sample_member" / "main.py").write_text(A_SERVICE)
        self.environment = environment
        self.port, self.breaker, self.log = free_port(), folder / "break", folder / "log"
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sample_member.main"],
            env={**os.environ, "PYTHONPATH": path, "PORT": str(self.port), "BREAK": str(self.breaker), **environment},
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    async def ask(self, path: str) -> tuple[int, Any]:
        """Status and JSON; (0, None) while nobody answers."""
        async with aiohttp.ClientSession() as http:
            try:
                async with http.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                    return answer.status, await answer.json()
            except aiohttp.ClientError:
                return 0, None

    async def text(self, path: str) -> str:
        """The answer as it is."""
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return await answer.text()

    async def until_status(self, path: str, status: int) -> Any:
        """The JSON once that is the status."""

        async def look() -> Any:
            found, content = await self.ask(path)
            return content if found == status else None

        return await until(look, f"{path} answers {status}; the log: {self.log.read_text()[-2000:]}", within_sec=30)

    async def until_logged(self, event: str) -> None:
        """Once a line of that name is in the log."""

        async def look() -> bool:
            return f'"event":"{event}"' in self.log.read_text()

        await until(look, f"{event} is logged", within_sec=30)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Sample]]:
    """Samples to be killed in the end."""
    samples: list[Sample] = []
    yield samples
    for sample in samples:
        sample.process.kill()
        sample.process.wait()


async def start(
    started: list[Sample], tmp_path: Path, databases: Databases, bootstrap_servers: str, **more: str
) -> Sample:
    environment = {
        "DATABASE_URL": await databases.empty(),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "INTERNAL_TOKEN": "secret",
        **more,
    }
    started.append(Sample(tmp_path, environment))
    return started[-1]


async def with_kafka(kafka: Kafka) -> dict[str, str]:
    prefix = f"t{uuid4().hex[:8]}."
    if kafka.kind == "embedded":
        return {"KAFKA_TOPIC_PREFIX": prefix, "KAFKA_EMBEDDED": "true"}
    await create_topics(kafka.bootstrap_servers, prefix=prefix)
    return {"KAFKA_TOPIC_PREFIX": prefix}


async def test_a_loop_that_died_is_said_by_name(
    started: list[Sample], tmp_path: Path, databases: Databases, kafka: Kafka
) -> None:
    sample = await start(started, tmp_path, databases, kafka.bootstrap_servers, **await with_kafka(kafka))
    assert (await sample.until_status("/readyz", 200)) == {"status": "ready", "problems": {}}
    assert (await sample.until_status("/healthz", 200))["dead_loops"] == {}
    sample.breaker.touch()
    assert (await sample.until_status("/healthz", 503))["dead_loops"] == {"fragile": "RuntimeError: it broke"}
    assert "loop fragile" in (await sample.until_status("/readyz", 503))["problems"]
    assert '"event":"loop_died"' in sample.log.read_text()


async def test_a_lost_broker_is_said_by_name_and_the_service_lives(
    started: list[Sample], tmp_path: Path, databases: Databases
) -> None:
    sample = await start(started, tmp_path, databases, f"127.0.0.1:{free_port()}")
    problems = (await sample.until_status("/readyz", 503))["problems"]
    assert "kafka consumers" in problems
    assert (await sample.until_status("/healthz", 200))["status"] == "ok"


async def test_sigterm_ends_it_cleanly(
    started: list[Sample], tmp_path: Path, databases: Databases, kafka: Kafka
) -> None:
    sample = await start(started, tmp_path, databases, kafka.bootstrap_servers, **await with_kafka(kafka))
    await sample.until_status("/readyz", 200)
    sample.process.send_signal(signal.SIGTERM)
    assert sample.process.wait(15) == 0
    assert '"unfinished":[]' in sample.log.read_text()


async def test_operators_routes_take_the_token(
    started: list[Sample], tmp_path: Path, databases: Databases, kafka: Kafka
) -> None:
    sample = await start(started, tmp_path, databases, kafka.bootstrap_servers, **await with_kafka(kafka))
    refused = await sample.until_status("/internal/dead-letters", 401)
    assert refused["error"]["code"] == "unauthorized"


async def test_while_the_database_is_away_the_metrics_tell_of_it(
    started: list[Sample], tmp_path: Path, databases: Databases, kafka: Kafka
) -> None:
    sample = await start(started, tmp_path, databases, kafka.bootstrap_servers, **await with_kafka(kafka))
    await sample.until_status("/readyz", 200)
    name = urlsplit(sample.environment["DATABASE_URL"]).path[1:]
    admin = await asyncpg.connect(await databases.empty())
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await admin.close()
    assert "database" in (await sample.until_status("/readyz", 503))["problems"]

    async def shown() -> bool:
        text = await sample.text("/metrics")
        return 'cualify_loop_up{loop="fragile"} 1.0' in text and "cualify_outbox_relay_active 0.0" in text

    await until(shown, f"the metrics without the database; the log: {sample.log.read_text()[-2000:]}", within_sec=30)
    assert "cualify_outbox_events NaN" in await sample.text("/metrics")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"DATABASE_URL": "postgresql://nobody:secret-word@{server}/postgres"}, "nobody"),
        ({"DATABASE_URL": "{dsn}_missing"}, "does not exist"),
        ({"DATABASE_URL": "127.0.0.1:5432"}, "DATABASE_URL"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CA_FILE": "/no/such.pem"}, "KAFKA_CA_FILE"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_what_forbids_to_start_is_one_line(
    started: list[Sample], tmp_path: Path, databases: Databases, wrong: dict[str, str], said: str
) -> None:
    dsn = await databases.empty()
    given = {name: value.format(dsn=dsn, server=urlsplit(dsn).netloc.split("@")[1]) for name, value in wrong.items()}
    sample = await start(started, tmp_path, databases, "127.0.0.1:1", **given)
    assert sample.process.wait(30) in (1, 2)
    [line] = sample.log.read_text().splitlines()
    assert said in line
    assert "secret-word" not in line


async def test_a_service_that_waits_for_its_database_can_be_stopped(
    started: list[Sample], tmp_path: Path, databases: Databases
) -> None:
    away = f"postgresql://somebody@127.0.0.1:{free_port()}/there"
    sample = await start(started, tmp_path, databases, "127.0.0.1:1", DATABASE_URL=away)
    await sample.until_logged("database_not_reachable")
    sample.process.send_signal(signal.SIGTERM)
    assert sample.process.wait(5) == 0


def test_a_missing_variable_is_one_line(tmp_path: Path) -> None:
    sample = Sample(tmp_path, {"INTERNAL_TOKEN": "secret", "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1"})
    assert sample.process.wait(30) == 1
    said = sample.log.read_text().strip()
    assert said == "sample: these environment variables are missing or wrong: DATABASE_URL: Field required"


async def test_a_topic_that_is_not_there_is_said_by_name(
    started: list[Sample], tmp_path: Path, databases: Databases, kafka: Kafka
) -> None:
    if kafka.kind == "embedded":
        return  # there topics appear on first use
    sample = await start(started, tmp_path, databases, kafka.bootstrap_servers, KAFKA_TOPIC_PREFIX="nobody.made.")
    await sample.until_logged("topics_missing")
    problems = (await sample.until_status("/readyz", 503))["problems"]
    assert "nobody.made.call.events" in problems["kafka consumers"]
    sample.process.send_signal(signal.SIGTERM)
    assert sample.process.wait(15) == 0
