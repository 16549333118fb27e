"""A simulator and a receiver of its callbacks, both real HTTP on loopback, for the length of one test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import aiohttp
import orjson
from aiohttp import web

from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings

KEY = "bn-simulator"
PATIENCE_SEC = 15.0

Json = dict[str, Any]
T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """Looks again and again until there is something to see."""
    async with asyncio.timeout(PATIENCE_SEC):
        while True:
            if seen := await look():
                return seen
            await asyncio.sleep(0.005)


class Receiver:
    """Keeps every callback in the order of arrival; `answer` decides what each one hears."""

    def __init__(self) -> None:
        self.received: list[Json] = []
        self.answer: Callable[[Json], int] = lambda _: 200
        self.is_hanging = False
        self.url = ""
        self._news = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        if self.is_hanging:
            await asyncio.Event().wait()
        callback = orjson.loads(await request.read())
        async with self._news:
            self.received.append(callback)
            self._news.notify_all()
        return web.Response(status=self.answer(callback))

    async def until(self, holds: Callable[[list[Json]], bool]) -> list[Json]:
        async with asyncio.timeout(PATIENCE_SEC), self._news:
            await self._news.wait_for(lambda: holds(self.received))
        return self.received

    async def until_status(self, status: str) -> list[Json]:
        return await self.until(lambda received: any(callback["status"] == status for callback in received))

    def statuses(self) -> list[str]:
        """Without the agent's own messages."""
        return [callback["status"] for callback in self.received if "cualify_event" not in callback]

    def events(self) -> list[Json]:
        return [callback["cualify_event"] for callback in self.received if "cualify_event" in callback]


@dataclass
class World:
    url: str
    http: aiohttp.ClientSession
    receiver: Receiver
    agent_id: str = field(default="", init=False)

    async def __aenter__(self) -> Self:
        self.agent_id = await self.make_agent()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, Any]:
        async with self.http.request(method, self.url + path, **how) as response:
            raw = await response.read()
            return response.status, orjson.loads(raw) if response.content_type == "application/json" else raw

    async def make_agent(self, **beside: Any) -> str:
        config = {"agent_name": "Priya", "webhook_url": self.receiver.url}
        status, body = await self.ask("POST", "/v2/agent", json={"agent_config": config, **beside})
        assert status == 201
        return str(body["agent_id"])

    async def place(self, to_e164: str, *, ref: str = "boln_1", agent_id: str = "") -> tuple[int, Any]:
        body = {
            "agent_id": agent_id or self.agent_id,
            "recipient_phone_number": to_e164,
            "user_data": {"cualify_ref": ref, "customer_name": "Asha"},
        }
        return await self.ask("POST", "/call", json=body)

    async def placed(self, to_e164: str, *, ref: str = "boln_1", agent_id: str = "") -> str:
        """The execution's id, of a call that is accepted plainly."""
        status, body = await self.place(to_e164, ref=ref, agent_id=agent_id)
        assert (status, body["message"], body["status"]) == (200, "done", "queued")
        return str(body["execution_id"])

    async def journal(self, *kinds: str) -> list[Json]:
        """All entries, or those of the given kinds."""
        entries: list[Json] = []
        while True:
            after = entries[-1]["n"] if entries else 0
            _, page = await self.ask("GET", f"/journal?after={after}")
            if not page["entries"]:
                return [entry for entry in entries if not kinds or entry["kind"] in kinds]
            entries += page["entries"]

    async def until_noted(self, kind: str, *, count: int = 1) -> list[Json]:
        async def enough() -> list[Json]:
            entries = await self.journal(kind)
            return entries if len(entries) >= count else []

        return await until(enough)

    async def execution(self, execution_id: str) -> Json:
        status, body = await self.ask("GET", f"/executions/{execution_id}")
        assert status == 200
        return dict(body)


@asynccontextmanager
async def simulated(**settings: Any) -> AsyncIterator[World]:
    """Six hundred times faster than life, unless told otherwise."""
    receiver = Receiver()
    hook = web.Application()
    hook.router.add_post("/hook", receiver.take)
    chosen = Settings.model_validate({"simulator_speed": 600, "client_timeout_sec": 0.2, **settings})
    async with _served(hook) as receiver_url, _served(build_app(chosen)) as url:
        receiver.url = f"{receiver_url}/hook"
        http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        async with World(url, http, receiver) as world:
            yield world


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
