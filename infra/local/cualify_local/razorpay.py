"""A stand-in for Razorpay that takes nobody's money: it keeps orders, pays them on demand, and signs its webhooks.

`POST /pay/{order_id}` is the customer at the checkout: billing is told by both webhooks that Razorpay sends, once each.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, encode_basic_auth, web


@dataclass(slots=True)
class LocalRazorpay:
    """Listens on a free loopback port; `url` says where. `fail_next` answers so many requests with 500."""

    key_id: str = "rzp_test_local"
    key_secret: str = field(default_factory=lambda: secrets.token_hex(12))
    webhook_secret: str = field(default_factory=lambda: secrets.token_hex(16))
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    fail_next: int = 0
    lose_next_answer: bool = False
    webhook_url: str = ""
    """Where a payment at the checkout is told."""
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begins to listen."""
        app = web.Application()
        app.router.add_post("/v1/orders", self._create)
        app.router.add_get("/v1/orders/{order_id}", self._show)
        app.router.add_post("/pay/{order_id}", self._check_out)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def pay(self, order_id: str, *, amount: int | None = None) -> dict[str, Any]:
        """A captured payment of an order, as the webhooks show it."""
        order = self.orders[order_id]
        return {
            "id": f"pay_{secrets.token_hex(7)}",
            "entity": "payment",
            "amount": order["amount"] if amount is None else amount,
            "currency": "INR",
            "status": "captured",
            "order_id": order_id,
            "captured": True,
            "method": "upi",
        }

    def payment_captured(self, payment: dict[str, Any]) -> bytes:
        """The body of `payment.captured`."""
        return self._told("payment.captured", {"payment": {"entity": payment}})

    def order_paid(self, payment: dict[str, Any]) -> bytes:
        """The body of `order.paid`."""
        order = {**self.orders[payment["order_id"]], "status": "paid", "amount_paid": payment["amount"]}
        return self._told("order.paid", {"payment": {"entity": payment}, "order": {"entity": order}})

    def sign(self, body: bytes) -> str:
        """What stands in `X-Razorpay-Signature`."""
        return hmac.new(self.webhook_secret.encode(), body, hashlib.sha256).hexdigest()

    def _told(self, event: str, payload: dict[str, Any]) -> bytes:
        told = {"entity": "event", "event": event, "contains": list(payload), "payload": payload, "created_at": 1}
        return json.dumps(told).encode()

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != encode_basic_auth(self.key_id, self.key_secret):
            return web.json_response({"error": {"code": "BAD_REQUEST_ERROR"}}, status=401)
        if self.fail_next:
            self.fail_next -= 1
            return web.json_response({"error": {"code": "SERVER_ERROR"}}, status=500)
        return None

    async def _create(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        asked = await request.json()
        if not isinstance(asked.get("amount"), int) or asked["amount"] < 100 or asked.get("currency") != "INR":
            return web.json_response({"error": {"code": "BAD_REQUEST_ERROR"}}, status=400)
        order = {
            "id": f"order_{secrets.token_hex(7)}",
            "entity": "order",
            "amount": asked["amount"],
            "amount_paid": 0,
            "currency": "INR",
            "receipt": asked.get("receipt"),
            "status": "created",
        }
        self.orders[order["id"]] = order
        if self.lose_next_answer:
            self.lose_next_answer = False
            return web.Response(status=504)
        return web.json_response(order)

    async def _show(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        order = self.orders.get(request.match_info["order_id"])
        if order is None:
            return web.json_response({"error": {"code": "BAD_REQUEST_ERROR"}}, status=400)
        return web.json_response(order)

    async def _check_out(self, request: web.Request) -> web.Response:
        """The order is paid and billing told of it. A webhook that is refused is shown, and not sent again."""
        order_id = request.match_info["order_id"]
        if order_id not in self.orders:
            return web.json_response({"error": {"code": "BAD_REQUEST_ERROR"}}, status=404)
        payment = self.pay(order_id)
        told: list[int] = []
        async with ClientSession(timeout=ClientTimeout(total=10)) as http:
            for body in (self.payment_captured(payment), self.order_paid(payment)):
                headers = {"X-Razorpay-Signature": self.sign(body), "Content-Type": "application/json"}
                try:
                    async with http.post(self.webhook_url, data=body, headers=headers) as answer:
                        told.append(answer.status)
                except (ClientError, OSError, TimeoutError):
                    told.append(0)
        return web.json_response({"payment_id": payment["id"], "webhooks": told})
