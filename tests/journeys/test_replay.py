"""Replaying every topic from its first offset changes nothing: no row, no ring, no delivery."""

from pathlib import Path

from cualify_local.environment import SERVICES
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.support.platform import platform


async def test_replaying_every_topic_from_its_first_offset_changes_nothing(
    postgres: Postgres, kafka: Kafka, tmp_path: Path
) -> None:
    # Without a lasting name a replica leaves its groups when it stops, and their offsets can be set back.
    unnamed = {service: {"REPLICA": ""} for service in SERVICES}
    async with platform(postgres, kafka, tmp_path / "stack", extra_env=unnamed) as cualify:
        numbers = ("142", "101", "102", "104", "109", "112")
        placed = [await cualify.place(f"+919990000{number}") for number in numbers]
        for call in placed:
            await cualify.until_settled(call["id"])
        await cualify.until_quiet()
        for service in SERVICES:
            assert await cualify.stack.stop(service) == 0, f"{service} drains and exits cleanly"
        before = await cualify.contents()
        rung = [entry async for entry in cualify.journal()]
        delivered = len(cualify.receiver.received)

        await cualify.rewind()
        for service in SERVICES:
            cualify.stack.resume(service)
        await cualify.stack.ready()
        await cualify.until_quiet()
        for service in SERVICES:
            assert await cualify.stack.stop(service) == 0

        assert await cualify.contents() == before
        assert [entry async for entry in cualify.journal()] == rung
        assert len(cualify.receiver.received) == delivered
        assert sum(len(rows) for rows in before.values()) > 50, "there was something to compare"
