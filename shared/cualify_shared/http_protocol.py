"""What a connection may cost before a request is even there: a bounded head, all of it in bounded time.

uvicorn with httptools bounds neither the size of a request's head nor the time in which head and body arrive. What goes
beyond is answered in the envelope, and the connection closed; the app sees a client that went away.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cualify_shared.ids import new_hex

HEAD_BYTES: Final = 32 * 1024
"""Of the request line and all headers."""
HEADERS: Final = 100
ARRIVES_WITHIN_SEC: Final = 10.0
"""Of a request with its body. Looked at twice in that time, so it may be half as long again."""


class _Refused(Exception):
    """Out of a callback of the parser, which then gives up."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with limits; what is no HTTP, or too much of it, is answered and the connection closed."""

    arrives_within_sec = ARRIVES_WITHIN_SEC

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._in_head, self._head_bytes, self._chunk_bytes = True, 0, 0
        self._since = self.loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._why: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection of which nothing comes is closed like one that begins and does not end."""
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes; counted while they belong to a head that is not complete."""
        self._chunk_bytes = len(data)
        super().data_received(data)
        if not self._in_head:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the head of a request has at most {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._since = True, self.loop.time()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        if len(self.headers) > HEADERS:
            self._give_up(431, f"a request has at most {HEADERS} headers")
        if self._head_bytes + self._chunk_bytes > HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES:
                self._give_up(431, f"the head of a request has at most {HEAD_BYTES} bytes")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Where the parser has given up."""
        status, message = self._why or (400, "this is no HTTP request that we understand")
        if not self.transport.is_closing():
            self._refuse(status, message)

    def _give_up(self, status: int, message: str) -> None:
        self._why = (status, message)
        raise _Refused

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_arriving() and self.loop.time() - self._since >= self.arrives_within_sec:
            self._refuse(408, f"the request did not arrive within {self.arrives_within_sec:g} s")
            return
        self._watch = self.loop.call_later(self.arrives_within_sec / 2, self._look)

    def _is_arriving(self) -> bool:
        """Whether something is still to come, and nothing was answered yet. Idle connections are uvicorn's to close."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return self._in_head
        return not cycle.response_started and (self._in_head or cycle.more_body)

    def _refuse(self, status: int, message: str) -> None:
        name = f"req_{new_hex()}"
        body = orjson.dumps({"error": {"code": "invalid_request", "message": message, "request_id": name}})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {name}\r\nx-content-type-options: nosniff\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
