"""A customer's server: real HTTP on loopback. It keeps what it got and answers as the test tells it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Respond = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.content)
        return parsed


@dataclass(slots=True)
class Receiver:
    """`respond` gets the request and its number, from 1."""

    respond: Respond
    url: str = ""
    got: list[Received] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def until(self, count: int, *, seconds: float = 10) -> list[Received]:
        """Returns when so many requests have come."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)
        return list(self.got)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        async with self._arrived:
            self.got.append(Received(dict(request.headers), content))
            number = len(self.got)
            self._arrived.notify_all()
        return await self.respond(request, number)


async def answer_ok(_: web.Request, __: int) -> web.StreamResponse:
    return web.Response(status=200)


def answers(*statuses: int, headers: dict[str, str] | None = None) -> Respond:
    """Answers with these in turn, then with the last for ever."""

    async def respond(_: web.Request, number: int) -> web.StreamResponse:
        status = statuses[min(number, len(statuses)) - 1]
        return web.Response(status=status, headers=headers if status >= 300 else None)

    return respond
