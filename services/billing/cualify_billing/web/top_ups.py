"""Top-ups over HTTP: orders for the api, and the gateway's webhook, which proves itself by its signature."""

from typing import Annotated, Any, assert_never
from uuid import UUID

import structlog
from fastapi import APIRouter
from pydantic import Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from cualify_billing import ledger, razorpay, top_ups
from cualify_billing.ledger import Credited
from cualify_billing.razorpay import Captured, GatewayFailed, MalformedWebhook, Razorpay
from cualify_billing.top_ups import Alarm, OtherOrder, PaymentOrder
from cualify_billing.web.fields import MOST_PAISE_AT_ONCE, Body, Name
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json, problem
from cualify_shared.reads import AfterCommit

log = structlog.get_logger(__name__)


class OrderRequest(Body):
    """A top-up that a customer wants to pay. The same `request_id` is the same order."""

    request_id: Name
    amount_paise: Annotated[int, Field(strict=True, ge=100, le=MOST_PAISE_AT_ONCE)]


def top_up_routes(
    *, pool: Pool, committed: AfterCommit, gateway: Razorpay | None, webhook_secret: SecretStr | None
) -> APIRouter:
    """Without a gateway there are no orders; without the webhook's secret there is no webhook."""
    routes = APIRouter()

    @routes.post("/internal/orgs/{org_id}/orders")
    async def open_order(org_id: UUID, body: OrderRequest) -> Response:
        if gateway is None:
            raise Refused(404, "no payment gateway is configured: RAZORPAY_KEY_ID, …_KEY_SECRET")
        try:
            order = await top_ups.open_order(pool, gateway, org_id=org_id, **body.model_dump())
        except GatewayFailed as error:
            log.warning("order_failed", org_id=str(org_id), error=str(error))
            return problem(502, "upstream_error", "the payment gateway did not take the order: ask again")
        if isinstance(order, OtherOrder):
            raise Refused(409, "this request_id was used before with another amount")
        return json({"data": _shown(order, gateway)}, status=201)

    @routes.post("/webhooks/razorpay")
    async def take_webhook(request: Request) -> Response:
        if gateway is None or webhook_secret is None:
            raise Refused(404, "no payment gateway is configured")
        body = await request.body()
        signature = request.headers.get("x-razorpay-signature", "")
        if not razorpay.is_signed(body, signature=signature, secret=webhook_secret.get_secret_value()):
            return problem(401, "unauthorized", "the signature is not the webhook secret's")
        try:
            told = razorpay.captured(body)
        except MalformedWebhook as error:
            raise Refused(400, f"this is no event of the gateway: {error}") from None
        if told is None:
            return json({"data": {"outcome": "ignored"}})
        return await _take(told, body, gateway)

    async def _take(told: Captured, body: bytes, gateway: Razorpay) -> Response:
        try:
            outcome = await top_ups.take_payment(pool, gateway, told, body=body, at=now())
        except GatewayFailed as error:
            log.warning("payment_postponed", payment_id=told.payment.id, error=str(error))
            return problem(503, "unavailable", "whose order this is could not be found out: send it again")
        match outcome:
            case Credited():
                _tell_credited(told, outcome, committed)
                return json({"data": {"outcome": "repeated" if outcome.repeated else "credited"}})
            case Alarm():
                _tell_alarm(told, outcome)
                return json({"data": {"outcome": outcome.why}})
            case _:
                assert_never(outcome)

    return routes


def _shown(order: PaymentOrder, gateway: Razorpay) -> dict[str, Any]:
    """What the customer's checkout needs."""
    return {
        "order_id": order.order_id,
        "request_id": order.request_id,
        "amount_paise": order.amount_paise,
        "currency": "INR",
        "key_id": gateway.key_id,
        "paid": order.payment_id is not None,
    }


def _tell_credited(told: Captured, outcome: Credited, committed: AfterCommit) -> None:
    if outcome.repeated:
        return
    committed()
    ledger.TRANSFERS.labels("top_up").inc()
    log.info(
        "payment_credited",
        payment_id=told.payment.id,
        amount_paise=outcome.amount_paise,
        balance_paise=outcome.balance_paise,
    )


def _tell_alarm(told: Captured, alarm: Alarm) -> None:
    if alarm.first:
        top_ups.ALARMS.labels(alarm.why).inc()
        log.error("payment_alarm", payment_id=told.payment.id, why=alarm.why, amount_paise=told.payment.amount)
