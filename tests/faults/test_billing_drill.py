"""Thousands of completed calls through Kafka while billing is killed every few seconds: each is debited exactly once,
and an api that hears all that billing said ends with the same balances and nothing held.

`DRILL_CALLS` sets how many (5,000; the full drill is 100,000), `KILL_EVERY_SEC` how often (2).
"""

import asyncio
import os
import random
import sys
from collections import defaultdict
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from cualify_api.consume import on_wallet_events
from cualify_billing.reconcile import differences
from cualify_local import children
from cualify_local.children import Program
from cualify_local.kafka.broker import Kafka
from cualify_shared.database import Pool
from cualify_shared.events import Event, decode, encode
from cualify_shared.events.create_topics import create_topics
from cualify_shared.events.envelope import headers
from cualify_shared.events.topics import CALL_EVENTS, WALLET_EVENTS
from cualify_shared.events.wallet import WalletCredited
from tests.billing.conftest import MakePool, ended, top_up
from tests.support.databases import MakeDatabase
from tests.support.platform import consumer

CALLS = int(os.environ.get("DRILL_CALLS", "5000"))
KILL_EVERY_SEC = float(os.environ.get("KILL_EVERY_SEC", "2"))
ORGS = [UUID(int=n) for n in range(1, 51)]
PAID = 10**9
REPEATED = 0.1


def billing(dsn: str, kafka: Kafka, *, prefix: str, log: Path) -> Program:
    """One replica, as it runs in production."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": prefix,
        "KAFKA_EMBEDDED": str(kafka.kind == "embedded").lower(),
        "INTERNAL_TOKEN": "drill",
        "REPLICA": "1",
        "PORT": str(children.free_port()),
        "LOG_LEVEL": "WARNING",
    }
    return Program(name="billing", args=(sys.executable, "-m", "cualify_billing.main"), log=log, env=environment)


async def tell(kafka: Kafka, prefix: str, events: list[Event]) -> None:
    """Puts the ends of calls on the topic, some of them again later, in no order between calls."""
    told = events + random.sample(events, int(len(events) * REPEATED))
    random.shuffle(told)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=5)
    await producer.start()
    try:
        for start in range(0, len(told), 500):
            values = [(str(event.key).encode(), encode(event)) for event in told[start : start + 500]]
            sent = [
                await producer.send(prefix + CALL_EVENTS.name, value=value, key=key, headers=headers(value))
                for key, value in values
            ]
            await asyncio.gather(*sent)
            await asyncio.sleep(0.05)  # so that the calls come while billing lives and dies
    finally:
        await producer.stop()


async def killed_now_and_then(program: Program, done: asyncio.Event) -> int:
    """Runs billing, kills it every so often, and starts it again; how often it was killed."""
    kills = 0
    while True:
        child = await asyncio.to_thread(children.start, program)
        try:
            await asyncio.wait_for(done.wait(), KILL_EVERY_SEC * random.uniform(0.7, 1.5) + 1.0)
            return kills
        except TimeoutError:
            kills += 1
        finally:
            await asyncio.to_thread(children.kill, child)


async def until_all_is_said(pool: Pool, within_sec: float) -> None:
    """Every call is debited and the outbox is empty."""
    async with asyncio.timeout(within_sec):
        while (
            await pool.fetchval("SELECT count(*) FROM transfers WHERE kind = 'call_debit'") < CALLS
            or await pool.fetchval("SELECT count(*) FROM outbox") > 0
        ):
            await asyncio.sleep(0.2)


async def events_said(kafka: Kafka, topic: str) -> list[Event]:
    """Every record on a topic, repeats included, in order per partition."""
    found: list[Event] = []
    async with consumer(kafka, None) as reading:
        metadata = await reading._client.fetch_all_metadata()
        partitions = [TopicPartition(topic, number) for number in metadata.partitions_for_topic(topic) or ()]
        reading.assign(partitions)
        ends = await reading.end_offsets(partitions)
        await reading.seek_to_beginning(*partitions)
        while any([await reading.position(partition) < ends[partition] for partition in partitions]):
            for records in (await reading.getmany(timeout_ms=200)).values():
                found += [decode(record.value) for record in records]
    return found


@pytest.mark.faults
async def test_each_call_is_debited_once_while_billing_is_killed_every_few_seconds(
    database: MakeDatabase, pool_for: MakePool, kafka: Kafka, tmp_path: Path
) -> None:
    prefix = f"drill{uuid4().hex[:6]}_"
    dsn = await database("cualify_billing")
    pool = await pool_for(dsn)
    if kafka.kind != "embedded":
        await create_topics(kafka.bootstrap_servers, prefix=prefix)
    for org in ORGS:
        await top_up(pool, org, PAID)
    events = [ended(random.choice(ORGS), duration_sec=random.randint(0, 300)) for _ in range(CALLS)]
    done = asyncio.Event()
    running = asyncio.create_task(
        killed_now_and_then(billing(dsn, kafka, prefix=prefix, log=tmp_path / "billing.log"), done)
    )
    try:
        await tell(kafka, prefix, events)
        await until_all_is_said(pool, within_sec=60 + CALLS / 100)
    finally:
        done.set()
        kills = await running
    print(f"\n{CALLS} calls, {int(CALLS * REPEATED)} of them told twice, billing killed {kills} times")
    assert kills >= 1, "a drill without a kill shows nothing"
    await each_is_debited_once(pool, events)
    said = await events_said(kafka, prefix + WALLET_EVENTS.name)
    await every_debit_is_said_once_in_order(said)
    await the_api_ends_where_billing_does(await pool_for(await database("cualify_api")), pool, events, said)


async def each_is_debited_once(pool: Pool, events: list[Event]) -> None:
    """The wallets are where a plain sum would have them, and the books agree with themselves."""
    owed: defaultdict[UUID, int] = defaultdict(int)
    for event in events:
        owed[event.org_id] += 10 * event.data.model_dump()["duration_sec"]
    balances = await pool.fetch("SELECT org_id, balance_paise FROM accounts WHERE kind = 'wallet'")
    assert {row["org_id"]: PAID - row["balance_paise"] for row in balances} == dict(owed)
    assert await pool.fetchval("SELECT count(*) FROM transfers WHERE kind = 'call_debit'") == CALLS
    assert await pool.fetchval("SELECT sum(amount_paise) FROM entries") == 0
    assert await pool.fetchval("SELECT count(*) FROM dead_letters") == 0
    async with pool.acquire() as connection:
        assert await differences(connection) == []


async def every_debit_is_said_once_in_order(said: list[Event]) -> None:
    """For each org 1, 2, 3…: a repeat is the same event, and nothing is missing."""
    ids: dict[tuple[UUID, int], UUID] = {}
    firsts: defaultdict[UUID, list[int]] = defaultdict(list)
    for event in said:
        if (event.key, event.sequence) not in ids:
            firsts[event.key].append(event.sequence)
        assert ids.setdefault((event.key, event.sequence), event.id) == event.id
    assert all(sequences == list(range(1, len(sequences) + 1)) for sequences in firsts.values())
    assert sum(map(len, firsts.values())) == CALLS + len(ORGS)


ORGS_AND_CALLS = """
WITH org AS (
    INSERT INTO orgs SELECT id, 'drill', now() FROM unnest($1::uuid[]) AS id
), credit AS (
    INSERT INTO org_credit (org_id) SELECT unnest($1::uuid[])
), agent AS (
    INSERT INTO agents SELECT id, id, 'drill', 'hi-IN', 300, 'bolna', 'drill', now() FROM unnest($1::uuid[]) AS id
)
INSERT INTO calls (
    id, org_id, agent_id, status, to_e164, language, metadata, key_prefix, request_id, created_at, latest_at,
    rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider, provider_call_id
)
SELECT id, org_id, org_id, 'queued', '+919812345678', 'hi-IN', '{}', 'drill', 'drill', now(), now(), 10, 1, 300, 3000,
    'bolna', id::text
