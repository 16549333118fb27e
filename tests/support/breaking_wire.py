"""TCP on loopback in front of a PostgreSQL server, which breaks where a test says: at a COMMIT, before or after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

COMMIT = b"COMMIT;"
COMMITTED = b"COMMIT\0"


class Break(Enum):
    """What becomes of a message that the wire breaks at."""

    BEFORE = "never sent"
    AFTER = "sent, its answer lost"
    LATE = "the client is cut off first, the message sent when the test says"
    NEVER = "the client is cut off first, the session ended when the test says"


@dataclass(slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallows: bool = False

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.close()


@dataclass(slots=True)
class Wire:
    """Counts the messages with `needle` since `arm`, and breaks at those whose number is named."""

    host: str
    port: int
    needle: bytes = COMMIT
    how: Break = Break.BEFORE
    at: frozenset[int] = frozenset()
    then_dead: bool = False
    seen: int = 0
    broken: int = 0
    connections: int = 0
    dead: bool = False
    """Every connection is cut at once, new ones too."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    _links: set[_Link] = field(default_factory=set)

    def arm(self, how: Break, *at: int, needle: bytes = COMMIT, then_dead: bool = False) -> None:
        """Breaks from now on: at the first, second … message with `needle`. `then_dead`: and is dead after that."""
        self.how, self.at, self.needle, self.then_dead = how, frozenset(at), needle, then_dead
        self.seen = self.broken = 0
        self.go_on.clear()

    def die(self) -> None:
        self.dead = True
        for link in list(self._links):
            link.cut()

    async def on_connection(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.dead:
            client.transport.abort()
            return
        from_server, server = await asyncio.open_connection(self.host, self.port)
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(self._up(from_client, link), self._down(from_server, link))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links.discard(link)
            link.cut()

    async def _up(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while message := await reader.read(65_536):
            if self.needle in message:
                self.seen += 1
                if self.seen in self.at:
                    await self._break(link, message)
                    continue
            link.server.write(message)
        link.server.close()

    async def _break(self, link: _Link, message: bytes) -> None:
        self.broken += 1
        self.dead = self.dead or self.then_dead
        match self.how:
            case Break.BEFORE:
                link.cut()
            case Break.AFTER:
                link.swallows = True
                link.server.write(message)
            case Break.LATE | Break.NEVER:
                link.client.transport.abort()
                await self.go_on.wait()
                if self.how is Break.LATE:
                    link.swallows = True
                    link.server.write(message)
                else:
                    link.server.close()

    async def _down(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while message := await reader.read(65_536):
            if link.swallows:
                if COMMITTED in message or self.needle != COMMIT:
                    link.cut()
                continue
            link.client.write(message)
        link.client.close()


@asynccontextmanager
async def breaking_wire(dsn: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the server of `dsn`, and the DSN of the same database over it."""
    there = urlsplit(dsn)
    assert there.hostname is not None
    assert there.port is not None
    wire = Wire(there.hostname, there.port)
    listening = await asyncio.start_server(wire.on_connection, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    account = there.netloc.rpartition("@")[0]
    netloc = f"{account}@127.0.0.1:{port}" if account else f"127.0.0.1:{port}"
    try:
        yield wire, urlunsplit(there._replace(netloc=netloc))
    finally:
        wire.die()
        listening.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(listening.wait_closed(), 5)
