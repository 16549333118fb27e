"""Database connections that break in the middle: a call is placed once and answered, a question is asked again, and
what can't be done is a 503 that says when to come back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from cualify_api.web import again
from cualify_shared.database import Pool
from tests.api.world import Answer, Org, World, failed, running
from tests.support.breaking_wire import Break, Wire, breaking_wire
from tests.support.databases import MakeDatabase
from tests.support.platform import until

WAITING = """
SELECT count(*)
FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
END_ALL_OTHERS = """
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
BEGIN = b"BEGIN"


@dataclass(slots=True)
class Wired:
    """An api whose connections to its database may break; `pool` is on another wire."""

    world: World
    wire: Wire
    pool: Pool

    async def somebody_waits_for_a_lock(self) -> bool:
        return bool(await self.pool.fetchval(WAITING))

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.pool.fetch(query)]


@pytest_asyncio.fixture(loop_scope="session")
async def wired(database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]]) -> AsyncIterator[Wired]:
    dsn = await database("cualify_api")
    pool = await pool_for(dsn)
    async with breaking_wire(dsn) as (wire, over_it):
        through = await pool_for(over_it)
        async with running(through) as world:
            yield Wired(world, wire, pool)
        through.terminate()


async def place_many(world: World, org: Org, count: int) -> list[Answer]:
    def one(n: int) -> Awaitable[Answer]:
        more = {"external_id": f"lead-{n}"} if n % 2 else {"metadata": {"n": str(n)}}
        return world.place(org, to_e164=f"+9198{n:08d}", headers={"Idempotency-Key": f"k{n}"}, **more)

    return list(await asyncio.gather(*map(one, range(count))))


async def each_is_there_once(wired: Wired, org: Org, answers: list[Answer]) -> None:
    """Call, hold, outbox, timeline, count, and answer under the key: one of each for each 201."""
    placed = {answer.body["data"]["id"] for answer in answers}
    assert [answer.status for answer in answers] == [201] * len(placed)
    assert not any("Idempotency-Replayed" in answer.headers for answer in answers)
    read = wired.rows
    assert [str(row[0]) for row in await read("SELECT id FROM calls ORDER BY id")] == sorted(placed)
    assert await read("SELECT granted, held FROM org_credit") == [(10_000_000, 3000 * len(placed))]
    assert sorted(row[0] for row in await read("SELECT key FROM outbox")) == sorted(placed)
    assert sorted(str(row[0]) for row in await read("SELECT call_id FROM call_events")) == sorted(placed)
    assert await read("SELECT status, calls FROM call_counts") == [("queued", len(placed))]
    kept = await read("SELECT call_id, answer FROM idempotency_keys")
    assert sorted(str(call_id) for call_id, _ in kept) == sorted(placed)
    assert sorted(answer["data"]["id"] for _, answer in kept) == sorted(placed)
    assert await wired.pool.fetchval("SELECT taken FROM rate_windows WHERE org_id = $1", org.id) == len(placed)


@pytest.mark.parametrize("how", list(Break), ids=lambda how: how.name.lower())
async def test_whatever_becomes_of_a_commit_each_call_is_placed_once_and_answered(wired: Wired, how: Break) -> None:
    org = await wired.world.org()
    wired.wire.arm(how, 1, 2)
    asking = asyncio.create_task(place_many(wired.world, org, 20))
    if how in (Break.LATE, Break.NEVER):
        await until(wired.somebody_waits_for_a_lock, "the batch waits for the transaction that it has lost")
        wired.wire.go_on.set()
    answers = await asking
    assert wired.wire.broken == 2
    await each_is_there_once(wired, org, answers)
    again = await place_many(wired.world, org, 20)
    assert [answer.body for answer in again] == [answer.body for answer in answers]
    assert {answer.headers["Idempotency-Replayed"] for answer in again} == {"true"}


async def test_commits_lost_in_a_row_are_one_call(wired: Wired) -> None:
    org = await wired.world.org()
    wired.wire.arm(Break.AFTER, 1, 2, 3)
    answers = await place_many(wired.world, org, 3)
    assert wired.wire.broken == 3
    await each_is_there_once(wired, org, answers)


async def test_a_wallet_for_five_calls_is_not_asked_for_a_sixth_by_lost_commits(wired: Wired) -> None:
    org = await wired.world.org(granted_paise=5 * 3000 + 2999)
    wired.wire.arm(Break.AFTER, 1, 2, 3)
    answers = await place_many(wired.world, org, 12)
    assert wired.wire.broken == 3
    assert sorted(answer.status for answer in answers) == [201] * 5 + [402] * 7
    assert await wired.rows("SELECT granted, held FROM org_credit") == [(17_999, 15_000)]
    assert await wired.pool.fetchval("SELECT count(*) FROM calls") == 5
    assert await wired.pool.fetchval("SELECT count(*) FROM outbox") == 5
    assert await wired.pool.fetchval("SELECT count(*) FROM idempotency_keys") == 12


@pytest.mark.parametrize(
    "message", [b"take_requests", BEGIN, b"FROM org_credit", b"held AS", b"INTO outbox"], ids=lambda text: text.decode()
)
async def test_a_batch_that_is_cut_anywhere_is_placed_again(wired: Wired, message: bytes) -> None:
    org = await wired.world.org()
    wired.wire.arm(Break.BEFORE, 1, needle=message)
    await wired.world.pool.expire_connections()  # A new connection has every statement to prepare, and so to send.
    answers = await place_many(wired.world, org, 3)
    assert wired.wire.broken == 1
    await each_is_there_once(wired, org, answers)


async def test_sessions_that_the_server_ends_are_no_failure(wired: Wired) -> None:
    """As when PostgreSQL is restarted, or an operator ends its sessions."""
    org = await wired.world.org()
    async with wired.pool.acquire() as beside, beside.transaction():
        await beside.execute("SELECT FROM org_credit FOR UPDATE")
        asking = asyncio.create_task(place_many(wired.world, org, 20))
        await until(wired.somebody_waits_for_a_lock, "the batch is in its transaction")
        await beside.execute(END_ALL_OTHERS)
    await each_is_there_once(wired, org, await asking)


async def test_what_stays_in_doubt_is_told_with_the_calls_id(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "PATIENCE_SEC", 0.1)
    async with running(wired.world.pool) as world:
        org = await world.org()
        wired.wire.arm(Break.AFTER, 1, then_dead=True)
        answer = await world.place(org, headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.body["error"]["code"]) == (503, "internal_error")
        assert answer.headers["Retry-After"] == "1"
        call_id = answer.body["error"]["details"]["call_id"]
        wired.wire.dead = False
        assert (await world.ask("GET", f"/api/v1/calls/{call_id}", headers=org.auth)).status == 200
        repeated = await world.place(org, headers={"Idempotency-Key": "k"})
        assert (repeated.status, repeated.body["data"]["id"]) == (201, call_id)
        assert await wired.pool.fetchval("SELECT count(*) FROM calls") == 1


async def test_without_a_database_each_batch_is_tried_for_a_while_and_the_next_once(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "PATIENCE_SEC", 0.3)
    async with running(wired.world.pool) as world:
        org = await world.org()
        assert (await world.place(org)).status == 201
        wired.wire.die()
        tried = []
        for _ in range(3):
            before = wired.wire.connections
            answer = await world.place(org)
            tried.append(wired.wire.connections - before)
            assert (answer.status, answer.body["error"]["code"]) == (503, "internal_error")
            assert "details" not in answer.body["error"]
            assert answer.headers["Retry-After"] == "1"
        assert tried[0] > 2
        assert tried[1:] == [1, 1]
        wired.wire.dead = False
        assert (await world.place(org)).status == 201
        assert await wired.pool.fetchval("SELECT count(*) FROM calls") == 2
        assert await wired.rows("SELECT held FROM org_credit") == [(6000,)]


@pytest.mark.parametrize("path", ["/api/v1/calls", "/api/v1/contacts", "/api/v1/events", "/api/v1/wallet"])
async def test_a_question_is_asked_three_times(wired: Wired, path: str) -> None:
    org = await wired.world.org()
    whole = await wired.world.ask("GET", path, headers=org.auth)
    wired.wire.arm(Break.BEFORE, 1, 2, needle=_asked_by(path))
    await wired.world.pool.expire_connections()
    cut = await wired.world.ask("GET", path, headers=org.auth)
    assert (cut.status, cut.body, wired.wire.broken) == (200, whole.body, 2)
    left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in (whole, cut)]
    assert left[1] == left[0] - 1
    wired.wire.arm(Break.BEFORE, 1, 2, 3, needle=_asked_by(path))
    await wired.world.pool.expire_connections()
    lost = await wired.world.ask("GET", path, headers=org.auth)
    assert (lost.status, lost.body["error"]["code"], lost.headers["Retry-After"]) == (503, "internal_error", "1")
    assert wired.wire.broken == 3


def _asked_by(path: str) -> bytes:
    return {"/api/v1/events": b"FROM customer_events", "/api/v1/wallet": b"FROM org_credit"}.get(path, BEGIN)


async def test_a_stream_goes_on_when_the_database_is_back(wired: Wired) -> None:
    org = await wired.world.org()
    call_id = await wired.world.placed(org)
    headers = org.auth | {"Accept": "text/event-stream"}
    async with wired.world.http.get(f"{wired.world.url}/api/v1/calls/{call_id}/events", headers=headers) as stream:
        assert (await stream.content.readuntil(b"event: queued")).startswith(b"retry:")
        wired.wire.arm(Break.BEFORE, 1, 2, needle=b"")
        await until(lambda: _broke(wired.wire, 2), "two looks for news were cut off")
        await wired.world.feed_all([failed(org, call_id)])
        rest = await asyncio.wait_for(stream.content.read(), 10)
    assert b"event: busy" in rest


async def _broke(wire: Wire, times: int) -> bool:
    return wire.broken >= times


async def test_a_key_that_can_not_be_looked_up_is_looked_up_again(wired: Wired) -> None:
    org = await wired.world.org()
    wired.wire.arm(Break.BEFORE, 1, needle=b"api_keys")
    await wired.world.pool.expire_connections()
    assert (await wired.world.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200
    assert wired.wire.broken == 1


async def test_a_wish_to_cancel_whose_commit_is_lost_leaves_once(wired: Wired) -> None:
    org = await wired.world.org()
    call_id = await wired.world.placed(org)
    wired.wire.arm(Break.AFTER, 1)
    answer = await wired.world.ask("POST", f"/api/v1/calls/{call_id}/cancel", headers=org.auth)
    assert (answer.status, wired.wire.broken) == (200, 1)
    assert [event["type"] for event in answer.body["data"]["events"]] == ["queued", "cancel-requested"]
    assert await wired.pool.fetchval("SELECT count(*) FROM outbox") == 2


@pytest.mark.parametrize("how", [Break.BEFORE, Break.AFTER])
async def test_a_key_whose_first_request_was_cut_off_is_free_at_once(wired: Wired, how: Break) -> None:
    org = await wired.world.org()
    body, headers = {"phone_e164": "+919812345678", "name": "Riya"}, org.auth | {"Idempotency-Key": "k"}
    wired.wire.arm(how, 1)
    lost = await wired.world.ask("POST", "/api/v1/contacts", json=body, headers=headers)
    assert (lost.status, lost.body["error"]["code"], lost.headers["Retry-After"]) == (503, "internal_error", "1")
    again = await wired.world.ask("POST", "/api/v1/contacts", json=body, headers=headers)
    assert (again.status, again.body["data"]["name"]) == (200, "Riya")
    assert await wired.pool.fetchval("SELECT count(*) FROM contacts") == 1
