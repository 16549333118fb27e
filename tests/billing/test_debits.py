"""Each call that ended is debited exactly once, whatever is repeated, reordered or handled twice at once."""

import asyncio
import random
from uuid import uuid4

import pytest

from cualify_billing import consume as consuming
from cualify_shared.database import Pool
from cualify_shared.events.wallet import WalletDebited
from tests.billing.conftest import TERMS, assert_sound, balance, call_of, consume, ended, everything, said, top_up

STRESS = 40


async def test_a_completed_call_is_debited_and_said_so(pool: Pool) -> None:
    org, end = uuid4(), ended(uuid4())
    await top_up(pool, org, 100_000)
    end = ended(org, duration_sec=142)
    await consume(pool, [end])
    assert await balance(pool, org) == 98_580
    event = (await said(pool))[-1]
    assert event.data == WalletDebited(
        org_id=org,
        call_id=call_of(end),
        transfer=f"debit:{call_of(end)}",
        amount_paise=1420,
        balance_paise=98_580,
        duration_sec=142,
        billable_sec=142,
        rate_paise_per_sec=10,
        pulse_sec=1,
    )
    assert (event.key, event.sequence, event.causation_id) == (org, 2, str(end.id))
    await assert_sound(pool)


@pytest.mark.parametrize("status", ["failed", "no_answer", "busy", "canceled"])
async def test_a_failed_call_is_debited_0_paise_and_said_so(pool: Pool, status: str) -> None:
    org = uuid4()
    await consume(pool, [ended(org, status=status, duration_sec=17)])
    assert await balance(pool, org) == 0
    [event] = await said(pool)
    assert isinstance(event.data, WalletDebited)
    assert (event.data.amount_paise, event.data.billable_sec, event.data.duration_sec) == (0, 0, 17)
    await assert_sound(pool)


