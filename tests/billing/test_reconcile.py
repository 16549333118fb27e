"""A reconciliation keeps what does not add up, with a reason, and mends nothing."""

from dataclasses import replace
from uuid import uuid4

from cualify_billing.reconcile import DIFFERENCES, RECONCILE_LOCK
from cualify_shared.database import Pool
from tests.billing.conftest import Caller, balance, call_of, consume, ended, everything, top_up


async def test_a_sound_ledger_is_reconciled_without_a_difference(ask: Caller, pool: Pool) -> None:
    assert (await ask("GET", "/internal/reconcile/latest"))[0] == 404
    org = uuid4()
    await top_up(pool, org, 10_000)
    await consume(pool, [ended(org)])
    status, answer = await ask("POST", "/internal/reconcile")
    assert (status, answer["data"]["differences"]) == (200, [])
    assert await ask("GET", "/internal/reconcile/latest") == (200, answer)


async def test_what_came_from_outside_and_does_not_fit_is_a_difference_with_its_reason(ask: Caller, pool: Pool) -> None:
    org, poor = uuid4(), uuid4()
    await top_up(pool, org, 10_000)
    first = ended(org)
    await consume(pool, [first, ended(org, call_id=call_of(first), duration_sec=150), ended(poor)])
    before = await everything(pool)
    answer = (await ask("POST", "/internal/reconcile"))[1]["data"]
    rules = {found["rule"]: found["reason"] for found in answer["differences"]}
    assert rules == dict.fromkeys(
        ["a call ends once, in one way", "every call that ended is debited"], "somebody has to look"
    )
    assert await everything(pool) == before, "nothing was mended"


async def test_a_ledger_that_disagrees_with_itself_is_said_so(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    await pool.execute("UPDATE accounts SET balance_paise = 1 WHERE org_id = $1", org)
    answer = (await ask("POST", "/internal/reconcile"))[1]["data"]
    assert {found["reason"] for found in answer["differences"]} == {"the books disagree with themselves"}
    assert await balance(pool, org) == 1, "nothing was mended"


async def test_a_replica_that_comes_second_shows_what_the_other_found(ask: Caller, pool: Pool) -> None:
    """Else its alert would go on after all was mended, as its own last run was before that."""
    org = uuid4()
    await top_up(pool, org, 10_000)
    await pool.execute("UPDATE accounts SET balance_paise = 1 WHERE org_id = $1", org)
    await ask("POST", "/internal/reconcile")
    assert DIFFERENCES._value.get() > 0
    await pool.execute("INSERT INTO reconciliations VALUES (DEFAULT, now(), now(), 0, 0, 0, 0)")
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", RECONCILE_LOCK)
        assert (await ask("POST", "/internal/reconcile"))[0] == 409
    assert DIFFERENCES._value.get() == 0


async def test_what_the_providers_charge_stands_beside_what_the_same_calls_earned(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 10_000)
    costly = ended(org)
    costly_data = costly.data.model_copy(update={"provider_cost_cents": 12.3456})
    await consume(pool, [replace(costly, data=costly_data), ended(org, duration_sec=10)])
    shown = (await ask("POST", "/internal/reconcile"))[1]["data"]
    assert (shown["revenue_paise"], shown["calls_with_cost"], shown["provider_cost_cents"]) == (1420, 1, "12.3456")
