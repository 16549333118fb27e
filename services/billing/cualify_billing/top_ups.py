"""Top-ups by a payment gateway: an order is written before the gateway is asked, a payment credited exactly once.

The payment's id names the transfer, so whatever the gateway repeats or reorders, the wallet gets it once.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, get_args
from uuid import UUID

from prometheus_client import Counter

from cualify_billing import ledger
from cualify_billing.ledger import Credit, Credited
from cualify_billing.razorpay import Captured, NoSuchOrder, Order, Razorpay
from cualify_shared import faults
from cualify_shared.database import Connection, Pool
from cualify_shared.ids import new_id

ALARMS = Counter("cualify_payment_alarms_total", "Signed payments that could not be credited.", ["why"])

Why: TypeAlias = Literal["unknown_order", "amount_differs", "currency_differs", "paid_twice", "contradicted"]

for _why in get_args(Why):
    ALARMS.labels(_why)  # at 0 from the start: the first one has to be seen as an increase


@dataclass(frozen=True, slots=True)
class PaymentOrder:
    """What a customer wants to pay. `order_id` is the gateway's; without it the gateway has not answered yet."""

    receipt: UUID
    org_id: UUID
    request_id: str
    amount_paise: int
    order_id: str | None
    payment_id: str | None


@dataclass(frozen=True, slots=True)
class OtherOrder:
    """The request was made before with another amount."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A payment that was not credited, and why. `first`: nobody has heard of it yet."""

    why: Why
    first: bool


OPEN_ORDER = """
WITH opened AS (
    INSERT INTO payment_orders (receipt, org_id, request_id, amount_paise)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (org_id, request_id) DO NOTHING
    RETURNING receipt, org_id, request_id, amount_paise, order_id, payment_id
)
SELECT receipt, org_id, request_id, amount_paise, order_id, payment_id
FROM opened
UNION ALL
SELECT receipt, org_id, request_id, amount_paise, order_id, payment_id
FROM payment_orders
WHERE org_id = $2 AND request_id = $3
"""

NAME_ORDER = """
UPDATE payment_orders
SET order_id = $2
WHERE receipt = $1 AND order_id IS NULL
"""


async def open_order(
    pool: Pool, gateway: Razorpay, *, org_id: UUID, request_id: str, amount_paise: int
) -> PaymentOrder | OtherOrder:
    """The order of a request; the gateway is asked where it has none yet. Nothing is held open while it answers.

    Raises:
        GatewayFailed: the request stands, and can be made again.
    """
    async with pool.acquire() as connection:
        row = await connection.fetchrow(OPEN_ORDER, new_id(), org_id, request_id, amount_paise)
        # Another's insert was under way when this statement began to look: now it is there.
        row = row or await connection.fetchrow(OPEN_ORDER, new_id(), org_id, request_id, amount_paise)
    assert row is not None, "it was inserted, or was there"
    wanted = PaymentOrder(**row)
    if wanted.amount_paise != amount_paise:
        return OtherOrder()
    if wanted.order_id is not None:
        return wanted
    faults.point("billing.order_opened")
    order = await gateway.create_order(amount_paise=amount_paise, receipt=str(wanted.receipt))
    faults.point("billing.order_created")
    async with pool.acquire() as connection:
        await connection.execute(NAME_ORDER, wanted.receipt, order.id)
        named = await connection.fetchrow(OPEN_ORDER, new_id(), org_id, request_id, amount_paise)
    assert named is not None, "it was there before"
    return PaymentOrder(**named)


async def take_payment(pool: Pool, gateway: Razorpay, told: Captured, *, body: bytes, at: datetime) -> Credited | Alarm:
    """Credits a captured payment of an order of ours, once; anything else is kept and alarmed.

    Raises:
        GatewayFailed: whose order it is could not be found out; the webhook has to come again.
    """
    receipt = await _receipt_of(pool, gateway, told)
    async with pool.acquire() as connection, connection.transaction():
        outcome = await _credit(connection, told, receipt, at)
        if isinstance(outcome, Credited):
            return outcome
        return await _alarm(connection, told, outcome, body)


BY_ORDER = """
SELECT receipt
FROM payment_orders
WHERE order_id = $1
"""


async def _receipt_of(pool: Pool, gateway: Razorpay, told: Captured) -> UUID | None:
    """Which order of ours was paid: by the gateway's id, else by the receipt that its order carries."""
    order_id = told.payment.order_id
    if order_id is None:
        return None
    async with pool.acquire() as connection:
        known: UUID | None = await connection.fetchval(BY_ORDER, order_id)
    if known is not None:
        return known
    # Made by a process that died before it heard the answer; or none of ours.
    order = told.order if told.order is not None and told.order.id == order_id else None
    try:
        return _uuid(order or await gateway.order(order_id))
    except NoSuchOrder:
        return None


def _uuid(order: Order) -> UUID | None:
    try:
        return UUID(order.receipt)
    except (TypeError, ValueError):
        return None


LOCK_ORDER = """
SELECT receipt, org_id, request_id, amount_paise, order_id, payment_id
FROM payment_orders
WHERE receipt = $1
FOR NO KEY UPDATE
"""

PAID = """
UPDATE payment_orders
SET payment_id = $2, paid_at = $3, order_id = coalesce(order_id, $4)
WHERE receipt = $1
"""


async def _credit(connection: Connection, told: Captured, receipt: UUID | None, at: datetime) -> Credited | Why:
    row = await connection.fetchrow(LOCK_ORDER, receipt)
    if row is None:
        return "unknown_order"
    order, payment = PaymentOrder(**row), told.payment
    if payment.currency != "INR":
        return "currency_differs"
    if payment.amount != order.amount_paise:
        return "amount_differs"
    if order.payment_id not in (None, payment.id):
        return "paid_twice"
    given = Credit(payment_id=payment.id, org_id=order.org_id, kind="top_up", amount_paise=payment.amount, paid_at=at)
    outcome = await ledger.credit(connection, given)
    if not isinstance(outcome, Credited):
        return "contradicted"
    if order.payment_id is None:
        await connection.execute(PAID, receipt, payment.id, at, payment.order_id)
    return outcome


KEEP = """
INSERT INTO payment_alarms (payment_id, why, order_id, amount_paise, currency, body)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING payment_id
"""


async def _alarm(connection: Connection, told: Captured, why: Why, body: bytes) -> Alarm:
    payment = told.payment
    kept = await connection.fetchval(
        KEEP, payment.id, why, payment.order_id, payment.amount, payment.currency, body.decode("utf-8", "replace")
    )
    return Alarm(why, first=kept is not None)
