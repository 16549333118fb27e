"""Beyond the lines, calls wait their turn; what is forgotten, and what never is."""

import asyncio
from datetime import UTC, datetime, timedelta

from cualify_simulator.book import Book, shown_until
from tests.simulator.world import simulated


async def test_calls_beyond_the_lines_wait_and_are_dialed_first_come_first_served() -> None:
    async with simulated(simulator_max_concurrency=2) as world:
        refs = [f"boln_{number}" for number in range(8)]
        for ref in refs:
            await world.placed("+919812345600", ref=ref)
        await world.until_noted("ended", count=8)
        assert [entry["cualify_ref"] for entry in await world.journal("ring")] == refs
        assert (await world.ask("GET", "/user/me"))[1]["concurrency"]["current"] == 0


async def test_never_more_calls_at_once_than_lines() -> None:
    async with simulated(simulator_max_concurrency=3, simulator_speed=100) as world:
        await asyncio.gather(*(world.placed("+919812345600", ref=f"boln_{number}") for number in range(9)))
        await world.until_noted("ended", count=9)
        at_once = most = 0
        for entry in await world.journal("ring", "disconnected"):
            at_once += 1 if entry["kind"] == "ring" else -1
            most = max(most, at_once)
        assert most == 3


async def test_a_call_waiting_for_a_line_can_be_stopped() -> None:
    async with simulated(simulator_max_concurrency=1) as world:
        first = await world.placed("+919990000111", ref="boln_first")
        second = await world.placed("+919812345600", ref="boln_second")
        third = await world.placed("+919990000101", ref="boln_third")
        await world.receiver.until_status("in-progress")
        assert (await world.execution(second))["status"] == "queued"
        assert (await world.ask("POST", f"/call/{second}/stop"))[0] == 200
        await world.receiver.until_status("busy")
        assert [entry["execution_id"] for entry in await world.journal("ring")] == [first, third]


async def test_post_processing_needs_no_line() -> None:
    async with simulated(simulator_max_concurrency=1) as world:
        slow = await world.placed("+919990000115", ref="boln_slow")
        await world.placed("+919990000101", ref="boln_next")
        await world.receiver.until_status("busy")
        assert (await world.execution(slow))["status"] == "call-disconnected"


async def test_the_oldest_ended_executions_are_forgotten_but_none_that_lives() -> None:
    async with simulated(simulator_executions_kept=100, simulator_speed=5_000) as world:
        patient = await world.make_agent(task_config={"call_terminate": 1e9})
        living = await world.placed("+919990000111", ref="boln_living", agent_id=patient)
        ended = [await world.placed("+919990000116", ref=f"boln_{number}") for number in range(100)]
        await world.until_noted("ended", count=100)
        for number in range(20):
            await world.placed("+919990000116", ref=f"boln_more_{number}")
        assert (await world.ask("GET", f"/executions/{ended[0]}"))[0] == 404
        assert (await world.ask("GET", f"/executions/{ended[99]}"))[0] == 200
        assert (await world.ask("GET", f"/executions/{living}"))[0] == 200


def test_creation_times_never_go_back_with_the_wall_clock() -> None:
    noon, book = datetime(2026, 11, 2, 12, tzinfo=UTC), Book(10)
    assert book.next_created_at(noon) == noon
    assert book.next_created_at(noon - timedelta(seconds=5)) == noon
    assert shown_until(noon, 5) == noon - timedelta(seconds=5)
