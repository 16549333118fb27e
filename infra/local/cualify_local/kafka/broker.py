"""What every way of having a Kafka broker hands back, and the one question that says it is there."""

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cualify_local.children import Child

Kind = Literal["external", "docker", "jvm", "embedded"]
_METADATA = 3


class KafkaUnavailable(RuntimeError):
    """This kind of broker can't be had. The message is one line: what is missing and how to mend it."""


class Container(Protocol):
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Kafka:
    """A running broker. `child` or `container` is set when it is ours to stop.

    `passed_over` says, one line each, why a better kind was not chosen.
    """

    bootstrap_servers: str
    kind: Kind
    child: Child | None = None
    container: Container | None = None
    data_dir: Path | None = None
    passed_over: tuple[str, ...] = ()


def answers(bootstrap_servers: str, *, timeout_sec: float = 2.0) -> bool:
    """Whether one of these comma-separated `host:port` knows of a live broker (a Metadata request, version 1)."""
    return any(_knows_a_broker(address.strip(), timeout_sec) for address in bootstrap_servers.split(","))


def _knows_a_broker(address: str, timeout_sec: float) -> bool:
    host, _, port = address.rpartition(":")
    no_topics = struct.pack(">hhihi", _METADATA, 1, 1, -1, 0)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_sec) as connection:
            connection.settimeout(timeout_sec)
            connection.sendall(struct.pack(">i", len(no_topics)) + no_topics)
            _size, _correlation_id, brokers = struct.unpack(">iii", _read_exactly(connection, 12))
            return int(brokers) > 0
    except (OSError, ValueError):
        return False


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionResetError("closed before it answered")
        received += part
    return received
