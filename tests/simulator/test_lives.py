"""Every row of the table of numbers, over HTTP, from the create to the last callback."""

import asyncio
from itertools import pairwise

import aiohttp
import pytest

from tests.simulator.world import World, simulated

ANSWERED = ["queued", "initiated", "ringing", "in-progress", "call-disconnected", "completed"]


async def lived(world: World, number: str, *, last: str = "completed") -> tuple[str, list[str]]:
    """Places a call and follows its callbacks to the end: the execution's id, and the statuses told."""
    execution_id = await world.placed(number)
    await world.receiver.until_status(last)
    return execution_id, world.receiver.statuses()


async def rung(world: World, number: str) -> int:
    """How often the phone rang, which the journal and the convenience must agree on."""
    rings = [entry for entry in await world.journal("ring") if entry["to_e164"] == number]
    _, counted = await world.ask("GET", "/rings", params={"to_e164": number})
    assert counted["count"] == len(rings) == sum(counted["by_ref"].values())
    return len(rings)


async def test_142_books_a_demo() -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, "+919990000142")
        assert statuses == ANSWERED
        assert [event["type"] for event in world.receiver.events()] == ["disclosure-played", "intent-detected"]

        done = await world.execution(execution_id)
        assert (done["conversation_duration"], done["telephony_data"]["duration"]) == (142.0, "142")
        assert isinstance(done["conversation_duration"], float)
        assert done["total_cost"] == pytest.approx(sum(done["cost_breakdown"].values()))
        assert done["extracted_data"]["intent"] == "demo_booked"
        assert done["extracted_data"]["sentiment"] == "positive"
        assert done["transcript"].startswith("assistant: ")
        assert "\nuser: " in done["transcript"]
        assert done["answered_by_voice_mail"] is False
        assert done["context_details"] == {
            "recipient_data": {"cualify_ref": "boln_1", "customer_name": "Asha"},
            "recipient_phone_number": "+919990000142",
        }
        logs = done["tool_call_logs"]
        assert [(log["id"], log["name"]) for log in logs] == [("tool_1", "cualify_event"), ("tool_2", "cualify_event")]
        assert logs[1]["arguments"] == {"type": "intent-detected", "data": {"intent": "demo_booked"}}


async def test_the_agents_own_messages_carry_the_execution_and_the_same_facts() -> None:
    async with simulated() as world:
        execution_id, _ = await lived(world, "+919990000142")
        told = [callback for callback in world.receiver.received if "cualify_event" in callback]
        assert {callback["id"] for callback in told} == {execution_id}
        assert {callback["status"] for callback in told} == {"in-progress"}
        assert told[0]["context_details"]["recipient_data"]["cualify_ref"] == "boln_1"

        logs = (await world.execution(execution_id))["tool_call_logs"]
        events = [callback["cualify_event"] for callback in told]
        assert [(log["id"], log["created_at"]) for log in logs] == [(event["id"], event["at"]) for event in events]
        assert events[0]["data"] == {}


@pytest.mark.parametrize(("ending", "last"), [(101, "busy"), (102, "no-answer"), (103, "failed")])
async def test_101_to_103_ring_and_are_not_answered(ending: int, last: str) -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, f"+919990000{ending}", last=last)
        assert statuses == ["queued", "initiated", "ringing", last]
        assert await rung(world, f"+919990000{ending}") == 1
        ended = await world.execution(execution_id)
        assert (ended["conversation_duration"], ended["total_cost"], ended["transcript"]) == (0.0, 0, None)
        assert ended["telephony_data"]["hangup_by"] == "Carrier"
        assert await world.journal("answered") == []


async def test_104_is_refused_and_never_rings() -> None:
    async with simulated() as world:
        status, body = await world.place("+919990000104")
        assert (status, body["error"]) == (400, 1001)
        assert await rung(world, "+919990000104") == 0
        assert await world.journal("create") == []
        assert (await world.journal("refused"))[0]["cualify_ref"] == "boln_1"


async def test_105_rings_though_the_answer_was_500() -> None:
    async with simulated() as world:
        status, body = await world.place("+919990000105")
        assert (status, "execution_id" in body) == (500, False)
        await _completes_unseen(world, "+919990000105", answer="server_error")