async def test_a_debit_is_capped_by_the_longest_call_and_by_the_hold(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    before = consuming.CAPPED._value.get()
    too_long, too_dear = ended(org, duration_sec=999), ended(org, terms=TERMS.model_copy(update={"hold_paise": 500}))
    await consume(pool, [too_long, too_dear])
    debits = [event.data for event in await said(pool) if isinstance(event.data, WalletDebited)]
    assert [(debit.amount_paise, debit.billable_sec) for debit in debits] == [(3000, 300), (500, 142)]
    assert consuming.CAPPED._value.get() == before + 2
    await assert_sound(pool)


async def test_a_repeat_has_no_effect(pool: Pool) -> None:
    orgs = [uuid4() for _ in range(3)]
    for org in orgs:
        await top_up(pool, org, 100_000)
    batch = [ended(random.choice(orgs), duration_sec=n) for n in range(STRESS)]
    await consume(pool, batch)
    first = await everything(pool)
    await consume(pool, batch)
    await consume(pool, batch[::-1])
    for event in batch[:5]:
        await consume(pool, [event])
    assert await everything(pool) == first
    await assert_sound(pool)


async def test_a_duplicate_inside_a_batch_is_debited_once(pool: Pool) -> None:
    org, other = uuid4(), uuid4()
    await top_up(pool, org, 100_000)
    twice = ended(org)
    await consume(pool, [twice, ended(other, status="busy"), twice, twice])
    assert await balance(pool, org) == 98_580
    assert await pool.fetchval("SELECT count(*) FROM settlement_conflicts") == 0
    await assert_sound(pool)


async def test_two_consumers_of_the_same_events_debit_once(pool: Pool) -> None:
    orgs = [uuid4() for _ in range(5)]
    for org in orgs:
        await top_up(pool, org, 1_000_000)
    events = [ended(random.choice(orgs)) for _ in range(8 * STRESS)]
    batches = [events[start : start + STRESS] for start in range(0, len(events), STRESS)]
    shuffled = [random.sample(batch, len(batch)) for batch in batches]

    async def read_on(all_of_them: list[list[object]]) -> None:
        for batch in all_of_them:
            await consume(pool, batch)  # type: ignore[arg-type]

    await asyncio.gather(read_on(batches), read_on(shuffled[::-1]), read_on(shuffled))  # type: ignore[arg-type]
    assert sum([await balance(pool, org) for org in orgs]) == 5_000_000 - len(events) * 1420
    assert len(await said(pool)) == 5 + len(events)
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0
    await assert_sound(pool)


async def test_wallets_opened_by_several_consumers_at_once_are_opened_once(pool: Pool) -> None:
    orgs = [uuid4() for _ in range(20)]
    batches = [[ended(org, status="busy") for org in random.sample(orgs, 20)] for _ in range(6)]
    await asyncio.gather(*(consume(pool, batch) for batch in batches))
    assert await pool.fetchval("SELECT count(*) FROM accounts WHERE kind = 'wallet'") == 20
    await assert_sound(pool)


async def test_a_wallet_that_can_not_pay_fails_its_own_record_only(pool: Pool) -> None:
    rich, poor = uuid4(), uuid4()
    await top_up(pool, rich, 100_000)
    await top_up(pool, poor, 2000)
    batch = [ended(rich), ended(poor), ended(rich), ended(poor), ended(rich)]
    await consume(pool, batch)
    assert await balance(pool, rich) == 100_000 - 3 * 1420
    assert await balance(pool, poor) == 580
    [letter] = await pool.fetch("SELECT * FROM dead_letters")
    assert letter["offset"] == 3
    assert "wallets_are_never_negative" in letter["error"]
    await assert_sound(pool)


async def test_no_wallet_goes_below_zero_whatever_the_concurrency(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10 * 1420 + 1419)
    await asyncio.gather(*(consume(pool, [ended(org)]) for _ in range(16)))
    assert await balance(pool, org) == 1419
    assert await pool.fetchval("SELECT count(*) FROM transfers WHERE kind = 'call_debit'") == 10
    await assert_sound(pool)


@pytest.mark.parametrize("together", [True, False])
async def test_another_end_of_a_settled_call_is_kept_and_counted_and_moves_nothing(pool: Pool, together: bool) -> None:
    org, before = uuid4(), consuming.CONFLICTS._value.get()
    await top_up(pool, org, 100_000)
    first = ended(org, duration_sec=142)
    longer, failed = (
        ended(org, duration_sec=150, call_id=call_of(first)),
        ended(org, duration_sec=0, call_id=call_of(first), status="failed"),
    )
    for batch in [[first, longer, failed]] if together else [[first], [longer], [failed]]:
        await consume(pool, batch)
    await consume(pool, [failed, first, longer])
    assert await balance(pool, org) == 98_580
    rows = await pool.fetch("SELECT * FROM settlement_conflicts ORDER BY duration_sec")
    assert [(row["event_id"], row["call_status"], row["duration_sec"], row["amount_paise"]) for row in rows] == [
        (failed.id, "failed", 0, 0),
        (longer.id, "completed", 150, 1500),
    ]
    assert {row["settled_paise"] for row in rows} == {1420}
    assert consuming.CONFLICTS._value.get() == before + 2
    await assert_sound(pool)


async def test_the_end_of_a_call_said_again_under_a_new_event_id_is_no_conflict(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 100_000)
    first = ended(org)
    await consume(pool, [first])
    await consume(pool, [ended(org, call_id=call_of(first))])
    assert await pool.fetchval("SELECT count(*) FROM settlement_conflicts") == 0
    assert await balance(pool, org) == 98_580


async def test_the_end_of_a_call_claimed_by_another_org_moves_nothing_of_either(pool: Pool) -> None:
    org, thief = uuid4(), uuid4()
    await top_up(pool, org, 100_000)
    await top_up(pool, thief, 100_000)
    first = ended(org)
    await consume(pool, [first])
    await consume(pool, [ended(thief, call_id=call_of(first))])
    assert (await balance(pool, org), await balance(pool, thief)) == (98_580, 100_000)
    assert await pool.fetchval("SELECT org_id FROM settlement_conflicts") == thief
    await assert_sound(pool)
