"""`kill -9` between two things that must agree: nobody is rung twice, nothing is lost, order per call is kept."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from cualify_local.environment import API, BILLING, DIALER, DISPATCHER, SERVICES
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from tests.support.platform import Platform, platform, until

CRASHES = [
    (DIALER, "dialer.attempt_committed", "failed", 0),
    (DIALER, "dialer.provider_answered", "completed", 1),
    (DIALER, "dialer.callbacks_handled", "completed", 1),
    (DIALER, "dialer.looked_up", "completed", 1),
    (DIALER, "relay.acknowledged", None, None),
    (DIALER, "reads.call.requests.handled", "completed", 1),
    (DIALER, "reads.call.requests.committed", "completed", 1),
    (API, "api.place.committed", "completed", 1),
    (API, "relay.acknowledged", "completed", 1),
    (API, "reads.call.events.handled", "completed", 1),
    (API, "reads.call.events.committed", "completed", 1),
    (API, "reads.wallet.events.handled", "completed", 1),
    (API, "reads.wallet.events.committed", "completed", 1),
    (BILLING, "billing.posted", "completed", 1),
    (BILLING, "reads.call.events.committed", "completed", 1),
    (BILLING, "relay.acknowledged", "completed", 1),
    (DISPATCHER, "reads.customer.events.handled", "completed", 1),
    (DISPATCHER, "reads.customer.events.committed", "completed", 1),
]
"""Where a process dies, once; how a call placed just before ends; how often the phone rings. With the relay dies what
may just be about to ask the provider: then the phone has rung once, or the call has failed without a ring."""
EITHER = {("completed", 1), ("failed", 0)}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crashing(
    postgres: Postgres, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    """A platform on which processes die. An attempt that nobody knows of is given up after two seconds."""
    soon = {DIALER: {"SETTLE_UNKNOWN_SEC": "2"}}
    async with platform(postgres, kafka, tmp_path_factory.mktemp("crashes"), extra_env=soon) as running:
        yield running


@pytest.mark.parametrize(
    ("n", "service", "point", "status", "rings"),
    [(n, *crash) for n, crash in enumerate(CRASHES)],
    ids=[f"{service} at {point}" for service, point, *_ in CRASHES],
)
async def test_killed_at_a_named_point_the_call_ends_once(
    crashing: Platform, tmp_path: Path, n: int, service: str, point: str, status: str | None, rings: int | None
) -> None:
    to_e164 = f"+9199930000{n:02d}"
    async with dying(crashing, service, point, tmp_path):
        placed = await crashing.place(to_e164)
        ended = await crashing.until_settled(placed["id"])
        assert (tmp_path / point).exists(), "the process died where it should"
    assert (ended["status"], await crashing.rings(to_e164)) in (EITHER if status is None else {(status, rings)})
    assert ended["credits_debited_paise"] == ((n + 30) * 10 if ended["status"] == "completed" else 0)
    await crashing.until_quiet()
    await no_event_is_lost_or_out_of_order(crashing)
    await money_adds_up(crashing)
    last = "call.completed" if ended["status"] == "completed" else "call.failed"

    async def told() -> bool:
        return any(r.call_id == placed["id"] and r.type == last for r in crashing.receiver.received)

    await until(told, f"webhook {last}")


@asynccontextmanager
async def dying(cualify: Platform, service: str, point: str, folder: Path) -> AsyncIterator[None]:
    """Starts one service again so that it dies at a named point, once; and once more as it was, in the end."""
    program = cualify.stack.programs[service]
    healthy = dict(program.env or {})
    await cualify.stack.stop(service)
    cualify.stack.resume(service, env=healthy | {"FAULTS": point, "FAULTS_DONE_DIR": str(folder)})
    await cualify.stack.ready([service])
    try:
        yield
    finally:
        # What runs now has been started again after it died; the next start is without the fault.
        cualify.stack.programs[service] = program


async def no_event_is_lost_or_out_of_order(cualify: Platform) -> None:
    """Per topic and key: sequences 1, 2, 3… with no gap, first occurrences in order; a repeat is the same event."""
    for topic in ("call.requests", "call.events", "customer.events", "wallet.events", "call.artifacts"):
        firsts: dict[UUID, list[int]] = defaultdict(list)
        ids: dict[tuple[UUID, int], UUID] = {}
        for event in await cualify.records(topic):
            known = ids.setdefault((event.key, event.sequence), event.id)
            assert known == event.id, f"{topic}: two events with one sequence"
            if event.sequence not in firsts[event.key]:
                firsts[event.key].append(event.sequence)
        for key, sequences in firsts.items():
            assert sequences == list(range(1, len(sequences) + 1)), f"{topic}: {key}"


async def money_adds_up(cualify: Platform) -> None:
    """The ledger sums to zero; the api's view of each wallet is billing's; nothing is held."""
    assert (await cualify.query(BILLING, "SELECT coalesce(sum(amount_paise), 0) FROM entries"))[0][0] == 0
    for row in await cualify.query(API, "SELECT org_id, granted, held FROM org_credit"):
        [[balance]] = await cualify.query(
            BILLING, "SELECT balance_paise FROM accounts WHERE name = $1", f"wallet:{row['org_id']}"
        )
        assert (row["granted"], row["held"]) == (balance, 0)


async def test_a_call_survives_the_death_of_every_service_in_turn(
    postgres: Postgres, kafka: Kafka, tmp_path: Path
) -> None:
    soon = {DIALER: {"SETTLE_UNKNOWN_SEC": "2"}}
    async with platform(postgres, kafka, tmp_path / "stack", extra_env=soon, simulator_speed=60.0) as cualify:
        numbers = [f"+9199920000{n:02d}" for n in range(10, 20)]
        placed = {to_e164: (await cualify.place(to_e164))["id"] for to_e164 in numbers}
        for service in SERVICES:
            cualify.stack.kill(service)
        # What was committed and not yet sent when the dialer died is never sent: that call fails and nobody was rung.
        for to_e164, call_id in placed.items():
            ended = await cualify.until_settled(call_id, within_sec=90)
            assert (ended["status"], await cualify.rings(to_e164)) in EITHER
        await cualify.stack.ready()
        await cualify.until_quiet()
        await no_event_is_lost_or_out_of_order(cualify)
        await money_adds_up(cualify)
        assert len([line for line in cualify.said if "died" in line]) >= len(SERVICES)
