"""Who reads and who writes which event, taken from the code itself: all in the catalogue, one writer a topic."""

import ast
import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cualify_local.environment import MODULES, SERVICES, Addresses, Secrets, programs
from cualify_local.razorpay import LocalRazorpay
from cualify_local.settings import StackSettings
from cualify_shared.database import Pool
from cualify_shared.events import EVENT_TYPES, TOPICS, type_of, types_on
from cualify_shared.service import Context, Parts, Service
from tests.support.databases import MakeDatabase

MODELS = {kind.model.__name__: kind for kind in EVENT_TYPES.values()}


def package_of(service: str) -> str:
    return MODULES[service].split(".")[0]


async def parts_of(service: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """A service's parts, built as in production."""
    made: Service[Any] = importlib.import_module(MODULES[service]).SERVICE
    ports = dict.fromkeys(MODULES, 1)
    kafka = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    environment = programs(
        StackSettings(),
        addresses=Addresses(ports),
        secret=Secrets(),
        databases=dict.fromkeys(SERVICES, "postgresql://nowhere/"),
        kafka=kafka,
        logs=tmp_path,
        razorpay=LocalRazorpay(),
        extra={},
    )[service].env
    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)
    return made.parts(Context(made.settings(), pool, lambda: None, asyncio.Event()))


@pytest.mark.parametrize("service", SERVICES)
async def test_every_subscription_is_in_the_catalogue(
    service: str,
    database: MakeDatabase,
    pool_for: Callable[[str], Awaitable[Pool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = await pool_for(await database(package_of(service)))
    reads = (await parts_of(service, pool, tmp_path, monkeypatch)).reads
    assert reads, "every service reads something"
    for read in reads:
        assert read.topic in TOPICS
        assert read.topic.writer != service, "nobody reads what they write"
        assert {type_of(model).name for model in read.handles} <= {kind.name for kind in types_on(read.topic)}
    assert len({read.topic.name for read in reads}) == len(reads), "one subscriber a topic"


@pytest.mark.parametrize("service", SERVICES)
def test_every_event_a_service_makes_is_its_own_to_write(service: str) -> None:
    made = {model for tree in trees(package_of(service)) for model in models_made(tree)}
    assert made, "every service says something"
    foreign = {model for model in made if MODELS[model].topic.writer != service}
    assert foreign == set()


def test_only_the_outbox_can_publish() -> None:
    speakers = {
        path.name
        for package in ("cualify_shared", *map(package_of, SERVICES))
        for path in sources(package)
        if "AIOKafkaProducer" in path.read_text() or "broker.publish" in path.read_text()
    }
    assert speakers == {"outbox.py"}


def models_made(tree: ast.AST) -> Iterator[str]:
    """Names of event models that are called (made), or handed on as classes to be made, in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in MODELS:
                yield name


def trees(package: str) -> Iterator[ast.AST]:
    for path in sources(package):
        yield ast.parse(path.read_text())


def sources(package: str) -> Iterator[Path]:
    root = Path(str(importlib.import_module(package).__file__)).parent
    return root.rglob("*.py")
