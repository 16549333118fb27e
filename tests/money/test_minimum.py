"""A plan's minimum is in the hold, so that it is charged whole, and never more than was held."""

from typing import Any

import pytest

from tests.money.conftest import Treasury


@pytest.mark.parametrize(
    ("plan", "max_duration_sec", "hold_paise", "talked_sec", "paise"),
    [
        ({"min_billable_sec": 30}, 10, 300, 5, 300),
        ({"min_billable_sec": 30, "pulse_sec": 20}, 10, 400, 1, 400),
        ({"min_billable_sec": 30}, 60, 600, 5, 300),
        ({"min_billable_sec": 30}, 60, 600, 45, 450),
        ({"min_billable_sec": 30}, 10, 300, 99, 300),
        ({"min_billable_sec": 30}, 10, 300, 0, 0),
        ({}, 10, 100, 5, 50),
    ],
)
async def test_the_hold_covers_the_minimum_and_the_debit_is_what_the_bill_says(
    treasury: Treasury,
    plan: dict[str, Any],
    max_duration_sec: int,
    hold_paise: int,
    talked_sec: int,
    paise: int,
) -> None:
    org = await treasury.org(paid_paise=1000, **plan)
    call_id = await treasury.world.placed(org, max_duration_sec=max_duration_sec)
    assert await treasury.world.wallet(org) == (1000, hold_paise)
    await treasury.end(org, call_id, duration_sec=talked_sec)
    await treasury.carry()
    assert await treasury.agree(org) == 1000 - paise
    assert (await treasury.world.call(org, call_id))["credits_debited_paise"] == paise
    entries = (await treasury.world.ask("GET", "/api/v1/ledger", headers=org.auth)).body["data"]
    assert (entries[0]["transfer"], entries[0]["amount_paise"]) == (f"debit:{call_id}", -paise)


async def test_a_wallet_that_does_not_cover_the_minimum_gets_no_call(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=299, min_billable_sec=30)
    answer = await treasury.world.place(org, max_duration_sec=5)
    assert (answer.status, answer.body["error"]["details"]["needed_paise"]) == (402, 300)


async def test_the_next_plan_brings_its_own_minimum(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000, min_billable_sec=30)
    terms = {"plan": "other", "rate_paise_per_sec": 10, "pulse_sec": 1}
    await treasury.world.admin("PUT", f"/orgs/{org.id}/plan", terms)
    await treasury.carry(repeat=True)
    await treasury.world.placed(org, max_duration_sec=5)
    assert await treasury.world.wallet(org) == (1000, 50)
