"""A refund is decided once, posted or refused, and never takes a wallet below zero."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cualify_shared.database import Pool
from cualify_shared.events.wallet import WalletRefunded
from tests.billing.conftest import Caller, assert_sound, balance, consume, ended, everything, said, top_up
from tests.billing.test_crash import die_at

REFUND = {"refund_id": "rfd_1", "amount_paise": 3000, "payment_id": "pay_1"}


def path(org: UUID) -> str:
    return f"/internal/orgs/{org}/refunds"


async def paid(pool: Pool, amount_paise: int = 10_000) -> UUID:
    org = uuid4()
    await top_up(pool, org, amount_paise, payment_id="pay_1")
    return org


async def test_a_refund_is_posted_once_and_said_so(ask: Caller, pool: Pool) -> None:
    org = await paid(pool)
    shown = {"transfer": "refund:rfd_1", "amount_paise": 3000, "balance_paise": 7000, "outcome": "posted"}
    assert await ask("POST", path(org), REFUND) == (201, {"data": shown})
    await consume(pool, [ended(org)])
    assert await ask("POST", path(org), REFUND) == (200, {"data": shown})
    assert await balance(pool, org) == 7000 - 1420
    [event] = [event for event in await said(pool) if isinstance(event.data, WalletRefunded)]
    assert event.data == WalletRefunded(
        org_id=org,
        transfer="refund:rfd_1",
        refund_id="rfd_1",
        kind="refund",
        amount_paise=3000,
        balance_paise=7000,
        payment_id="pay_1",
    )
    await assert_sound(pool)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount_paise": 10_001}, "more_than_was_paid"),
        ({"payment_id": "pay_of_another"}, "unknown_payment"),
        ({"amount_paise": 9000}, "insufficient_balance"),
    ],
)
async def test_a_refund_that_is_refused_stays_refused(
    ask: Caller, pool: Pool, change: dict[str, Any], reason: str
) -> None:
    org = await paid(pool)
    await top_up(pool, uuid4(), 50_000, payment_id="pay_of_another")
    await consume(pool, [ended(org)])
    for _ in range(2):
        status, answer = await ask("POST", path(org), {**REFUND, **change})
        assert (status, answer["error"]["details"]) == (409, {"outcome": "refused", "reason": reason})
        await top_up(pool, org, 50_000)
    await assert_sound(pool)


async def test_a_payment_is_refunded_within_its_days_and_never_by_more_than_it_was(ask: Caller, pool: Pool) -> None:
    org = await paid(pool)
    await top_up(pool, org, 50_000)
    answers = await asyncio.gather(
        *(ask("POST", path(org), {**REFUND, "refund_id": f"r{n}", "amount_paise": 4000}) for n in range(5))
    )
    assert sorted(status for status, _ in answers) == [201, 201, 409, 409, 409]
    await pool.execute("ALTER TABLE transfers DISABLE TRIGGER transfers_are_immutable")
    await pool.execute("UPDATE transfers SET created_at = created_at - $1::interval", timedelta(days=15, minutes=1))
    status, answer = await ask("POST", path(org), {**REFUND, "refund_id": "late", "amount_paise": 1})
    assert (status, answer["error"]["details"]["reason"]) == (409, "too_late")
    assert (await ask("POST", path(org), {**REFUND, "refund_id": "cb", "amount_paise": 1, "kind": "chargeback"}))[
        0
    ] == 201
    await assert_sound(pool)


@pytest.mark.parametrize("change", [{"amount_paise": 1}, {"kind": "chargeback"}, {"payment_id": "x"}, {"org": True}])
async def test_another_refund_under_the_same_id_is_a_conflict(ask: Caller, pool: Pool, change: dict[str, Any]) -> None:
    org = await paid(pool)
    await ask("POST", path(org), REFUND)
    other = uuid4() if change.get("org") else org
    body = {**REFUND, **{name: value for name, value in change.items() if name != "org"}}
    status, answer = await ask("POST", path(other), body)
    assert (status, "details" in answer["error"]) == (409, False)
    assert await balance(pool, org) == 7000
    await assert_sound(pool)


@pytest.mark.parametrize(("kind", "account"), [("chargeback", "chargebacks"), ("correction", "adjustments")])
async def test_each_kind_goes_to_an_account_of_its_own(ask: Caller, pool: Pool, kind: str, account: str) -> None:
    org = await paid(pool)
    assert (await ask("POST", path(org), {"refund_id": "c", "kind": kind, "amount_paise": 7}))[0] == 201
    assert await pool.fetchval("SELECT balance_paise FROM accounts WHERE name = $1", account) == 7
    await assert_sound(pool)


async def test_refunds_and_debits_at_once_never_take_a_wallet_below_zero(ask: Caller, pool: Pool) -> None:
    org = await paid(pool)
    await asyncio.gather(
        *(ask("POST", path(org), {"refund_id": f"c{n}", "kind": "correction", "amount_paise": 1500}) for n in range(8)),
        *(consume(pool, [ended(org, duration_sec=100)]) for _ in range(8)),
        *(ask("POST", path(org), {"refund_id": f"c{n}", "kind": "correction", "amount_paise": 1500}) for n in range(8)),
    )
    assert await balance(pool, org) >= 0
    await assert_sound(pool)


async def test_a_refund_names_its_payment(ask_in_vain: Caller) -> None:
    assert (await ask_in_vain("POST", path(uuid4()), {"refund_id": "r", "amount_paise": 5}))[0] == 400


async def test_decisions_are_never_rewritten(ask: Caller, pool: Pool) -> None:
    org = await paid(pool)
    await ask("POST", path(org), REFUND)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await pool.execute("UPDATE refunds SET refused_why = 'x'")


REFUNDING = """
from tests.billing.conftest import TOKEN, Caller
from tests.billing.test_refunds import REFUND, path
from cualify_billing.routes import billing_app

async def act(pool, org):
    await Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN))("POST", path(org), REFUND)
"""


async def test_a_kill_between_the_money_and_its_event_does_neither(ask: Caller, dsn: str, pool: Pool) -> None:
    org = await paid(pool)
    before = await everything(pool)
    die_at("billing.posted", dsn, REFUNDING, org)
    assert await everything(pool) == before
    assert (await ask("POST", path(org), REFUND))[0] == 201
    await assert_sound(pool)
