"""What a test key does is never real money: from the call to the ledger, the till and the invoice nothing moves."""

from tests.api.test_scopes import key_of
from tests.money.conftest import Treasury

EMPTY = {"balance_paise": 0, "held_paise": 0, "available_paise": 0}


async def test_a_test_call_moves_no_money_anywhere(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000, min_billable_sec=30)
    trying = await key_of(treasury.world, org, mode="test")
    calls = [await treasury.world.placed(trying) for _ in range(5)]
    assert await treasury.world.wallet(org) == (10_000, 0)
    for call_id in calls:
        await treasury.end(org, call_id, duration_sec=290)
    await treasury.carry(repeat=True)
    assert await treasury.agree(org) == 10_000
    for key in (org, trying):
        shown = (await treasury.world.ask("GET", "/api/v1/wallet", headers=key.auth)).body["data"]
        assert shown == {"balance_paise": 10_000, "held_paise": 0, "available_paise": 10_000, "test": EMPTY}
    moved = await treasury.books.fetch("SELECT amount_paise, duration_sec FROM transfers WHERE kind = 'call_debit'")
    assert [tuple(row) for row in moved] == [(0, 290)] * 5, "each end is settled, for 0 paise"
    assert await treasury.books.fetchval("SELECT sum(balance_paise) FROM accounts WHERE kind = 'revenue'") == 0
    assert await treasury.books.fetchval("SELECT count(*) FROM discrepancies") == 0


async def test_an_org_without_money_tries_things_out_all_the_same(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1)
    trying = await key_of(treasury.world, org, mode="test")
    assert (await treasury.world.place(org)).status == 402
    assert (await treasury.world.place(trying)).status == 201
