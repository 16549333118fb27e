"""A Kafka broker (KRaft) in a container, where a Docker engine answers. It is removed when this process dies."""

from contextlib import suppress
from pathlib import Path

from cualify_local import children
from cualify_local.kafka.broker import Kafka, KafkaUnavailable, answers

ENGINE_TIMEOUT_SEC = 2
START_TIMEOUT_SEC = 120
SETTINGS = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
}


def start_docker(data_dir: Path) -> Kafka:
    """Start one; its data stays inside the container. Raises KafkaUnavailable."""
    _require_engine()
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer().with_kraft()
    for name, value in SETTINGS.items():
        container.with_env(name, value)
    try:
        container.start(timeout=START_TIMEOUT_SEC)
    except Exception as error:  # the engine's, the registry's and testcontainers' own: all mean the same here
        with suppress(Exception):
            container.stop()
        raise KafkaUnavailable(f"Docker answers, but {container.image} did not start: {str(error)[:200]}") from error
    address = container.get_bootstrap_server()
    if not children.wait_until(lambda: answers(address), timeout_sec=START_TIMEOUT_SEC):
        container.stop()
        raise KafkaUnavailable(f"the broker in Docker does not answer at {address}")
    return Kafka(address, "docker", container=container, data_dir=data_dir)


def _require_engine() -> None:
    try:
        import docker
        import testcontainers.community.kafka  # noqa: F401
    except ImportError as error:
        raise KafkaUnavailable("the Python package testcontainers is missing: `make test` installs it") from error
    try:
        docker.from_env(timeout=ENGINE_TIMEOUT_SEC).ping()
    except Exception as error:  # docker.errors and requests' own, depending on how it is absent
        raise KafkaUnavailable("no Docker engine answers: start Docker, or set DOCKER_HOST") from error