async def test_106_rings_though_the_connection_dropped() -> None:
    async with simulated() as world:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await world.place("+919990000106")
        await _completes_unseen(world, "+919990000106", answer="dropped")


async def test_107_rings_though_the_answer_came_too_late() -> None:
    async with simulated(client_timeout_sec=0.3) as world:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await world.place("+919990000107")
        await _completes_unseen(world, "+919990000107", answer="late")


async def test_107_does_answer_in_the_end() -> None:
    async with simulated(client_timeout_sec=0.05) as world:
        status, body = await world.place("+919990000107")
        assert (status, body["status"]) == (200, "queued")


async def test_108_completes_without_a_word() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000108")
        await world.until_noted("ended")
        assert (await world.execution(execution_id))["conversation_duration"] == 60.0
        await world.placed("+919990000101", ref="boln_2")
        await world.receiver.until_status("busy")
        assert {callback["user_number"] for callback in world.receiver.received} == {"+919990000101"}


async def test_109_tells_everything_twice_and_out_of_order() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000109")
        received = await world.receiver.until(lambda received: len(received) == 2 * len(ANSWERED))
        assert [callback["status"] for callback in received] == [
            *("queued", "initiated", "in-progress", "ringing", "completed", "call-disconnected"),
            *reversed(ANSWERED),
        ]
        assert {callback["id"] for callback in received} == {execution_id}
        assert await rung(world, "+919990000109") == 1


async def test_109_tells_of_the_call_before_the_create_is_answered() -> None:
    async with simulated() as world:
        for number in range(10):
            execution_id = await world.placed("+919990000109", ref=f"boln_{number}")
            assert execution_id in [callback["id"] for callback in list(world.receiver.received)]


async def test_109_is_answered_even_if_nobody_listens() -> None:
    async with simulated() as world:
        world.receiver.answer = lambda _: 503
        assert await world.placed("+919990000109")


async def test_110_is_a_voicemail_of_five_seconds() -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, "+919990000110")
        assert statuses == ANSWERED
        done = await world.execution(execution_id)
        assert (done["answered_by_voice_mail"], done["conversation_duration"]) == (True, 5.0)


@pytest.mark.parametrize("beside", [{"task_config": {"call_terminate": 77}}, {}])
async def test_111_talks_until_the_agent_is_told_to_end(beside: dict[str, object]) -> None:
    async with simulated() as world:
        agent_id = await world.make_agent(**beside)
        execution_id = await world.placed("+919990000111", agent_id=agent_id)
        await world.receiver.until_status("completed")
        done = await world.execution(execution_id)
        assert done["conversation_duration"] == (77.0 if beside else 300.0)
        assert done["telephony_data"]["hangup_reason"] == "call_terminate"


async def test_112_asks_for_a_human() -> None:
    async with simulated() as world:
        execution_id, _ = await lived(world, "+919990000112")
        assert [event["type"] for event in world.receiver.events()] == ["handoff-requested"]
        assert (await world.execution(execution_id))["conversation_duration"] == 90.0


async def test_113_is_throttled_twice_for_each_call() -> None:
    async with simulated() as world:
        answers = [(await world.place("+919990000113", ref=ref))[0] for ref in ("boln_a", "boln_b") * 3]
        assert answers == [429, 429, 429, 429, 200, 200]
        await world.until_noted("ended", count=2)
        assert await rung(world, "+919990000113") == 2
        assert [entry["cualify_ref"] for entry in await world.journal("throttled")] == ["boln_a", "boln_b"] * 2


async def test_113_says_once_when_to_come_again() -> None:
    async with simulated() as world:
        body = {"agent_id": world.agent_id, "recipient_phone_number": "+919990000113"}
        retry_after = []
        for _ in range(3):
            async with world.http.post(f"{world.url}/call", json=body) as response:
                retry_after.append((response.status, response.headers.get("Retry-After")))
        assert retry_after == [(429, "1"), (429, None), (200, None)]


async def test_114_rings_though_the_answer_is_no_json() -> None:
    async with simulated() as world:
        assert await world.place("+919990000114") == (200, b"done")
        await _completes_unseen(world, "+919990000114", answer="not_json")


