"""What an org sets and asks about its money by the public API: the balance it is warned at, and the bill of a call."""

from typing import Any
from uuid import uuid4

import pytest

from cualify_shared.events import decode
from cualify_shared.events.wallet import WalletLowBalance
from tests.api.documented import check
from tests.api.test_scopes import key_of
from tests.api.world import Answer, Org
from tests.money.conftest import Treasury

PATH = "/api/v1/wallet/low-balance-threshold"


async def asked(treasury: Treasury, org: Org, method: str, path: str, body: Any = None) -> Answer:
    answer = await treasury.world.ask(method, path, json=body, headers=org.auth)
    check(method, path, answer.status, answer.body, answer.headers)
    return answer


async def low_balances(treasury: Treasury) -> list[int]:
    rows = await treasury.books.fetch("SELECT payload FROM outbox ORDER BY id")
    return [said.balance_paise for row in rows if isinstance(said := decode(row["payload"]).data, WalletLowBalance)]


async def test_an_org_sets_the_balance_that_it_is_warned_at(treasury: Treasury) -> None:
    org, other = await treasury.org(paid_paise=5000), await treasury.org(paid_paise=5000, payment_id="pay_2")
    nothing = {"threshold_paise": None, "balance_paise": 5000, "is_below": False}
    assert (await asked(treasury, org, "GET", PATH)).body["data"] == nothing
    answer = await asked(treasury, org, "PUT", PATH, {"threshold_paise": 4000})
    assert (answer.status, answer.body["data"]) == (200, {**nothing, "threshold_paise": 4000})
    assert (await asked(treasury, org, "GET", PATH)).body == answer.body
    assert (await asked(treasury, other, "GET", PATH)).body["data"] == nothing
    for caller in (org, other):
        await treasury.end(caller, await treasury.world.placed(caller))
    assert await low_balances(treasury) == [3580]
    await treasury.carry()
    told = await treasury.world.pool.fetch("SELECT type, org_id FROM customer_events WHERE type = 'wallet.low_balance'")
    assert [row["org_id"] for row in told] == [org.id]
    shown = {"threshold_paise": 4000, "balance_paise": 3580, "is_below": True}
    assert (await asked(treasury, org, "GET", PATH)).body["data"] == shown
    assert (await asked(treasury, org, "PUT", PATH, {"threshold_paise": None})).body["data"]["threshold_paise"] is None


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, "5", 10**12 + 1, 2**70, [], {}])
async def test_a_threshold_that_makes_no_sense_is_refused(treasury: Treasury, amount: Any) -> None:
    org = await treasury.org(paid_paise=5000)
    answer = await asked(treasury, org, "PUT", PATH, {"threshold_paise": amount})
    assert (answer.status, answer.body["error"]["param"]) == (400, "threshold_paise")


async def test_a_test_key_sets_no_threshold_and_one_without_the_scope_neither(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=5000)
    body = {"threshold_paise": 5}
    for key in (
        await key_of(treasury.world, org, mode="test"),
        await key_of(treasury.world, org, scopes=["wallet:read"]),
    ):
        assert (await asked(treasury, key, "PUT", PATH, body)).status == 403
        assert (await asked(treasury, key, "GET", PATH)).body["data"]["threshold_paise"] is None


async def test_a_calls_bill_explains_itself_to_its_own_org(treasury: Treasury) -> None:
    org, other = await treasury.org(paid_paise=5000), await treasury.org(paid_paise=5000, payment_id="pay_2")
    call_id = await treasury.world.placed(org)
    path = f"/api/v1/calls/{call_id}/bill"
    assert (await asked(treasury, org, "GET", path)).status == 404, "it is not settled yet"
    await treasury.end(org, call_id, duration_sec=301)
    await treasury.carry()
    bill = (await asked(treasury, org, "GET", path)).body["data"]
    assert bill["explanation"] == "ring 0 s, talk 301 s charged as 300 s (at most 300 s) × 10 paise = 3,000 paise"
    assert [one["kind"] for one in bill["discrepancies"]] == ["duration_beyond_max"]
    shown = (await treasury.world.call(org, call_id))["credits_debited_paise"]
    entries = (await asked(treasury, org, "GET", "/api/v1/ledger")).body["data"]
    assert (
        shown
        == bill["amount_paise"]
        == sum(line["amount_paise"] for line in bill["lines"])
        == -entries[0]["amount_paise"]
    )
    assert (await asked(treasury, other, "GET", path)).status == 404
    for nothing in (uuid4(), "x"):
        assert (await asked(treasury, org, "GET", f"/api/v1/calls/{nothing}/bill")).status == 404
