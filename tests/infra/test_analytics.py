"""The analysts' follower: every event of the public topics at least once, nothing of the private ones."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer

from cualify_local.kafka.broker import Kafka
from cualify_shared.events import EVENT_TYPES, TOPICS, Event, encode
from cualify_shared.events.create_topics import create_topics

SCRIPT = Path(__file__).parents[2] / "infra/analytics/follow.py"
SCRIPTED = importlib.util.spec_from_file_location("follow", SCRIPT)


def follower() -> Any:
    assert SCRIPTED is not None
    assert SCRIPTED.loader is not None
    module = importlib.util.module_from_spec(SCRIPTED)
    SCRIPTED.loader.exec_module(module)
    return module


def written(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for file in sorted(folder.glob("*.ndjson")) for line in file.read_bytes().splitlines()]


async def test_it_writes_every_public_event_and_goes_on_where_it_stopped(kafka: Kafka, tmp_path: Path) -> None:
    prefix = f"a{uuid4().hex[:6]}."
    if kafka.kind != "embedded":
        await create_topics(kafka.bootstrap_servers, prefix=prefix)
    follow, options = follower().follow, {"prefix": prefix, "group": f"{prefix}analytics", "until_end": True}
    expected: set[str] = set()
    for _ in range(2):
        expected |= await say_one_of_each(kafka, prefix)
        async with asyncio.timeout(60):
            count = await follow(kafka.bootstrap_servers, tmp_path, **options)
        assert count > 0
    found = written(tmp_path)
    assert {event["id"] for event in found} == expected
    assert len(found) == len(expected), "it goes on from its offsets"


async def say_one_of_each(kafka: Kafka, prefix: str) -> set[str]:
    """An event of every type. The ids of those that analysts may see."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    seen: set[str] = set()
    try:
        for kind in EVENT_TYPES.values():
            event = Event(data=kind.example, org_id=uuid4(), key=uuid4(), subject="call/x", sequence=1)
            await producer.send_and_wait(prefix + kind.topic.name, encode(event), key=str(event.key).encode())
            if kind.topic.audience == "analytics":
                seen.add(str(event.id))
    finally:
        await producer.stop()
    return seen


def test_it_follows_just_the_topics_for_analysts() -> None:
    assert set(follower().TOPICS) == {topic.name for topic in TOPICS if topic.audience == "analytics"}
