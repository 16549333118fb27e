"""A customer's payment reaches the wallet exactly once, whatever the gateway repeats, reorders or forgets to answer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from cualify_billing.razorpay import Razorpay
from cualify_billing.reconcile import open_questions
from cualify_billing.routes import billing_app
from cualify_local.razorpay import LocalRazorpay
from cualify_shared.database import Pool
from cualify_shared.events.wallet import WalletCredited
from tests.billing.conftest import TOKEN, Caller, assert_sound, balance, everything, said, top_up
from tests.billing.test_crash import die_at


@dataclass(slots=True)
class Shop:
    """Billing's routes over a fresh database, and the gateway behind them."""

    ask: Caller
    gateway: LocalRazorpay
    pool: Pool

    async def order(self, org: UUID, amount_paise: int = 118_000, request_id: str = "r1") -> tuple[int, Any]:
        body = {"request_id": request_id, "amount_paise": amount_paise}
        return await self.ask("POST", f"/internal/orgs/{org}/orders", body)

    async def tell(self, body: bytes, *, signature: str | None = None) -> tuple[int, Any]:
        sent = self.gateway.sign(body) if signature is None else signature
        return await self.ask(
            "POST", "/webhooks/razorpay", raw=body, token=None, headers={"x-razorpay-signature": sent}
        )


@pytest_asyncio.fixture(loop_scope="session")
async def shop(pool: Pool) -> AsyncIterator[Shop]:
    """Open for business."""
    local = LocalRazorpay()
    await local.start()
    gateway = Razorpay(url=local.url, key_id=local.key_id, key_secret=local.key_secret)
    app = billing_app(
        pool=pool,
        committed=lambda: None,
        internal_token=TOKEN,
        gateway=gateway,
        webhook_secret=SecretStr(local.webhook_secret),
    )
    yield Shop(Caller(app), local, pool)
    await gateway.close()
    await local.stop()


async def alarms(pool: Pool) -> list[str]:
    return [row["why"] for row in await pool.fetch("SELECT why FROM payment_alarms ORDER BY seen_at")]


async def test_a_paid_order_is_credited_once_whatever_is_repeated_and_reordered(shop: Shop) -> None:
    org = uuid4()
    status, answer = await shop.order(org)
    assert (status, answer["data"]["amount_paise"], answer["data"]["paid"]) == (201, 118_000, False)
    payment = shop.gateway.pay(answer["data"]["order_id"])
    bodies = [shop.gateway.order_paid(payment), shop.gateway.payment_captured(payment)] * 4
    outcomes = await asyncio.gather(*(shop.tell(body) for body in bodies))
    assert sorted(str(answer["data"]["outcome"]) for _, answer in outcomes) == ["credited"] + ["repeated"] * 7
    assert await balance(shop.pool, org) == 118_000
    [event] = await said(shop.pool)
    assert isinstance(event.data, WalletCredited)
    assert (event.data.transfer, event.data.kind) == (f"topup:{payment['id']}", "top_up")
    assert (await shop.order(org))[1]["data"]["paid"] is True
    assert await alarms(shop.pool) == []
    await assert_sound(shop.pool)


async def test_the_same_request_is_the_same_order(shop: Shop) -> None:
    org = uuid4()
    first = await shop.order(org)
    assert await shop.order(org) == first
    assert (await shop.order(org, 5000))[0] == 409
    assert (await shop.order(uuid4()))[1] != first[1]
    answers = await asyncio.gather(*(shop.order(org, request_id="at once") for _ in range(5)))
    assert len({answer["data"]["order_id"] for _, answer in answers}) == 1


async def test_an_order_whose_answer_was_lost_is_found_by_its_receipt_when_it_is_paid(shop: Shop) -> None:
    for tell in (shop.gateway.order_paid, shop.gateway.payment_captured):
        org = uuid4()
        shop.gateway.lose_next_answer = True
        assert (await shop.order(org))[0] == 502
        payment = shop.gateway.pay(list(shop.gateway.orders)[-1])
        assert (await shop.tell(tell(payment)))[1] == {"data": {"outcome": "credited"}}
        assert await balance(shop.pool, org) == 118_000
    await assert_sound(shop.pool)


ORDERING = """
import os
from cualify_billing.razorpay import Razorpay
from cualify_billing.top_ups import open_order

async def act(pool, org):
    gateway = Razorpay(url=os.environ["GATEWAY"], key_id="rzp_test_local", key_secret=os.environ["GATEWAY_SECRET"])
    await open_order(pool, gateway, org_id=org, request_id="r1", amount_paise=118_000)
"""


