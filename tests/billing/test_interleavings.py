"""Whatever is repeated, reordered, torn up and run at once, the ledger ends where a plain sum would."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from hypothesis import HealthCheck, given, settings, strategies as st

from cualify_billing import plans, refunds
from cualify_billing.ledger import Reduction, ReductionKind
from cualify_billing.turn import turn_plans
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.events import Event
from tests.billing.conftest import MakePool, assert_sound, consume, ended, top_up
from tests.support.databases import MakeDatabase

ORGS = [UUID(int=n) for n in range(1, 4)]


@dataclass(frozen=True)
class TopUp:
    """A payment, perhaps told twice."""

    org: UUID
    number: int


@dataclass(frozen=True)
class TakeBack:
    """A refund, a chargeback or a correction, perhaps asked for twice. It may be more than the wallet holds."""

    org: UUID
    number: int


@dataclass(frozen=True)
class PutPlan:
    """A plan, perhaps the one that is active already; every other one is for next month."""

    org: UUID
    number: int


@dataclass(frozen=True)
class Turn:
    """The loop that turns plans comes round, so many months later."""

    months: int


Step = TopUp | TakeBack | PutPlan | Turn | list[int]
"""A batch is a list of numbers of calls, out of twelve; a number may come again and again."""

call = st.integers(0, 11)
steps = st.lists(
    st.builds(TopUp, st.sampled_from(ORGS), st.integers(0, 5))
    | st.builds(TakeBack, st.sampled_from(ORGS), st.integers(0, 5))
    | st.builds(PutPlan, st.sampled_from(ORGS), st.integers(0, 3))
    | st.builds(Turn, st.integers(0, 2))
    | st.lists(call, min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


def the_call(number: int) -> Event:
    """Call `number`: always the same org, length and event."""
    return ended(ORGS[number % 3], call_id=UUID(int=100 + number), duration_sec=10 * number)


async def take(pool: Pool, step: Step) -> None:
    """One step, as the service takes it."""
    match step:
        case TopUp(org, number):
            await top_up(pool, org, 1000 + number, payment_id=f"{org.int}-{number}")
        case TakeBack():
            await take_back(pool, step)
        case PutPlan():
            await put_plan(pool, step)
        case Turn(months):
            await turn_plans(pool, lambda: None, clock=lambda: now() + timedelta(days=31 * months))
        case _:
            await consume(pool, [the_call(number) for number in step])


async def take_back(pool: Pool, step: TakeBack) -> None:
    """Decides it, one way or the other; every third is more than any wallet holds here."""
    kinds: list[ReductionKind] = ["correction", "chargeback"]
    wanted = Reduction(
        refund_id=f"{step.org.int}-{step.number}",
        org_id=step.org,
        kind=kinds[step.number % 2],
        amount_paise=10**9 if step.number % 3 == 2 else 500 + step.number,
        payment_id=None,
        at=now(),
    )
    async with pool.acquire() as connection, connection.transaction():
        await refunds.decide(connection, wanted, reason=None, within=timedelta(days=15))


async def put_plan(pool: Pool, step: PutPlan) -> None:
    """At once, or at the month's turn."""
    terms = plans.Terms(
        plan=f"plan {step.number}",
        rate_paise_per_sec=step.number,
        pulse_sec=1,
        rate_limit_per_minute=60,
        max_concurrent_calls=1,
        renews_monthly=step.number > 1,
        active_until=None,
    )
    async with pool.acquire() as connection, connection.transaction():
        if step.number % 2:
            await plans.schedule(connection, org_id=step.org, terms=terms, at=now())
        else:
            await plans.activate(connection, org_id=step.org, terms=terms)


async def check(pool: Pool, plan: Sequence[Step]) -> None:
    """Every payment, every call and every refund that was told of counts once."""
    taken = {step for step in plan if isinstance(step, TakeBack) and step.number % 3 != 2}
    paid = {step for step in plan if isinstance(step, TopUp)}
    ended_calls = {number for step in plan if isinstance(step, list) for number in step}
    for index, org in enumerate(ORGS):
        expected = 50_000 + sum(1000 + step.number for step in paid if step.org == org)
        expected -= sum(100 * number for number in ended_calls if number % 3 == index)
        expected -= sum(500 + step.number for step in taken if step.org == org)
        assert await pool.fetchval("SELECT balance_paise FROM accounts WHERE org_id = $1", org) == expected
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0
    await assert_sound(pool)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps, at_once=st.integers(1, 4))
async def test_any_interleaving_ends_where_a_plain_sum_would(
    database: MakeDatabase, pool_for: MakePool, plan: list[Step], at_once: int
) -> None:
    pool = await pool_for(await database("cualify_billing"))
    for org in ORGS:
        await top_up(pool, org, 50_000)
        await pool.execute("UPDATE accounts SET low_balance_paise = 49000 WHERE org_id = $1", org)
    for start in range(0, len(plan), at_once):
        await asyncio.gather(*(take(pool, step) for step in plan[start : start + at_once]))
    await check(pool, plan)
    await pool.close()
