"""Callbacks: in order, repeated until 200 but not for ever, and never blocked by somebody else's receiver."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from cualify_simulator import callbacks
from tests.simulator.world import simulated

ANSWERED = ["queued", "initiated", "ringing", "in-progress", "call-disconnected", "completed"]


@pytest.mark.parametrize("refusal", [500, 204, 301, 429])
async def test_only_200_is_taken_for_delivered(refusal: int) -> None:
    async with simulated() as world:
        told: Counter[str] = Counter()

        def answer(callback: dict[str, Any]) -> int:
            told[callback["status"]] += 1
            return 200 if told[callback["status"]] == 3 else refusal

        world.receiver.answer = answer
        await world.placed("+919990000101")
        await world.receiver.until(lambda received: len(received) == 12)
        assert told == Counter({"queued": 3, "initiated": 3, "ringing": 3, "busy": 3})


async def test_a_repeat_does_not_overtake() -> None:
    async with simulated() as world:
        refused: set[str] = set()

        def answer(callback: dict[str, Any]) -> int:
            is_new = callback["status"] not in refused
            refused.add(callback["status"])
            return 500 if is_new else 200

        world.receiver.answer = answer
        await world.placed("+919812345600")
        await world.receiver.until(lambda received: len(received) == 12)
        assert world.receiver.statuses() == [status for status in ANSWERED for _ in range(2)]


async def test_a_callback_is_given_up_after_five_attempts() -> None:
    async with simulated(simulator_speed=3_000) as world:
        world.receiver.answer = lambda callback: 500 if callback["status"] == "queued" else 200
        await world.placed("+919990000101")
        await world.receiver.until_status("busy")
        entries = await world.until_noted("callback", count=8)
        queued = [(entry["attempt"], entry["answer"]) for entry in entries if entry["status"] == "queued"]
        assert queued == [(attempt, "500") for attempt in range(1, 6)]


async def test_each_callback_is_what_was_true_when_it_happened() -> None:
    async with simulated() as world:
        refused: set[str] = set()

        def answer(callback: dict[str, Any]) -> int:
            is_new = callback["id"] not in refused
            refused.add(callback["id"])
            return 500 if is_new else 200

        world.receiver.answer = answer
        await world.placed("+919990000101")
        await world.receiver.until_status("busy")
        assert world.receiver.statuses() == ["queued", "queued", "initiated", "ringing", "busy"]


async def test_nobody_listening_is_noted_and_harms_nobody() -> None:
    async with simulated() as world:
        change = {"agent_config": {"webhook_url": "http://127.0.0.1:9/hook"}}
        deaf = await world.make_agent()
        await world.ask("PATCH", f"/v2/agent/{deaf}", json=change)
        await world.placed("+919990000101", agent_id=deaf, ref="boln_deaf")
        await world.placed("+919990000101")
        await world.receiver.until_status("busy")
        entries = [entry for entry in await world.journal("callback") if entry["cualify_ref"] == "boln_deaf"]
        assert {entry["answer"] for entry in entries} == {"ConnectionRefusedError"}


async def test_a_receiver_that_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "TIMEOUT_SEC", 0.05)
    async with simulated() as world:
        world.receiver.is_hanging = True
        await world.placed("+919990000101")
        (entry, *_) = await world.until_noted("callback")
        assert entry["answer"] == "timeout"
        world.receiver.is_hanging = False
        await world.receiver.until_status("busy")
        assert world.receiver.statuses() == ["queued", "initiated", "ringing", "busy"]


async def test_many_calls_each_in_their_own_order() -> None:
    async with simulated(simulator_speed=1_000) as world:
        numbers = [f"+9198123456{number:02d}" for number in range(100)]
        await asyncio.gather(*(world.placed(number, ref=number) for number in numbers))
        received = await world.receiver.until(lambda received: len(received) == 600)
        for number in numbers:
            assert [callback["status"] for callback in received if callback["user_number"] == number] == ANSWERED


async def test_a_full_post_office_drops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "LETTERS_LIMIT", 0)
    async with simulated() as world:
        await world.placed("+919990000101")
        await world.until_noted("ended")
        assert {entry["answer"] for entry in await world.journal("callback")} == {"dropped"}
        assert world.receiver.received == []
