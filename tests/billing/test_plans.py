"""Plans end, renew and change when their time has come: once, said once, on whichever replica looks first."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from cualify_billing.india import financial_year, month_start, month_turn_after
from cualify_billing.plans import Terms, activate, schedule
from cualify_billing.turn import turn_plans
from cualify_shared.database import Pool
from cualify_shared.events.wallet import PlanActivated, PlanExpired
from tests.billing.conftest import Caller, assert_sound, consume, ended, everything, said
from tests.billing.test_crash import die_at

MAY_31_LATE = datetime(2026, 5, 31, 18, 29, 59, tzinfo=UTC)
JUNE_1_IN_KOLKATA = datetime(2026, 5, 31, 18, 30, tzinfo=UTC)
TERMS = Terms(
    plan="growth",
    rate_paise_per_sec=10,
    pulse_sec=1,
    rate_limit_per_minute=120,
    max_concurrent_calls=10,
    active_until=None,
)
RENEWING = Terms(
    plan="monthly",
    rate_paise_per_sec=12,
    pulse_sec=15,
    min_billable_sec=30,
    rate_limit_per_minute=60,
    max_concurrent_calls=5,
    renews_monthly=True,
    active_until=None,
)


async def put(pool: Pool, org: UUID, terms: Terms, *, at: datetime) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await activate(connection, org_id=org, terms=terms, at=at)


async def put_next_month(pool: Pool, org: UUID, terms: Terms, *, at: datetime) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await schedule(connection, org_id=org, terms=terms, at=at)


async def turn(pool: Pool, at: datetime) -> None:
    await turn_plans(pool, lambda: None, clock=lambda: at)


async def plans_said(pool: Pool) -> list[Any]:
    return [event.data for event in await said(pool) if isinstance(event.data, PlanActivated | PlanExpired)]


@pytest.mark.parametrize(
    ("at", "turn_at"),
    [
        (MAY_31_LATE, JUNE_1_IN_KOLKATA),
        (JUNE_1_IN_KOLKATA, datetime(2026, 6, 30, 18, 30, tzinfo=UTC)),
        (datetime(2026, 12, 31, 18, 30, tzinfo=UTC), datetime(2027, 1, 31, 18, 30, tzinfo=UTC)),
        (datetime(2028, 2, 10, tzinfo=UTC), datetime(2028, 2, 29, 18, 30, tzinfo=UTC)),
    ],
)
def test_a_month_turns_at_midnight_in_kolkata(at: datetime, turn_at: datetime) -> None:
    assert month_turn_after(at) == turn_at
    assert month_start(turn_at) == turn_at
    assert month_start(at) <= at < turn_at


def test_a_financial_year_turns_on_the_first_of_april() -> None:
    assert [financial_year(datetime(2027, month, 1, tzinfo=UTC).date()) for month in (3, 4)] == ["2627", "2728"]


async def test_a_plan_that_ends_is_said_to_have_expired_once(pool: Pool) -> None:
    org, ends = uuid4(), MAY_31_LATE + timedelta(hours=1)
    await put(pool, org, Terms(**{**terms_of(TERMS), "active_until": ends}), at=MAY_31_LATE)
    await turn(pool, ends - timedelta(seconds=1))
    assert len(await plans_said(pool)) == 1
    await asyncio.gather(*(turn(pool, ends) for _ in range(4)))
    await turn(pool, ends + timedelta(days=1))
    assert (await plans_said(pool))[1:] == [PlanExpired(org_id=org, plan="growth", expired_at=ends)]
    await consume(pool, [ended(org, status="busy")])
    await assert_sound(pool)


async def test_a_plan_without_an_end_is_never_turned(pool: Pool) -> None:
    await put(pool, uuid4(), TERMS, at=MAY_31_LATE)
    await turn(pool, MAY_31_LATE + timedelta(days=1000))
    assert len(await plans_said(pool)) == 1


async def test_a_plan_renews_at_the_months_turn_as_often_as_months_turn(pool: Pool) -> None:
    org = uuid4()
    await put(pool, org, RENEWING, at=MAY_31_LATE)
    await turn(pool, MAY_31_LATE)
    for at in (JUNE_1_IN_KOLKATA, JUNE_1_IN_KOLKATA, JUNE_1_IN_KOLKATA + timedelta(days=30)):
        await turn(pool, at)
    plans = await plans_said(pool)
    assert [(type(plan), plan.plan) for plan in plans] == [(PlanActivated, "monthly")] * 3
    assert {(plan.pulse_sec, plan.min_billable_sec, plan.active_until) for plan in plans} == {(15, 30, None)}
    await assert_sound(pool)


async def test_the_same_renewing_terms_in_the_same_month_are_not_announced_again(pool: Pool) -> None:
    org = uuid4()
    await put(pool, org, RENEWING, at=JUNE_1_IN_KOLKATA)
    await put(pool, org, RENEWING, at=JUNE_1_IN_KOLKATA + timedelta(days=3))
    assert len(await plans_said(pool)) == 1


async def test_a_scheduled_change_takes_the_plans_place_at_the_turn_without_an_expiry(pool: Pool) -> None:
    org = uuid4()
    await put(pool, org, RENEWING, at=MAY_31_LATE)
    await put_next_month(pool, org, RENEWING, at=MAY_31_LATE)
    await put_next_month(pool, org, TERMS, at=MAY_31_LATE)
    await turn(pool, MAY_31_LATE)
    await asyncio.gather(*(turn(pool, JUNE_1_IN_KOLKATA) for _ in range(3)))
    plans = await plans_said(pool)
    assert [(type(plan), plan.plan) for plan in plans] == [(PlanActivated, "monthly"), (PlanActivated, "growth")]
    await turn(pool, JUNE_1_IN_KOLKATA + timedelta(days=60))
    assert len(await plans_said(pool)) == 2
    await assert_sound(pool)


async def test_many_plans_that_are_due_at_once_are_all_turned(pool: Pool) -> None:
    orgs = [uuid4() for _ in range(130)]
    for org in orgs:
        await put(pool, org, RENEWING, at=MAY_31_LATE)
    assert await turn_plans(pool, lambda: None, clock=lambda: JUNE_1_IN_KOLKATA)
    assert not await turn_plans(pool, lambda: None, clock=lambda: JUNE_1_IN_KOLKATA)
    assert len(await plans_said(pool)) == 260
    await assert_sound(pool)


async def test_a_plan_is_shown_with_what_is_to_replace_it(ask: Caller) -> None:
    path = f"/internal/orgs/{uuid4()}/plan"
    assert (await ask("GET", path))[0] == 404
    await ask("PUT", path, {"plan": "growth", "rate_paise_per_sec": 10, "min_billable_sec": 30, "pulse_sec": 30})
    status, answer = await ask("PUT", path, {"plan": "less", "rate_paise_per_sec": 8, "starts": "next_month"})
    assert status == 200
    assert datetime.fromisoformat(answer["data"]["starts_at"]) == month_turn_after(datetime.now(UTC))
    shown = (await ask("GET", path))[1]["data"]
    assert (shown["plan"], shown["active"], shown["min_billable_sec"]) == ("growth", True, 30)
    assert (shown["scheduled"]["plan"], shown["scheduled"]["rate_paise_per_sec"]) == ("less", 8)
    assert (await ask("DELETE", f"{path}/scheduled"))[0] == 200
    assert (await ask("DELETE", f"{path}/scheduled"))[0] == 404
    assert (await ask("GET", path))[1]["data"]["scheduled"] is None


@pytest.mark.parametrize("more", [{"renews_monthly": True}, {"starts": "next_month"}])
async def test_a_plan_has_one_end(ask_in_vain: Caller, more: dict[str, Any]) -> None:
    until = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    body = {"plan": "growth", "rate_paise_per_sec": 10, "active_until": until, **more}
    assert (await ask_in_vain("PUT", f"/internal/orgs/{uuid4()}/plan", body))[0] == 400


TURNING = """
from tests.billing.test_plans import LATER, turn

