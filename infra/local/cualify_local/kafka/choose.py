"""Which Kafka broker the local stack and the tests run on, and starting it.

`KAFKA_BOOTSTRAP_SERVERS` names one that is there already. Else `KAFKA=docker|jvm|embedded` demands a kind, and its
absence is an error. Else the best that this machine offers: Docker, the local JVM, the embedded broker; or the embedded
one at once where starting quickly matters more than being real.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, assert_never, get_args

from cualify_local import children
from cualify_local.kafka import jvm
from cualify_local.kafka.broker import Kafka as Kafka, KafkaUnavailable as KafkaUnavailable, answers
from cualify_local.kafka.docker import start_docker
from cualify_local.kafka.embedded import start_embedded

OurKind = Literal["docker", "jvm", "embedded"]
Preference = Literal["embedded", "real"]


def start_kafka(
    data_dir: Path, log: Path, *, prefer: Preference = "real", topics: Mapping[str, int] | None = None
) -> Kafka:
    """Start a broker, or find the one that is named. Returns when it answers; `kind` says which it is.

    `topics` (name: partitions) are made at once in the embedded broker, which knows no CreateTopics; with the other
    kinds the caller makes them. Synchronous: seconds with a JVM, minutes when jars or an image must be fetched first.
    Raises KafkaUnavailable, its message one line for a person.
    """
    if named := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return _external(named)
    if forced := os.environ.get("KAFKA"):
        return _forced(forced, data_dir, log, topics or {})
    return _best(("embedded",) if prefer == "embedded" else ("docker", "jvm", "embedded"), data_dir, log, topics or {})


def stop_kafka(kafka: Kafka, *, grace_sec: float = 15.0) -> None:
    """Stop the broker if it is ours. A JVM's data stays in its `data_dir`."""
    if kafka.container:
        kafka.container.stop()
    if kafka.child:
        children.stop(kafka.child, grace_sec)
    if kafka.kind == "jvm":
        jvm.publish_class_archive(kafka)


def kill_kafka(kafka: Kafka) -> None:
    """SIGKILL a broker that runs as a process of ours."""
    if kafka.child is None:
        raise KafkaUnavailable(f"a broker of kind {kafka.kind} can't be killed from here: use KAFKA=jvm")
    children.kill(kafka.child)


def restart_kafka(kafka: Kafka) -> Kafka:
    """Start a stopped or killed JVM broker again, on the same ports and data. The other kinds can't do that."""
    if kafka.kind != "jvm" or kafka.child is None or kafka.data_dir is None:
        raise KafkaUnavailable(f"a broker of kind {kafka.kind} can't start again with its data: use KAFKA=jvm")
    return jvm.run(kafka.child.program, kafka.bootstrap_servers, kafka.data_dir)


def _external(bootstrap_servers: str) -> Kafka:
    if not answers(bootstrap_servers):
        raise KafkaUnavailable(
            f"no broker answers at KAFKA_BOOTSTRAP_SERVERS={bootstrap_servers}: start it, or unset the variable"
        )
    return Kafka(bootstrap_servers, "external")


def _forced(kind: str, data_dir: Path, log: Path, topics: Mapping[str, int]) -> Kafka:
    for known in get_args(OurKind):
        if kind == known:
            try:
                return _start(known, data_dir, log, topics)
            except KafkaUnavailable as error:
                raise KafkaUnavailable(f"KAFKA={kind} can't be had: {error}") from error
    raise KafkaUnavailable(f"KAFKA={kind} is not a kind of broker: use docker, jvm or embedded")


def _best(kinds: tuple[OurKind, ...], data_dir: Path, log: Path, topics: Mapping[str, int]) -> Kafka:
    passed_over: list[str] = []
    for kind in kinds:
        try:
            return replace(_start(kind, data_dir, log, topics), passed_over=tuple(passed_over))
        except KafkaUnavailable as error:
            passed_over.append(f"{kind}: {error}")
    raise KafkaUnavailable("no Kafka broker can be had: " + "; ".join(passed_over))


def _start(kind: OurKind, data_dir: Path, log: Path, topics: Mapping[str, int]) -> Kafka:
    match kind:
        case "docker":
            return start_docker(data_dir)
        case "jvm":
            return jvm.start_jvm(data_dir, log)
        case "embedded":
            return start_embedded(data_dir, log, topics=topics)
        case _:
            assert_never(kind)