@pytest.mark.parametrize("point", ["billing.order_opened", "billing.order_created"])
async def test_a_kill_around_the_gateways_answer_loses_no_payment(
    shop: Shop, dsn: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The order that nobody wrote down is credited, should it be paid; the request makes one that is known."""
    org = uuid4()
    monkeypatch.setenv("GATEWAY", shop.gateway.url)
    monkeypatch.setenv("GATEWAY_SECRET", shop.gateway.key_secret)
    await asyncio.to_thread(die_at, point, dsn, ORDERING, org)
    lost = list(shop.gateway.orders)
    assert len(lost) == (point == "billing.order_created")
    status, answer = await shop.order(org)
    assert (status, answer["data"]["order_id"] in lost) == (201, False)
    payments = [shop.gateway.pay(order_id) for order_id in [*lost, answer["data"]["order_id"]]]
    for payment in payments:
        await shop.tell(shop.gateway.payment_captured(payment))
    assert await balance(shop.pool, org) == 118_000
    assert await alarms(shop.pool) == ["paid_twice"] * len(lost)
    await assert_sound(shop.pool)


PAYING = """
import os
from pydantic import SecretStr
from cualify_billing.razorpay import Razorpay
from cualify_billing.routes import billing_app
from tests.billing.conftest import TOKEN, Caller

async def act(pool, org):
    app = billing_app(
        pool=pool,
        committed=lambda: None,
        internal_token=TOKEN,
        gateway=Razorpay(url="http://127.0.0.1:9", key_id="k", key_secret="s"),
        webhook_secret=SecretStr(os.environ["HOOK_SECRET"]),
    )
    headers = {"x-razorpay-signature": os.environ["SIGNATURE"]}
    await Caller(app)("POST", "/webhooks/razorpay", raw=os.environ["BODY"].encode(), token=None, headers=headers)
"""


async def test_a_kill_between_the_credit_and_its_order_does_neither(
    shop: Shop, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = uuid4()
    _, answer = await shop.order(org)
    body = shop.gateway.order_paid(shop.gateway.pay(answer["data"]["order_id"]))
    monkeypatch.setenv("HOOK_SECRET", shop.gateway.webhook_secret)
    monkeypatch.setenv("SIGNATURE", shop.gateway.sign(body))
    monkeypatch.setenv("BODY", body.decode())
    before = await everything(shop.pool), await shop.pool.fetch("SELECT * FROM payment_orders")
    await asyncio.to_thread(die_at, "billing.posted", dsn, PAYING, org)
    assert (await everything(shop.pool), await shop.pool.fetch("SELECT * FROM payment_orders")) == before
    for outcome in ("credited", "repeated"):
        assert (await shop.tell(body))[1]["data"]["outcome"] == outcome
    assert await balance(shop.pool, org) == 118_000
    assert (await shop.order(org))[1]["data"]["paid"] is True


async def test_while_the_gateway_can_not_say_whose_order_it_is_the_webhook_has_to_come_again(shop: Shop) -> None:
    org = uuid4()
    shop.gateway.lose_next_answer = True
    await shop.order(org)
    body = shop.gateway.payment_captured(shop.gateway.pay(list(shop.gateway.orders)[-1]))
    shop.gateway.fail_next = 1
    assert (await shop.tell(body))[0] == 503
    assert (await shop.tell(body))[1] == {"data": {"outcome": "credited"}}


async def test_a_payment_of_an_unknown_order_is_kept_and_alarmed_and_credits_nobody(shop: Shop) -> None:
    shop.gateway.orders["order_x"] = {"id": "order_x", "amount": 500, "currency": "INR", "receipt": "someone else's"}
    shop.gateway.orders["order_y"] = {"id": "order_y", "amount": 500, "currency": "INR", "receipt": str(uuid4())}
    gone = shop.gateway.pay("order_x")
    gone["order_id"] = "order_of_nobody"
    without = {**shop.gateway.pay("order_x"), "order_id": None}
    for payment in (shop.gateway.pay("order_x"), shop.gateway.pay("order_y"), gone, without):
        for _ in range(2):
            status, answer = await shop.tell(shop.gateway.payment_captured(payment))
            assert (status, answer["data"]["outcome"]) == (200, "unknown_order")
    assert await alarms(shop.pool) == ["unknown_order"] * 4
    assert await shop.pool.fetchval("SELECT count(*) FROM transfers") == 0


@pytest.mark.parametrize(
    ("change", "why"), [({"amount": 117_999}, "amount_differs"), ({"currency": "USD"}, "currency_differs")]
)
async def test_a_payment_that_differs_from_its_order_is_alarmed_and_not_credited(
    shop: Shop, change: dict[str, Any], why: str
) -> None:
    _, answer = await shop.order(uuid4())
    payment = {**shop.gateway.pay(answer["data"]["order_id"]), **change}
    assert (await shop.tell(shop.gateway.order_paid(payment)))[1]["data"]["outcome"] == why
    assert await alarms(shop.pool) == [why]
    assert await shop.pool.fetchval("SELECT count(*) FROM transfers") == 0


async def test_a_second_payment_of_one_order_is_alarmed(shop: Shop) -> None:
    org = uuid4()
    _, answer = await shop.order(org)
    for outcome in ("credited", "paid_twice"):
        payment = shop.gateway.pay(answer["data"]["order_id"])
        assert (await shop.tell(shop.gateway.payment_captured(payment)))[1]["data"]["outcome"] == outcome
    assert await balance(shop.pool, org) == 118_000


async def test_an_alarm_is_a_difference_until_the_payment_is_credited(shop: Shop) -> None:
    """By hand, or by the gateway's second webhook, which names the receipt where the first could not."""
    shop.gateway.orders["order_x"] = {"id": "order_x", "amount": 500, "currency": "INR", "receipt": "someone else's"}
    by_hand = shop.gateway.pay("order_x")
    await shop.tell(shop.gateway.payment_captured(by_hand))
    shop.gateway.lose_next_answer = True
    assert (await shop.order(uuid4()))[0] == 502
    [order_id, order] = list(shop.gateway.orders.items())[-1]
    late = shop.gateway.pay(order_id)
    del shop.gateway.orders[order_id]
    assert (await shop.tell(shop.gateway.payment_captured(late)))[1]["data"]["outcome"] == "unknown_order"
    assert await uncredited(shop.pool) == {f"{by_hand['id']}: unknown_order", f"{late['id']}: unknown_order"}
    shop.gateway.orders[order_id] = order
    assert (await shop.tell(shop.gateway.order_paid(late)))[1]["data"]["outcome"] == "credited"
    await top_up(shop.pool, uuid4(), 500, payment_id=by_hand["id"])
    assert await uncredited(shop.pool) == set()


async def test_a_payment_that_was_credited_to_another_org_by_hand_stays_a_difference(shop: Shop) -> None:
    _, answer = await shop.order(uuid4())
    payment = shop.gateway.pay(answer["data"]["order_id"])
    await top_up(shop.pool, uuid4(), 118_000, payment_id=payment["id"])
    for told in (shop.gateway.order_paid(payment), shop.gateway.payment_captured(payment)):
        assert (await shop.tell(told))[1]["data"]["outcome"] == "contradicted"
    assert await uncredited(shop.pool) == {f"{payment['id']}: contradicted"}
    assert await shop.pool.fetchval("SELECT sum(balance_paise) FROM accounts WHERE kind = 'wallet'") == 118_000
    await assert_sound(shop.pool)


async def uncredited(pool: Pool) -> set[str]:
    async with pool.acquire() as connection:
        return {one.subject for one in await open_questions(connection)}


async def test_what_is_not_signed_over_the_raw_body_moves_nothing(shop: Shop) -> None:
    _, answer = await shop.order(uuid4())
    body = shop.gateway.payment_captured(shop.gateway.pay(answer["data"]["order_id"]))
    for signature in ("", "é", "0" * 64, shop.gateway.sign(body + b" ")):
        assert (await shop.tell(body, signature=signature))[0] == 401
    assert await shop.pool.fetchval("SELECT count(*) FROM transfers") == 0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"event": "order.paid"}', b'{"event": "order.paid", "payload": 7}']
)
async def test_a_signed_body_that_is_no_event_is_refused(shop: Shop, body: bytes) -> None:
    assert (await shop.tell(body))[0] == 400


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 2**63},
        {"amount": -118_000},
        {"amount": "118000"},
        {"amount": 118_000.0},
        {"amount": True},
        {"currency": "\x00"},
        {"currency": "inr"},
        {"id": "pay\n1"},
        {"order_id": "../orders"},
    ],
)
async def test_a_signed_payment_whose_figures_are_none_moves_nothing(shop: Shop, change: dict[str, Any]) -> None:
    _, answer = await shop.order(uuid4())
    payment = shop.gateway.pay(answer["data"]["order_id"])
    body = shop.gateway.payment_captured({**payment, **change})
    assert (await shop.tell(body))[0] == 400
    assert await shop.pool.fetchval("SELECT count(*) FROM transfers") == 0
    assert (await shop.tell(shop.gateway.payment_captured(payment)))[1]["data"]["outcome"] == "credited"


