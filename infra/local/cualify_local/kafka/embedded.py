"""The embedded broker: the mock cluster inside librdkafka, in a process of its own. For trying things out only.

It speaks Kafka's protocol on a port of 127.0.0.1 with idempotent producers and consumer groups, starts in a moment, and
needs nothing but the `confluent-kafka` wheel. It keeps the last 5 MB of each partition, in memory, and nothing after it
ends; it knows no CreateTopics (a topic appears on first use, with 4 partitions) and one member per group.

Run as a program it writes its address to a file and ends when its parent does:
`python -m cualify_local.kafka.embedded ADDRESS_FILE [TOPIC=PARTITIONS ...]`
"""

import ctypes
import os
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from cualify_local import children
from cualify_local.children import Program
from cualify_local.kafka.broker import Kafka, KafkaUnavailable, answers

START_TIMEOUT_SEC = 20
_PRODUCER = 0


def start_embedded(data_dir: Path, log: Path, *, topics: Mapping[str, int]) -> Kafka:
    """Start it as a child process, with `topics` (name: partitions) made. `data_dir` only gets its address file."""
    data_dir.mkdir(parents=True, exist_ok=True)
    address_file = data_dir / "address"
    address_file.unlink(missing_ok=True)
    wanted = [f"{name}={partitions}" for name, partitions in topics.items()]
    args = (sys.executable, "-m", __spec__.name, str(address_file.absolute()), *wanted)
    child = children.start(Program("kafka", args, log))
    is_up = lambda: address_file.exists() and answers(address_file.read_text())  # noqa: E731
    if not children.wait_until(is_up, timeout_sec=START_TIMEOUT_SEC, child=child):
        children.kill(child)
        raise KafkaUnavailable(f"the embedded broker did not start; {log} ends: {children.tail(log, 3)}")
    return Kafka(address_file.read_text(), "embedded", child=child, data_dir=data_dir)


def _library() -> ctypes.CDLL:
    """librdkafka as the wheel ships it: found through the extension module, which is linked to it."""
    package = find_spec("confluent_kafka")
    folders = package.submodule_search_locations if package else None
    for extension in Path(folders[0]).glob("cimpl.*") if folders else ():
        if extension.suffix in (".so", ".pyd"):
            return _declared(ctypes.CDLL(str(extension)))
    raise KafkaUnavailable("the embedded broker needs the confluent-kafka wheel: pip install confluent-kafka")


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _run_broker(topics: Mapping[str, int]) -> str:
    """Start the cluster on librdkafka's own threads and return its address."""
    library, error = _library(), ctypes.create_string_buffer(512)
    client = library.rd_kafka_new(_PRODUCER, None, error, len(error))
    if not client:
        raise RuntimeError(error.value.decode())
    cluster = library.rd_kafka_mock_cluster_new(client, 1)
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)  # else the first join of each group takes 3 s
    for name, partitions in topics.items():
        if problem := library.rd_kafka_mock_topic_create(cluster, name.encode(), partitions, 1):
            raise RuntimeError(f"topic {name} with {partitions} partitions: librdkafka error {problem}")
    address: bytes = library.rd_kafka_mock_cluster_bootstraps(cluster)
    return address.decode()


def main() -> None:
    parent = os.getppid()
    address_file = Path(sys.argv[1])
    address = _run_broker({name: int(partitions) for name, partitions in (item.split("=") for item in sys.argv[2:])})
    draft = address_file.with_suffix(".draft")
    draft.write_text(address)
    draft.rename(address_file)
    while os.getppid() == parent:
        time.sleep(1)


if __name__ == "__main__":
    main()
