"""Whatever is repeated, reordered, torn up and run at once, the ledger ends where a plain sum would."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from hypothesis import HealthCheck, given, settings, strategies as st

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


Step = TopUp | list[int]
"""A batch is a list of numbers of calls, out of twelve; a number may come again and again."""

call = st.integers(0, 11)
steps = st.lists(
    st.builds(TopUp, st.sampled_from(ORGS), st.integers(0, 5)) | st.lists(call, min_size=1, max_size=8),
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
        case _:
            await consume(pool, [the_call(number) for number in step])


async def check(pool: Pool, plan: Sequence[Step]) -> None:
    """Every payment and every call that was told of counts once."""
    paid = {step for step in plan if isinstance(step, TopUp)}
    ended_calls = {number for step in plan if isinstance(step, list) for number in step}
    for index, org in enumerate(ORGS):
        expected = 50_000 + sum(1000 + step.number for step in paid if step.org == org)
        expected -= sum(100 * number for number in ended_calls if number % 3 == index)
        assert await pool.fetchval("SELECT balance_paise FROM accounts WHERE org_id = $1", org) == expected
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0
    await assert_sound(pool)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps, at_once=st.integers(1, 4))
async def test_any_interleaving_ends_where_a_plain_sum_would(
    database: MakeDatabase, pool_for: MakePool, plan: list[Step], at_once: int
) -> None:
    pool = await pool_for(await database("cualify_billing"))
    for org in ORGS:
        await top_up(pool, org, 50_000)
    for start in range(0, len(plan), at_once):
        await asyncio.gather(*(take(pool, step) for step in plan[start : start + at_once]))
    await check(pool, plan)
    await pool.close()