async def test_events_of_other_kinds_and_uncaptured_payments_are_ignored(shop: Shop) -> None:
    _, answer = await shop.order(uuid4())
    payment = {**shop.gateway.pay(answer["data"]["order_id"]), "status": "authorized"}
    for body in (b'{"event": "payment.failed", "payload": {}}', shop.gateway.payment_captured(payment)):
        assert await shop.tell(body) == (200, {"data": {"outcome": "ignored"}})


async def test_without_a_gateway_the_routes_say_so(ask_in_vain: Caller) -> None:
    body = {"request_id": "r", "amount_paise": 500}
    assert (await ask_in_vain("POST", f"/internal/orgs/{uuid4()}/orders", body))[0] == 404
    assert (await ask_in_vain("POST", "/webhooks/razorpay", {}))[0] == 404


async def test_an_order_that_the_gateway_sends_in_pieces_is_read_whole() -> None:
    order = b'{"id": "order_1", "amount": 500, "currency": "INR", "receipt": "r1", "status": "created"}'

    async def in_pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for n in range(0, len(order), 30):
            await answer.write(order[n : n + 30])
            await asyncio.sleep(0.02)
        return answer

    app = web.Application()
    app.router.add_post("/v1/orders", in_pieces)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway = Razorpay(url=f"http://127.0.0.1:{runner.addresses[0][1]}", key_id="k", key_secret="s")
    try:
        assert (await gateway.create_order(amount_paise=500, receipt="r1")).id == "order_1"
    finally:
        await gateway.close()
        await runner.cleanup()
