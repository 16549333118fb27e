"""Creates the catalogue's topics on a broker: `python -m cualify_shared.events.create_topics --help`."""

import argparse
import asyncio

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faststream.security import BaseSecurity

from cualify_shared.events.topics import TOPICS
from cualify_shared.kafka_security import for_aiokafka, security_of
from cualify_shared.settings import KafkaSettings


async def create_topics(
    bootstrap_servers: str, *, prefix: str = "", replication_factor: int = 1, security: BaseSecurity | None = None
) -> list[str]:
    """Creates those that are missing, with the catalogue's partitions and retention. Returns the names it created.

    A topic that exists is left as it is: its partitions are never raised, because keys would move.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **for_aiokafka(security))
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if prefix + topic.name not in present]
        wanted = [
            NewTopic(
                prefix + topic.name,
                num_partitions=topic.partitions,
                replication_factor=replication_factor,
                topic_configs={"retention.ms": str(int(topic.retention.total_seconds() * 1000))},
            )
            for topic in missing
        ]
        if wanted:
            await admin.create_topics(wanted)
        return [prefix + topic.name for topic in missing]
    finally:
        await admin.close()


def main() -> None:
    """For operators: run once before the services' first start, and after an upgrade that brings a new topic.

    How Kafka lets one in is said by the same variables as for the services: KAFKA_SECURITY_PROTOCOL and so on.
    """
    parser = argparse.ArgumentParser(description="Create the topics of the event catalogue that are missing.")
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--prefix", default="", help="as KAFKA_TOPIC_PREFIX of the services")
    parser.add_argument("--replication-factor", type=int, default=3)
    given = parser.parse_args()
    security = security_of(KafkaSettings(kafka_bootstrap_servers=given.bootstrap_servers))
    created = asyncio.run(
        create_topics(
            given.bootstrap_servers,
            prefix=given.prefix,
            replication_factor=given.replication_factor,
            security=security,
        )
    )
    print("\n".join(f"created {name}" for name in created) or "every topic is there")


if __name__ == "__main__":
    main()
