"""A wallet that falls below its threshold says so, once for each time that it falls."""

import asyncio
from uuid import UUID, uuid4

from cualify_shared.database import Pool
from cualify_shared.events.wallet import WalletLowBalance
from tests.billing.conftest import Caller, assert_sound, consume, ended, everything, said, top_up


async def set_threshold(ask: Caller, org: UUID, threshold_paise: int | None) -> dict[str, object]:
    body = {"threshold_paise": threshold_paise}
    status, answer = await ask("PUT", f"/internal/orgs/{org}/low-balance-threshold", body)
    assert status == 200
    return dict(answer["data"])


async def warnings(pool: Pool) -> list[tuple[UUID, int, int]]:
    return [
        (event.data.org_id, event.data.balance_paise, event.data.threshold_paise)
        for event in await said(pool)
        if isinstance(event.data, WalletLowBalance)
    ]


async def test_a_crossing_is_said_once_and_again_only_after_the_balance_was_above(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 5000)
    await set_threshold(ask, org, 3000)
    for _ in range(3):
        await consume(pool, [ended(org, duration_sec=100)])
    assert await warnings(pool) == [(org, 2000, 3000)]
    await top_up(pool, org, 500)
    await consume(pool, [ended(org, duration_sec=10)])
    assert len(await warnings(pool)) == 1, "2,400 is still below"
    await top_up(pool, org, 600)
    await consume(pool, [ended(org, duration_sec=1)])
    assert await warnings(pool) == [(org, 2000, 3000), (org, 2990, 3000)]
    await assert_sound(pool)


async def test_a_batch_that_crosses_says_it_once_after_its_last_debit(ask: Caller, pool: Pool) -> None:
    low, fine, none = uuid4(), uuid4(), uuid4()
    for org in (low, fine, none):
        await top_up(pool, org, 10_000)
    await set_threshold(ask, low, 9000)
    await set_threshold(ask, fine, 1000)
    batch = [ended(org, duration_sec=100) for org in (low, fine, none) * 3]
    await consume(pool, batch)
    assert await warnings(pool) == [(low, 7000, 9000)]
    of_low = [type(event.data).__name__ for event in await said(pool) if event.key == low]
    assert of_low == ["WalletCredited", *["WalletDebited"] * 3, "WalletLowBalance"]
    before = await everything(pool)
    await consume(pool, batch)
    assert await everything(pool) == before
    await assert_sound(pool)


async def test_a_balance_equal_to_the_threshold_is_not_below_it(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 4000)
    await set_threshold(ask, org, 3000)
    await consume(pool, [ended(org, duration_sec=100)])
    assert await warnings(pool) == []
    await consume(pool, [ended(org, duration_sec=1)])
    assert await warnings(pool) == [(org, 2990, 3000)]


async def test_consumers_at_once_say_one_crossing_once(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 20_000)
    await set_threshold(ask, org, 10_000)
    await asyncio.gather(*(consume(pool, [ended(org, duration_sec=100) for _ in range(2)]) for _ in range(8)))
    assert len(await warnings(pool)) == 1
    await assert_sound(pool)


async def test_a_threshold_that_the_balance_is_below_already_waits_for_the_next_fall(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 2000)
    assert await set_threshold(ask, org, 5000) == {"threshold_paise": 5000, "balance_paise": 2000, "is_below": True}
    await consume(pool, [ended(org, duration_sec=10)])
    assert await warnings(pool) == []
    assert (await set_threshold(ask, org, None))["is_below"] is False
    await consume(pool, [ended(org, duration_sec=10)])
    assert await warnings(pool) == []
    await assert_sound(pool)
