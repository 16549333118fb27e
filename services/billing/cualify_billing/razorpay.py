"""Razorpay's protocol, and nothing of ours: orders asked for, webhooks verified and read.

https://razorpay.com/docs/api/orders/create/ and https://razorpay.com/docs/webhooks/validate-test/
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Any

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cualify_billing.answers import TooLong, whole

TIMEOUT_SEC = 10
LARGEST_ANSWER_BYTES = 256 * 1024
_Id = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_]+$")]


_Paise = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
_Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class GatewayFailed(Exception):
    """The gateway is away, or answered what we do not understand. Asking again under the same receipt is safe."""


class NoSuchOrder(Exception):
    """The gateway knows no order by this id."""


class _Entity(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Order(_Entity):
    """An order as the gateway shows it."""

    id: _Id
    amount: _Paise
    currency: _Currency
    receipt: str | None = None


class Payment(_Entity):
    """A payment as a webhook shows it."""

    id: _Id
    amount: _Paise
    currency: _Currency
    status: str
    order_id: _Id | None = None


@dataclass(frozen=True, slots=True)
class Captured:
    """Money that the gateway says is ours, and what it says of the order, where it does."""

    payment: Payment
    order: Order | None


class MalformedWebhook(Exception):
    """Signed, but no event that we can read."""


def is_signed(body: bytes, *, signature: str, secret: str) -> bool:
    """Whether the hex HMAC-SHA256 over the raw body is the webhook secret's."""
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def captured(body: bytes) -> Captured | None:
    """The captured payment that a webhook tells of; None where it tells of something else.

    Raises:
        MalformedWebhook: it is no JSON of the shape that the gateway documents.
    """
    try:
        told = orjson.loads(body)
        if told["event"] not in ("payment.captured", "order.paid"):
            return None
        payload = told["payload"]
        payment = Payment.model_validate(payload["payment"]["entity"])
        order = payload.get("order")
        found = Captured(payment, Order.model_validate(order["entity"]) if order else None)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise MalformedWebhook(type(error).__name__) from None
    return found if payment.status == "captured" else None


class Razorpay:
    """The Orders API. One session for the life of the service; no request is repeated here."""

    def __init__(self, *, url: str, key_id: str, key_secret: str) -> None:
        self._url, self.key_id = url.rstrip("/"), key_id
        self._authorization = aiohttp.encode_basic_auth(key_id, key_secret)
        self._session: aiohttp.ClientSession | None = None

    async def create_order(self, *, amount_paise: int, receipt: str) -> Order:
        """An order for so many paise. The receipt is ours; the gateway does not make it unique.

        Raises:
            GatewayFailed: no order was made, or it is not known whether one was.
        """
        order = await self._ask("POST", "/v1/orders", {"amount": amount_paise, "currency": "INR", "receipt": receipt})
        if (order.amount, order.currency, order.receipt) != (amount_paise, "INR", receipt):
            raise GatewayFailed("the order differs from what was asked for")
        return order

    async def order(self, order_id: str) -> Order:
        """An order of ours by the gateway's id.

        Raises:
            NoSuchOrder: it is none of this account's.
            GatewayFailed: it is away.
        """
        return await self._ask("GET", f"/v1/orders/{order_id}", None)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Order:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": self._authorization}, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SEC)
            )
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as answer:
                raw = await whole(answer, most_bytes=LARGEST_ANSWER_BYTES)
                if method == "GET" and answer.status in (400, 404):
                    raise NoSuchOrder
                if answer.status != 200:
                    raise GatewayFailed(f"{method} {path} was answered {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError, TooLong) as error:
            raise GatewayFailed(f"{method} {path}: {type(error).__name__}") from None
        try:
            return Order.model_validate_json(raw)
        except ValidationError:
            raise GatewayFailed(f"{method} {path} was answered with no order") from None