FROM unnest($2::uuid[], $3::uuid[]) AS c (id, org_id)
"""
HOLD = """
UPDATE org_credit AS c
SET held = (SELECT coalesce(sum(hold_paise), 0) FROM calls WHERE calls.org_id = c.org_id)
"""


async def the_api_ends_where_billing_does(api: Pool, books: Pool, events: list[Event], said: list[Event]) -> None:
    """All that billing said, repeats included, folded into an api in which the same calls were open."""
    await api.execute(ORGS_AND_CALLS, ORGS, [event.key for event in events], [event.org_id for event in events])
    await fold(api, [event for event in said if isinstance(event.data, WalletCredited)])
    await api.execute(HOLD)
    await fold(api, said)
    views = await api.fetch("SELECT org_id, granted, held FROM org_credit")
    wallets = await books.fetch("SELECT org_id, balance_paise FROM accounts WHERE kind = 'wallet'")
    assert {row["org_id"]: (row["granted"], row["held"]) for row in views} == {
        row["org_id"]: (row["balance_paise"], 0) for row in wallets
    }


async def fold(api: Pool, said: list[Event]) -> None:
    """As the api's reads do it, 500 at a time."""
    for start in range(0, len(said), 500):
        async with api.acquire() as connection, connection.transaction():
            await on_wallet_events(connection, said[start : start + 500])
