"""A customers' server that costs next to nothing: `python -m tests.support.webhook_sink PORT`.

It answers 200 and keeps every request. `/hang…` never answers, `/drip` answers a byte a second. `GET /count` tells how
many came, `GET /dump` all of them: `[path, webhook-id, arrived_at, timestamp, subject, sequence]`.
"""

import asyncio
import re
import sys
import time
from datetime import datetime
from typing import Any

import orjson
import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_ID = re.compile(rb"webhook-id: (\S+)", re.IGNORECASE)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_got: list[tuple[bytes, bytes, float]] = []


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # uvloop's is no asyncio.Transport.

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < total:
                return
            body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /"):
            content = str(len(_got)).encode() if head.startswith(b"GET /count") else orjson.dumps(dumped())
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
            return
        _got.append((head, body, time.time()))
        if not head.startswith(b"POST /hang"):
            self._transport.write(_OK)


def dumped() -> list[tuple[str, str, float, float, str, int]]:
    """What came, in order of arrival."""
    found = []
    for head, body, at in _got:
        told, id_ = orjson.loads(body), _ID.search(head)
        happened = datetime.fromisoformat(told["timestamp"]).timestamp()
        subject = str(told["data"].get("id"))
        found.append(
            (head.split(b" ", 2)[1].decode(), id_[1].decode() if id_ else "", at, happened, subject, told["sequence"])
        )
    return found


async def main(port: int) -> None:
    """Serves until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
