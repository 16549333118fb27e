"""Rates of faults: a part of all calls has a bad day, and the journal still knows every ring."""

from collections import Counter

import pytest

from cualify_simulator.faults import NAMES, Faults
from cualify_simulator.script import Answer, Callbacks, life_of
from tests.simulator.world import simulated


async def test_a_share_of_the_calls_has_the_fault_and_every_accepted_one_rings() -> None:
    async with simulated() as world:
        assert (await world.ask("PUT", "/admin/faults", json={"server_error": 0.5}))[0] == 200
        assert await world.ask("GET", "/admin/faults") == (200, {"server_error": 0.5})
        statuses = Counter([(await world.place(f"+9198123456{n:02d}", ref=f"boln_{n}"))[0] for n in range(40)])
        assert statuses.keys() == {200, 500}
        assert 8 <= statuses[500] <= 32
        rings = await world.until_noted("ring", count=40)
        assert Counter(entry["cualify_ref"] for entry in rings) == {f"boln_{n}": 1 for n in range(40)}
        await world.ask("PUT", "/admin/faults", json={})
        assert (await world.place("+919812345699"))[0] == 200


async def test_a_call_rings_also_where_a_gateway_gave_up_waiting_for_the_answer() -> None:
    async with simulated() as world:
        await world.ask("PUT", "/admin/faults", json={"gateway_timeout": 1.0})
        status, _ = await world.place("+919812345601", ref="boln_1")
        assert status == 504
        (ring,) = await world.until_noted("ring", count=1)
        assert ring["cualify_ref"] == "boln_1"


@pytest.mark.parametrize(
    "body",
    ["[]", "{", '{"typo": 0.1}', '{"late": 2}', '{"late": -1}', '{"late": true}', '{"late": 0.6, "dropped": 0.6}'],
)
async def test_rates_that_can_not_be_are_refused(body: str) -> None:
    async with simulated() as world:
        assert (await world.ask("PUT", "/admin/faults", data=body))[0] == 422
        assert await world.ask("GET", "/admin/faults") == (200, {})


@pytest.mark.parametrize("name", NAMES)
def test_each_fault_is_one_of_the_public_tables_and_leaves_its_numbers_alone(name: str) -> None:
    faults = Faults()
    faults.set({name: 1.0})
    life = faults.life_of("+919812345600")
    usual = life_of("+919812345600")
    assert life.answer is not Answer.ACCEPTED or life.callbacks is not Callbacks.IN_ORDER or life.end != usual.end
    assert faults.life_of("+919990000142") == life_of("+919990000142")
