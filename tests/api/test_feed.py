"""GET /events: what webhooks would say, whole, in an order in which nothing turns up behind the reader."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from cualify_api.calls import queries, tell
from cualify_api.calls.tell import Notice
from cualify_shared.clock import now
from cualify_shared.database import Connection
from cualify_shared.events import Event
from cualify_shared.events.customer import CustomerCallEvent
from cualify_shared.events.envelope import decode
from cualify_shared.events.wallet import WalletLowBalance
from tests.api.world import Org, World, credited, debited, event, failed, left_behind, life


async def events(world: World, org: Org, query: str = "") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    answer = await world.ask("GET", f"/api/v1/events?{query}", headers=org.auth)
    assert answer.status == 200, answer
    return answer.body["data"], answer.body["pagination"]


async def test_the_feed_says_what_the_webhooks_say_and_get_shows(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org, metadata={"crm_lead_id": "L-7890"})
    await world.feed_all([*life(org, call_id), *left_behind(org, call_id), debited(org, call_id, 1420)])
    said, pagination = await events(world, org)
    assert [(one["type"], one["sequence"]) for one in said] == [
        ("call.dialing", 1),
        ("call.in_progress", 2),
        ("call.completed", 3),
    ]
    assert pagination == {"limit": 50, "next_after": said[-1]["id"], "has_more": False}
    shown = await world.call(org, call_id)
    assert said[-1]["data"] == {name: value for name, value in shown.items() if name != "transcript"}
    assert said == await webhook_bodies(world)


async def test_it_is_read_in_pages_and_resumed_from_any_event(world: World) -> None:
    org = await world.org()
    for _ in range(3):
        call_id = await world.placed(org)
        await world.feed_all([*life(org, call_id, artifacts=()), debited(org, call_id, 1420)])
    whole, _ = await events(world, org)
    assert len(whole) == 9
    read, page = [], await events(world, org, "limit=4")
    while True:
        read += page[0]
        if not page[1]["has_more"]:
            break
        page = await events(world, org, f"limit=4&after={page[1]['next_after']}")
    assert read == whole
    assert (await events(world, org, f"after={whole[6]['id']}"))[0] == whole[7:]
    assert await events(world, org, f"after={whole[8]['id']}") == (
        [],
        {"limit": 50, "next_after": whole[8]["id"], "has_more": False},
    )


async def test_a_late_commit_is_never_passed_over(world: World) -> None:
    """A transaction that tells first and commits last: whoever tells meanwhile waits for it, and so does the reader."""
    org = await world.org()
    slow, fast = await world.placed(org), await world.placed(org)
    async with world.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await told(connection, slow)
        other = asyncio.create_task(tell_alone(world, fast))
        await until_blocked(world)
        assert await events(world, org) == ([], {"limit": 50, "next_after": None, "has_more": False})
        assert not other.done()
        await transaction.commit()
        await other
    said, _ = await events(world, org)
    assert [one["data"]["id"] for one in said] == [str(slow), str(fast)]


async def test_a_transaction_that_fails_leaves_no_gap(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    async with world.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await told(connection, call_id)
        await transaction.rollback()
    await tell_alone(world, call_id)
    assert await world.pool.fetchval("SELECT array_agg(position) FROM customer_events") == [1]


async def test_another_orgs_events_are_not_in_it(world: World) -> None:
    mine, theirs = await world.org(), await world.org()
    call_id = await world.placed(theirs)
    await world.feed("call.events", failed(theirs, call_id))
    await world.feed("wallet.events", debited(theirs, call_id, 0))
    [said], _ = await events(world, theirs)
    assert (await events(world, mine))[0] == []
    answer = await world.ask("GET", f"/api/v1/events?after={said['id']}", headers=mine.auth)
    assert (answer.status, answer.body["error"]["param"]) == (400, "after")


@pytest.mark.parametrize("query", ["after=1", "after=", f"after=evt_{uuid4().hex}", "after=evt_%00", "limit=0"])
async def test_what_is_no_event_is_refused(lasting: World, caller: Org, query: str) -> None:
    answer = await lasting.ask("GET", f"/api/v1/events?{query}", headers=caller.auth)
    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_request")


async def test_a_low_balance_is_told_once_and_numbered_per_org(world: World) -> None:
    org = await world.org()
    first, second = low_balance(org, 9_900), low_balance(org, 8_000)
    await world.feed("wallet.events", first, first)
    await world.feed("wallet.events", credited(org, 1_000), second)
    before = await world.dump()
    await world.feed("wallet.events", first, second)
    assert await world.dump() == before
    said, _ = await events(world, org)
    assert [(one["type"], one["sequence"], one["data"]) for one in said] == [
        ("wallet.low_balance", 1, {"balance_paise": 9_900, "threshold_paise": 10_000}),
        ("wallet.low_balance", 2, {"balance_paise": 8_000, "threshold_paise": 10_000}),
    ]
    assert said == await webhook_bodies(world)


async def until_blocked(world: World) -> None:
    """Somebody waits for a lock."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(5):
        while not await world.pool.fetchval(asked):
            await asyncio.sleep(0.005)


async def webhook_bodies(world: World) -> list[dict[str, Any]]:
    """What a dispatcher that speaks the published contract makes of `customer.events`."""
    rows = await world.pool.fetch("SELECT payload FROM outbox WHERE topic = 'customer.events' ORDER BY id")
    return [webhook_body(decode(row["payload"])) for row in rows]


def webhook_body(said: Event) -> dict[str, Any]:
    of_call = isinstance(said.data, CustomerCallEvent)
    data = said.data.call if of_call else said.data.model_dump(mode="json", exclude={"org_id"})  # type: ignore[attr-defined]
    return {
        "id": f"evt_{said.id.hex}",
        "type": said.type.name.removeprefix("customer."),
        "timestamp": said.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "org_id": str(said.org_id),
        "sequence": said.sequence,
        "data": data,
    }


def low_balance(org: Org, balance_paise: int) -> Event:
    org.events += 1
    data = WalletLowBalance(org_id=org.id, balance_paise=balance_paise, threshold_paise=10_000)
    return event(org, data, sequence=org.events)


async def told(connection: Connection, call_id: UUID) -> None:
    """Tells something of a call in the running transaction."""
    call = (await queries.locked(connection, [call_id]))[call_id]
    at: datetime = now()
    raised = type(call)(**{name: getattr(call, name) for name in call.__slots__} | {"customer_sequence": 1})
    await tell.tell(connection, [Notice("call.dialing", raised)], at=at)


async def tell_alone(world: World, call_id: UUID) -> None:
    async with world.pool.acquire() as connection, connection.transaction():
        await told(connection, call_id)
