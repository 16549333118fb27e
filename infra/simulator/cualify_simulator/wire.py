"""POSTs callbacks over kept-alive HTTP/1.1 connections, and reads of an answer only its status.

Written by hand because callbacks are most of what the simulator does: six for each call. The same load took twice the
processor time with a general HTTP client. Follows no redirect, repeats nothing.
"""

import asyncio
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

IDLE_LIMIT: Final = 256
FINAL: Final = 200


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads, and the head of every request to it, but for the length."""

    host: str
    port: int
    is_tls: bool
    head: bytes


class Wire:
    def __init__(self) -> None:
        self._idle: dict[tuple[str, int, bool], list[Connection]] = {}
        self._idle_count = 0

    async def post(
        self,
        url: str,
        body: bytes,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> int:
        """The answer's status. Raises `OSError` if there is none; the caller sets the time limit."""
        target = target_of(url)
        connection = self._reuse(target) or await self._connect(target)
        try:
            head = "".join(f"{name}: {value}\r\n" for name, value in (("Content-Type", content_type), *headers))
            status = await connection.exchange(
                b"%b%bContent-Length: %d\r\n\r\n%b" % (target.head, head.encode("latin-1"), len(body), body)
            )
        except BaseException:  # also when cancelled: an answer may still come, and would be taken for the next one's
            connection.close()
            raise
        self._keep(target, connection)
        return status

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _reuse(self, target: Target) -> "Connection | None":
        idle = self._idle.get(_place(target), [])
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_open:
                return connection
        return None

    async def _connect(self, target: Target) -> "Connection":
        context = ssl.create_default_context() if target.is_tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, target.host, target.port, ssl=context)
        return connection

    def _keep(self, target: Target, connection: "Connection") -> None:
        if connection.is_open and self._idle_count < IDLE_LIMIT:
            self._idle.setdefault(_place(target), []).append(connection)
            self._idle_count += 1
        else:
            connection.close()


class Connection(asyncio.Protocol):
    """One request at a time. The parser calls the `on_…` methods."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._answered: asyncio.Future[int] | None = None

    async def exchange(self, request: bytes) -> int:
        self._parser = httptools.HttpResponseParser(self)
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            self.close()  # an answer to nothing
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(ConnectionError("the answer is no HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(ConnectionError("closed without an answer"))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < FINAL:  # such as "100 Continue": the answer is yet to come
            return
        self.is_open = self.is_open and self._parser.should_keep_alive()
        if self._answered and not self._answered.done():
            self._answered.set_result(self._parser.get_status_code())

    def _fail(self, problem: ConnectionError) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(problem)


@lru_cache(maxsize=1_024)
def target_of(url: str) -> Target:
    """Raises `ValueError` for what is no http or https URL."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or " " in url:
        raise ValueError("no http URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: cualify-simulator\r\n"
    return Target(parts.hostname, parts.port or (443 if is_tls else 80), is_tls, head.encode())


def _place(target: Target) -> tuple[str, int, bool]:
    return target.host, target.port, target.is_tls
