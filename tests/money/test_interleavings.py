"""Whatever is paid, called, refunded, charged back and repeated, the api never promises what the wallet lacks."""

import asyncio
from dataclasses import asdict, dataclass, field
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings, strategies as st

from cualify_api.wallet import reductions
from cualify_billing import holds
from cualify_billing.holds import Api
from tests.api.world import Org
from tests.money.conftest import Treasury


@dataclass(frozen=True)
class Pay:
    """A payment, perhaps told twice."""

    number: int


@dataclass(frozen=True)
class Call:
    """A request for a call; it may be refused."""

    max_duration_sec: int


@dataclass(frozen=True)
class End:
    """The oldest open call ends; perhaps it was told before."""

    duration_sec: int
    status: str


@dataclass(frozen=True)
class Lower:
    """A correction or a chargeback, perhaps asked for twice, perhaps more than there is."""

    number: int
    kind: str


@dataclass(frozen=True)
class Change:
    """Another plan; it counts for calls that are placed once the api has heard of it."""

    rate_paise_per_sec: int
    pulse_sec: int
    min_billable_sec: int


@dataclass(frozen=True)
class Withdraw:
    """A chargeback is given up, should it wait."""

    number: int


@dataclass(frozen=True)
class Carry:
    """What billing has said until now reaches the api, some of it twice."""


Step = Pay | Call | End | Lower | Change | Withdraw | Carry
steps = st.lists(
    st.builds(Pay, st.integers(0, 4))
    | st.builds(Call, st.integers(1, 300))
    | st.builds(End, st.integers(0, 400), st.sampled_from(["completed", "completed", "busy"]))
    | st.builds(Lower, st.integers(0, 5), st.sampled_from(["correction", "chargeback"]))
    | st.builds(Change, st.integers(0, 15), st.sampled_from([1, 7, 60]), st.sampled_from([0, 0, 30]))
    | st.builds(Withdraw, st.integers(0, 5))
    | st.builds(Carry),
    min_size=1,
    max_size=25,
)


def price_paise(talked_sec: int, plan: Change) -> int:
    """Second by second, so that it has no formula in common with what it checks."""
    seconds = 0
    while talked_sec and (seconds < max(talked_sec, plan.min_billable_sec) or seconds % plan.pulse_sec):
        seconds += 1
    return seconds * plan.rate_paise_per_sec


@dataclass(slots=True)
class Story:
    """One org's, from its first payment on."""

    treasury: Treasury
    org: Org
    name: str = field(default_factory=lambda: uuid4().hex)
    open: list[tuple[UUID, int, Change]] = field(default_factory=list)
    plan: Change = Change(10, 1, 0)
    next_plan: Change = Change(10, 1, 0)
    paid: set[int] = field(default_factory=set)
    spent_paise: int = 0

    async def take(self, step: Step) -> None:
        match step:
            case Pay(number):
                self.paid.add(number)
                credit = {"payment_id": f"{self.name}-{number}", "amount_paise": 1000 * (number + 1)}
                await self.treasury.world.admin("POST", f"/orgs/{self.org.id}/credits", credit)
            case Call(max_duration_sec):
                answer = await self.treasury.world.place(self.org, max_duration_sec=max_duration_sec)
                assert answer.status in (201, 402, 403)
                if answer.status == 201:
                    self.open.append((UUID(answer.body["data"]["id"]), max_duration_sec, self.plan))
            case End(duration_sec, status):
                if self.open:
                    call_id, max_duration_sec, plan = self.open.pop(0)
                    await self.treasury.end(self.org, call_id, duration_sec=duration_sec, status=status)
                    await self.treasury.end(self.org, call_id, duration_sec=duration_sec, status=status)
                    talked_sec = min(duration_sec, max_duration_sec) if status == "completed" else 0
                    self.spent_paise += price_paise(talked_sec, plan)
            case Lower(number, kind):
                name, amount_paise = f"{self.name}-{kind}-{number}", 2500 * (number + 1)
                answered, body = await self.treasury.refund(self.org, name, amount_paise, kind=kind)
                assert answered in (201, 402) or body["error"]["details"]["reason"] == "withdrawn"
            case Change():
                self.next_plan = step
                terms = {"plan": "p", **asdict(step)}
                await self.treasury.world.admin("PUT", f"/orgs/{self.org.id}/plan", terms)
            case Withdraw(number):
                path = f"/admin/v1/orgs/{self.org.id}/refunds/{self.name}-chargeback-{number}"
                headers = {"Authorization": "Bearer admin-token"}
                assert (await self.treasury.world.ask("DELETE", path, headers=headers)).status in (200, 404, 409)
            case Carry():
                await self.treasury.carry(repeat=True)
                self.plan = self.next_plan

    async def close(self) -> None:
        """Every call ends, everything is told, and what waits and can be covered is taken."""
        while self.open:
            await self.take(End(7, "completed"))
        await self.treasury.carry(repeat=True)
        async with asyncio.timeout(20):
            while await reductions.covered(self.treasury.world.pool):
                await asyncio.sleep(0.05)
            while await self.treasury.world.pool.fetchval(
                "SELECT EXISTS (SELECT FROM reductions WHERE status = 'set_aside')"
            ):
                await asyncio.sleep(0.05)
        await self.treasury.carry(repeat=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps)
async def test_any_interleaving_ends_where_a_plain_sum_would(treasury: Treasury, plan: list[Step]) -> None:
    story = Story(treasury, await treasury.org(paid_paise=5000, payment_id=uuid4().hex))
    api = Api(url=treasury.world.url, token="internal-token")
    for step in plan:
        await story.take(step)
        assert await holds.differences(treasury.books, api) == []
    await story.close()
    taken = await treasury.world.pool.fetchval(
        "SELECT coalesce(sum(amount_paise), 0)::bigint FROM reductions WHERE org_id = $1 AND status = 'posted'",
        story.org.id,
    )
    expected = 5000 + sum(1000 * (number + 1) for number in story.paid) - story.spent_paise - taken
    assert await treasury.agree(story.org) == expected
    waiting = await treasury.world.pool.fetchval(
        "SELECT count(*) FROM reductions WHERE org_id = $1 AND status = 'waiting'", story.org.id
    )
    frozen = await treasury.world.pool.fetchval("SELECT frozen FROM org_credit WHERE org_id = $1", story.org.id)
    assert frozen == (waiting > 0)
