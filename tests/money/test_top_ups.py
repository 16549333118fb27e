"""A customer tops up by Razorpay: an order from the public API, a payment, and the credit in wallet and ledger."""

import asyncio
from typing import Any

import pytest

from tests.api.documented import check
from tests.api.test_scopes import key_of
from tests.api.world import NOBODY, Answer, Org, World, running
from tests.money.conftest import Treasury

PATH = "/api/v1/wallet/top-ups"


async def order(world: World, org: Org, amount_paise: Any = 118_000, *, key: str | None = None) -> Answer:
    headers = org.auth | ({"Idempotency-Key": key} if key else {})
    answer = await world.ask("POST", PATH, json={"amount_paise": amount_paise}, headers=headers)
    check("POST", PATH, answer.status, answer.body, answer.headers)
    return answer


async def pay(treasury: Treasury, order_id: str) -> None:
    """The customer pays at the gateway, which tells billing so, more than once."""
    payment = treasury.gateway.pay(order_id)
    for body in (treasury.gateway.order_paid(payment), treasury.gateway.payment_captured(payment)):
        headers = {"X-Razorpay-Signature": treasury.gateway.sign(body)}
        url = f"{treasury.billing_url}/webhooks/razorpay"
        async with treasury.world.http.post(url, data=body, headers=headers) as answer:
            assert answer.status == 200


async def test_what_is_ordered_and_paid_is_in_the_wallet_and_the_ledger_once(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000)
    answer = await order(treasury.world, org, key="k1")
    assert answer.status == 201
    assert answer.body["data"] == {
        "order_id": answer.body["data"]["order_id"],
        "amount_paise": 118_000,
        "currency": "INR",
        "key_id": treasury.gateway.key_id,
        "paid": False,
    }
    await pay(treasury, answer.body["data"]["order_id"])
    await treasury.carry(repeat=True)
    assert await treasury.agree(org) == 119_000
    entries = (await treasury.world.ask("GET", "/api/v1/ledger", headers=org.auth)).body["data"]
    assert [(entry["kind"], entry["amount_paise"]) for entry in entries] == [("top_up", 118_000), ("top_up", 1000)]


async def test_one_key_is_one_order_also_where_the_gateway_forgot_to_answer(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000)
    treasury.gateway.lose_next_answer = True
    assert (await order(treasury.world, org, key="k1")).status == 502
    answers = [await order(treasury.world, org, key="k1") for _ in range(3)]
    assert {(answer.status, answer.body["data"]["order_id"]) for answer in answers} == {
        (201, answers[0].body["data"]["order_id"])
    }
    assert (await order(treasury.world, org, 500, key="k1")).status == 409
    assert await treasury.books.fetchval("SELECT count(*) FROM payment_orders") == 1
    others = await asyncio.gather(*(order(treasury.world, org, key="k" * 255) for _ in range(3)))
    assert {answer.status for answer in others} <= {201, 409}
    assert await treasury.books.fetchval("SELECT count(*) FROM payment_orders") == 2


@pytest.mark.parametrize("amount_paise", [99, 0, -5, 1_000_000_001, "500", 5.5, None])
async def test_an_amount_that_makes_no_sense_is_refused(treasury: Treasury, amount_paise: Any) -> None:
    org = await treasury.org(paid_paise=1000)
    answer = await order(treasury.world, org, amount_paise)
    assert (answer.status, answer.body["error"]["param"]) == (400, "amount_paise")
    assert treasury.gateway.orders == {}


async def test_a_test_key_moves_no_money(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000)
    answer = await order(treasury.world, await key_of(treasury.world, org, mode="test"))
    assert (answer.status, answer.body["error"]["details"]) == (403, {"reason": "a test key moves no money"})
    assert treasury.gateway.orders == {}


async def test_without_billing_it_is_said_so_and_the_key_is_not_used_up(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000)
    async with running(treasury.world.pool, billing_url=NOBODY) as alone:
        assert (await order(alone, org, key="k1")).status == 502
    assert (await order(treasury.world, org, key="k1")).status == 201
