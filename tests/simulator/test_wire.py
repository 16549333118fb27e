"""The hand-written client: one connection for many requests, and an error for everything that is no answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cualify_simulator.wire import Wire, target_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers the n-th request with the n-th of its answers, and the last for ever; an empty one closes."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[tuple[str, bytes]] = []
        self.url = ""
        self.serving: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.serving.append(asyncio.current_task())
        try:
            while answer := await self._one(reader):
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        self.requests.append((head, await reader.readexactly(length)))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def served(*answers: bytes) -> AsyncIterator[tuple[Server, Wire]]:
    server, wire = Server(*answers), Wire()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook?token=a"
    try:
        yield server, wire
    finally:
        wire.close()
        listening.close()
        await asyncio.gather(*(task for task in server.serving if task))


async def test_one_connection_serves_many_requests() -> None:
    async with served(OK) as (server, wire):
        assert [await wire.post(server.url, b"%d" % number) for number in range(5)] == [200] * 5
        assert server.connections == 1
        assert [body for _, body in server.requests] == [b"0", b"1", b"2", b"3", b"4"]
        head = server.requests[0][0]
        assert head.startswith("POST /hook?token=a HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "Content-Type: application/json\r\n" in head


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 500),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
    ],
)
async def test_every_shape_of_an_answer_is_read_to_its_end(answer: bytes, status: int) -> None:
    async with served(answer, OK) as (server, wire):
        assert [await wire.post(server.url, b"{}"), await wire.post(server.url, b"{}")] == [status, 200]


async def test_a_connection_the_other_side_will_close_is_not_used_again() -> None:
    async with served(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") as (server, wire):
        assert [await wire.post(server.url, b"{}") for _ in range(2)] == [200, 200]
        assert server.connections == 2


async def test_a_close_without_an_answer_is_an_error_and_nothing_is_repeated() -> None:
    async with served(OK, b"", OK) as (server, wire):
        assert await wire.post(server.url, b"{}") == 200
        with pytest.raises(ConnectionError):
            await wire.post(server.url, b"{}")
        assert len(server.requests) == 2
        assert await wire.post(server.url, b"{}") == 200


async def test_what_is_no_http_is_an_error() -> None:
    async with served(b"done") as (server, wire):
        with pytest.raises(ConnectionError):
            await wire.post(server.url, b"{}")


async def test_after_a_timeout_the_late_answer_is_not_taken_for_the_next_one() -> None:
    async with served(b"HTTP/1.1 500 Slow\r\n", OK) as (server, wire):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wire.post(server.url, b"{}")
        assert await wire.post(server.url, b"{}") == 200
        assert server.connections == 2


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http://", "nothing", "http://host/ x", "http://host:99999/", "http://hóst/"]
)
def test_only_http_urls_lead_anywhere(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        target_of(url)


@pytest.mark.parametrize(
    ("url", "port", "host"),
    [("http://a.example", 80, "a.example"), ("https://a.example/x", 443, "a.example"), ("http://[::1]:81/", 81, "::1")],
)
def test_a_url_tells_where_to_go(url: str, port: int, host: str) -> None:
    target = target_of(url)
    assert (target.host, target.port) == (host, port)
