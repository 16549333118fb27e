"""Which broker is chosen, that each kind carries records, and that a killed one comes back with them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from cualify_local.children import free_port
from cualify_local.kafka.broker import Kafka, KafkaUnavailable
from cualify_local.kafka.choose import kill_kafka, restart_kafka, start_kafka, stop_kafka

TOPIC = "call.events"
PARTITIONS = 3


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("KAFKA", raising=False)


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    yield from started("jvm", tmp_path_factory.mktemp("jvm"))


@pytest.fixture(params=["embedded", "jvm", "docker"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kafka]:
    if request.param == "jvm":
        yield request.getfixturevalue("jvm")
    else:
        yield from started(request.param, tmp_path)


async def test_records_come_out_as_they_went_in(broker: Kafka) -> None:
    await make_topic(broker)
    sent = [f"call {number}".encode() for number in range(20)]
    await produce(broker, sent)
    assert sorted(await consume(broker, len(sent))) == sorted(sent)


async def test_a_killed_broker_starts_again_at_its_address_with_its_records(jvm: Kafka) -> None:
    await make_topic(jvm)
    await produce(jvm, [b"before"])
    kill_kafka(jvm)
    again = restart_kafka(jvm)
    try:
        assert again.bootstrap_servers == jvm.bootstrap_servers
        await produce(again, [b"after"])
        assert {b"before", b"after"} <= set(await consume(again, 2, until=b"after"))
    finally:
        stop_kafka(again)


def test_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA", "redis")
    refuses(tmp_path, "KAFKA=redis is not a kind of broker: use docker, jvm or embedded")


def test_a_named_broker_that_is_silent_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    refuses(tmp_path, "no broker answers at KAFKA_BOOTSTRAP_SERVERS")


def test_the_jvm_is_refused_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA", "jvm")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    refuses(tmp_path, "KAFKA=jvm can't be had: no Java")


def test_where_nothing_better_is_there_it_says_what_was_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    kafka = start_kafka(tmp_path / "data", tmp_path / "log", prefer="real")
    stop_kafka(kafka)
    assert kafka.kind == "embedded"
    assert [reason.partition(":")[0] for reason in kafka.passed_over] == ["docker", "jvm"]


def refuses(folder: Path, reason: str) -> None:
    with pytest.raises(KafkaUnavailable) as refusal:
        start_kafka(folder / "data", folder / "log")
    assert str(refusal.value).startswith(reason)
    assert "\n" not in str(refusal.value)


def started(kind: str, folder: Path) -> Iterator[Kafka]:
    """A broker of that kind, or a skipped test that says why there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
        patch.setenv("KAFKA", kind)
        try:
            kafka = start_kafka(folder / "data", folder / "log", topics={TOPIC: PARTITIONS})
        except KafkaUnavailable as error:
            pytest.skip(str(error))
    yield kafka
    stop_kafka(kafka)


async def make_topic(kafka: Kafka) -> None:
    if kafka.kind == "embedded":
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])  # answers with an error if it exists
    finally:
        await admin.close()


async def produce(kafka: Kafka, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, enable_idempotence=True, acks="all")
    async with asyncio.timeout(20), producer:
        assert await producer.partitions_for(TOPIC) == set(range(PARTITIONS))
        for value in values:
            await producer.send_and_wait(TOPIC, value, key=value)


async def consume(kafka: Kafka, count: int, *, until: bytes | None = None) -> list[bytes]:
    """The first `count` values or more, in a group of its own, read on until one is `until`."""
    received: list[bytes] = []
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=kafka.bootstrap_servers, group_id=f"test-{free_port()}", auto_offset_reset="earliest"
    )
    async with asyncio.timeout(20), consumer:
        while len(received) < count or (until is not None and until not in received):
            batches = await consumer.getmany(timeout_ms=200)
            received += [record.value for records in batches.values() for record in records]
    return received
