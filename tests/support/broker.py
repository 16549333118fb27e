"""The broker that a test run shares: started once, named in the run's first lines."""

import tempfile
from functools import cache
from pathlib import Path

from cualify_local.kafka.broker import Kafka
from cualify_local.kafka.choose import start_kafka


@cache
def shared_folder() -> Path:
    """Where this run's servers keep their data and logs."""
    return Path(tempfile.mkdtemp(prefix="cualify-tests-"))


@cache
def shared_kafka() -> Kafka:
    """The best broker that this machine offers, or the one that `KAFKA` demands."""
    folder = shared_folder()
    return start_kafka(folder / "kafka", folder / "kafka.log", prefer="real")


def described(kafka: Kafka) -> str:
    """For the first lines of a run."""
    kinds = {
        "jvm": "Apache Kafka 4.1.0, KRaft, on the local JVM",
        "docker": "Apache Kafka in Docker",
        "external": f"the Kafka at {kafka.bootstrap_servers}",
        "embedded": "the embedded broker (librdkafka's mock cluster): for trying things out, no proof for production",
    }
    return f"broker: {kinds[kafka.kind]}" + "".join(f"\n  passed over: {why}" for why in kafka.passed_over)