async def act(pool, org):
    await turn(pool, LATER)
"""
PUTTING = """
from tests.billing.test_plans import RENEWING, MAY_31_LATE, put

async def act(pool, org):
    await put(pool, org, RENEWING, at=MAY_31_LATE)
"""
LATER = MAY_31_LATE + timedelta(hours=1)


@pytest.mark.parametrize(
    ("point", "acting"),
    [("billing.plan_written", PUTTING), ("billing.plan_written", TURNING), ("billing.plan_expired", TURNING)],
)
async def test_a_kill_between_a_plan_and_its_event_does_neither(dsn: str, pool: Pool, point: str, acting: str) -> None:
    org = uuid4()
    if acting == TURNING:
        ends = {} if point == "billing.plan_written" else {"active_until": LATER, "renews_monthly": False}
        await put(pool, org, Terms(**{**terms_of(RENEWING), **ends}), at=MAY_31_LATE)
    before = await everything(pool)
    die_at(point, dsn, acting, org)
    assert await everything(pool) == before
    if acting == PUTTING:
        await put(pool, org, RENEWING, at=MAY_31_LATE)
    await asyncio.gather(*(turn(pool, LATER) for _ in range(2)))
    last = (await plans_said(pool))[-1]
    assert (type(last), len(await plans_said(pool))) == (
        (PlanExpired, 2) if point == "billing.plan_expired" else (PlanActivated, 2)
    )
    await assert_sound(pool)


def terms_of(terms: Terms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in Terms.__slots__}
