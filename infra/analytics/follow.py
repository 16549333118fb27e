"""Appends the analytics topics to files, one JSON event a line.

Only these three are read: they carry no phone number, name or transcript. At least once: what is written twice after a
crash has the same `source` and `id`, and calls.sql counts it once. `--until-end` stops where the topics end now.
"""

import argparse
import asyncio
from pathlib import Path
from typing import BinaryIO

from aiokafka import AIOKafkaConsumer

TOPICS = ("call.events", "wallet.events", "webhook.events")
AT_ONCE = 5000


async def follow(servers: str, folder: Path, *, prefix: str, group: str, until_end: bool) -> int:
    """Writes until cancelled, or until the end. Returns how many events were written."""
    files = _files(folder)
    consumer = AIOKafkaConsumer(
        *(prefix + topic for topic in TOPICS),
        bootstrap_servers=servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    written = 0
    try:
        while True:
            batch = await consumer.getmany(timeout_ms=500, max_records=AT_ONCE)
            for partition, records in batch.items():
                files[partition.topic.removeprefix(prefix)].writelines(record.value + b"\n" for record in records)
                written += len(records)
            for file in files.values():
                file.flush()
            if batch:
                await consumer.commit()  # after the write: a crash in between writes again, and loses nothing
            elif until_end and await _is_at_end(consumer):
                return written
    finally:
        for file in files.values():
            file.close()
        await consumer.stop()


def _files(folder: Path) -> dict[str, BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    return {topic: (folder / f"{topic}.ndjson").open("ab") for topic in TOPICS}


async def _is_at_end(consumer: AIOKafkaConsumer) -> bool:
    ends = await consumer.end_offsets(consumer.assignment())
    return bool(ends) and all([await consumer.position(partition) >= end for partition, end in ends.items()])


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description="Append the analytics topics to files, one JSON event a line.")
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--folder", type=Path, default=Path("events"))
    parser.add_argument("--prefix", default="", help="as KAFKA_TOPIC_PREFIX of the services")
    parser.add_argument("--group", default="analytics")
    parser.add_argument("--until-end", action="store_true")
    given = parser.parse_args()
    running = follow(
        given.bootstrap_servers, given.folder, prefix=given.prefix, group=given.group, until_end=given.until_end
    )
    print(f"{asyncio.run(running)} events written to {given.folder}")


if __name__ == "__main__":
    main()
