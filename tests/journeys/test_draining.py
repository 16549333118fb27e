"""SIGTERM: each service finishes what it has begun. Nothing is lost, and nothing is done twice."""

import asyncio
from collections import Counter
from pathlib import Path

from cualify_local.environment import SERVICES
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.journeys.test_crashes import money_adds_up, no_event_is_lost_or_out_of_order
from tests.support.platform import platform, until

CALLS = 40


async def test_a_rolling_restart_under_load_loses_nothing_and_repeats_nothing(
    postgres: Postgres, kafka: Kafka, tmp_path: Path
) -> None:
    async with platform(postgres, kafka, tmp_path / "stack") as cualify:
        numbers = [f"+9199940000{n:02d}" for n in range(CALLS)]
        half_way = asyncio.Event()

        async def place_all() -> list[str]:
            placed = []
            for n, to_e164 in enumerate(numbers):
                placed.append((await cualify.place(to_e164))["id"])
                if n == CALLS // 4:
                    half_way.set()
            return placed

        placing = asyncio.create_task(place_all())
        await half_way.wait()
        for service in SERVICES:
            assert await cualify.stack.stop(service) == 0, f"{service} exits cleanly"
            cualify.stack.resume(service)
            await cualify.stack.ready([service])
        ended = [await cualify.until_settled(call_id) for call_id in await placing]
        assert {call["status"] for call in ended} == {"completed"}

        async def all_told() -> bool:
            return sum(received.type == "call.completed" for received in cualify.receiver.received) >= CALLS

        await until(all_told, "every end is told")
        await cualify.until_quiet()
        rings = Counter([entry["to_e164"] async for entry in cualify.journal() if entry["kind"] == "ring"])
        assert rings == dict.fromkeys(numbers, 1)
        told = Counter((received.call_id, received.type) for received in cualify.receiver.received)
        assert set(told.values()) == {1}
        await no_event_is_lost_or_out_of_order(cualify)
        await money_adds_up(cualify)
