"""A sample webhook receiver: verifies each delivery with the official `standardwebhooks` library."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery, and whether its signature was right."""

    webhook_id: str
    verified: bool
    body: dict[str, Any]

    @property
    def type(self) -> str:
        """`call.completed` and the like."""
        return str(self.body.get("type"))

    @property
    def call_id(self) -> str:
        """The call it is about, or an empty string."""
        return str(self.body.get("data", {}).get("id", ""))


@dataclass(slots=True)
class Receiver:
    """Listens on a free loopback port. `secret` is set once the endpoint is registered; until then nothing verifies."""

    on_received: Callable[[Received], None] = lambda _: None
    secret: str = ""
    received: list[Received] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begins to listen; `url` says where."""
        app = web.Application(client_max_size=1024 * 1024)
        app.router.add_post("/cualify-webhook", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/cualify-webhook"

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        received = Received(request.headers.get("webhook-id", ""), self._verifies(raw, request), json.loads(raw))
        if received.verified:
            self.received.append(received)
        self.on_received(received)
        return web.Response(status=204 if received.verified else 401)

    def _verifies(self, raw: bytes, request: web.Request) -> bool:
        try:
            Webhook(self.secret).verify(raw, dict(request.headers))
        except (WebhookVerificationError, ValueError):
            return False
        return True