async def test_115_completes_thirteen_minutes_after_the_line_dropped() -> None:
    async with simulated(simulator_speed=6_000) as world:
        execution_id, statuses = await lived(world, "+919990000115")
        assert statuses == ANSWERED
        done = await world.execution(execution_id)
        assert (done["conversation_duration"], done["telephony_data"]["hangup_by"]) == (60.0, "Carrier")


async def test_116_has_no_balance_and_never_rings() -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, "+919990000116", last="balance-low")
        assert statuses == ["queued", "balance-low"]
        assert (await world.execution(execution_id))["telephony_data"] is None
        assert await rung(world, "+919990000116") == 0


async def test_117_says_something_nobody_knows() -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, "+919990000117")
        assert statuses == [*ANSWERED[:4], "quantum-leap", *ANSWERED[4:]]
        assert (await world.execution(execution_id))["conversation_duration"] == 60.0


@pytest.mark.parametrize(("number", "sec"), [("+919812345600", 30.0), ("+919812345617", 47.0), ("+14155550199", 129.0)])
async def test_any_other_number_talks_by_its_last_digits(number: str, sec: float) -> None:
    async with simulated() as world:
        execution_id, statuses = await lived(world, number)
        assert statuses == ANSWERED
        assert (await world.execution(execution_id))["conversation_duration"] == sec
        assert await rung(world, number) == 1


async def test_nothing_is_known_before_completed() -> None:
    async with simulated() as world:
        await lived(world, "+919990000142")
        before = [callback for callback in world.receiver.received if callback["status"] != "completed"]
        assert all(callback["conversation_duration"] == 0.0 and callback["total_cost"] == 0 for callback in before)
        assert all(callback["transcript"] is callback["extracted_data"] is None for callback in before)
        assert before[0]["telephony_data"] is None
        dropped = before[-1]
        assert dropped["status"] == "call-disconnected"
        assert (dropped["telephony_data"]["duration"], dropped["telephony_data"]["recording_url"]) == ("0", None)


async def test_the_same_number_lives_the_same_life_again() -> None:
    async with simulated() as world:
        lives = []
        for number in range(2):
            world.receiver.received.clear()
            execution_id = await world.placed("+919990000142", ref=f"boln_{number}")
            await world.receiver.until_status("completed")
            done = await world.execution(execution_id)
            lives.append((world.receiver.statuses(), done["transcript"], done["total_cost"], done["extracted_data"]))
        assert lives[0] == lives[1]


@pytest.mark.parametrize(("number", "is_naive"), [("+919990000142", False), ("+919990000105", True)])
async def test_time_stamps_come_with_an_offset_or_without(number: str, is_naive: bool) -> None:
    async with simulated() as world:
        await world.place(number)
        for callback in await world.receiver.until_status("completed"):
            for name in ("created_at", "updated_at"):
                assert callback[name].endswith("+00:00") is not is_naive


async def test_the_journal_tells_a_call_from_create_to_end() -> None:
    async with simulated() as world:
        execution_id, _ = await lived(world, "+919990000142")
        await world.until_noted("callback", count=8)
        entries = await world.journal()
        assert [entry["n"] for entry in entries] == list(range(1, len(entries) + 1))
        assert all(before["at"] <= after["at"] for before, after in pairwise(entries))
        told = [entry["kind"] for entry in entries if entry["kind"] != "callback"]
        assert told == ["create", "ring", "answered", "disconnected", "ended"]
        same = {(entry["to_e164"], entry["cualify_ref"], entry["execution_id"]) for entry in entries}
        assert same == {("+919990000142", "boln_1", execution_id)}
        assert entries[0]["answer"] == "accepted"
        ended = next(entry for entry in entries if entry["kind"] == "ended")
        assert (ended["status"], ended["duration_sec"]) == ("completed", 142.0)


async def _completes_unseen(world: World, number: str, *, answer: str) -> None:
    """The create's answer told nothing, yet the phone rang once and a callback says whose call it was."""
    received = await world.receiver.until_status("completed")
    assert received[-1]["context_details"]["recipient_data"]["cualify_ref"] == "boln_1"
    assert received[-1]["conversation_duration"] == 60.0
    creates = await world.journal("create")
    assert [(entry["answer"], entry["cualify_ref"]) for entry in creates] == [(answer, "boln_1")]
    assert await rung(world, number) == 1
