"""GET /calls: every filter and page shows what a plain look at all calls would show, with the exact total."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from cualify_api.calls import kept_counts, kept_sums, listing, totals
from cualify_api.calls.call import STATUSES
from cualify_api.calls.listing import Wanted
from cualify_api.web.paging import TOP, Cursor
from cualify_shared.clock import rfc3339
from cualify_shared.database import create_pool
from tests.api.world import Org, World, debited, failed, life, running
from tests.support.databases import Databases
from tests.support.many_calls import seed_calls

AFTER_ALL = datetime(2100, 1, 1, tzinfo=UTC)
UNLIMITED = """
INSERT INTO org_plans (
    org_id, sequence, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls
)
VALUES ($1, 1, 'scale', 10, 1, 1000000, 10)
"""


@dataclass(slots=True)
class Seeded:
    """A database with 3,000 calls, and the largest org's as plain rows, newest first."""

    world: World
    org: Org
    calls: list[dict[str, Any]]

    async def page(self, **query: Any) -> tuple[list[str], dict[str, Any]]:
        answer = await self.world.ask("GET", f"/api/v1/calls?{urlencode(query)}", headers=self.org.auth)
        assert answer.status == 200, answer
        return [call["id"] for call in answer.body["data"]], answer.body["pagination"]

    async def all_pages(self, **query: Any) -> list[str]:
        """Walks along the cursors."""
        found, pagination = await self.page(**query)
        while pagination["has_more"]:
            more, pagination = await self.page(**query, cursor=pagination["next_cursor"])
            found += more
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seeded(databases: Databases) -> AsyncIterator[Seeded]:
    pool = await create_pool(await databases.fresh("cualify_api"), application_name="test", size=5)
    orgs = await seed_calls(pool, 3000)
    async with running(pool) as world:
        key = (await world.admin("POST", f"/orgs/{orgs[0].org_id}/keys", {}))["key"]
        await pool.execute(UNLIMITED, orgs[0].org_id)
        rows = await pool.fetch(
            "SELECT * FROM calls WHERE org_id = $1 ORDER BY created_at DESC, id DESC", orgs[0].org_id
        )
        yield Seeded(world, Org(orgs[0].org_id, str(orgs[0].agent_ids[0]), key), [dict(row) for row in rows])
    await pool.close()


def test_the_seed_has_every_kind(seeded: Seeded) -> None:
    assert len(seeded.calls) == 2400
    assert {"queued", "in_progress", "completed", "busy", "canceled"} <= {call["status"] for call in seeded.calls}
    assert len({call["agent_id"] for call in seeded.calls}) == 5


async def test_any_combination_of_filters_shows_what_matches_and_says_how_many(seeded: Seeded) -> None:
    chance = random.Random(7)
    some = 0
    for _ in range(150):
        query, matches = a_query(seeded, chance)
        expected = [str(call["id"]) for call in seeded.calls if all(match(call) for match in matches)]
        limit, offset = chance.choice((1, 7, 50, 100)), chance.choice((0, 0, 3, len(expected), 5000))
        found, pagination = await seeded.page(**query, limit=limit, offset=offset)
        assert found == expected[offset : offset + limit], query
        assert (pagination["total"], pagination["total_is_exact"]) == (len(expected), True), query
        assert pagination["has_more"] == (offset + limit < len(expected)), query
        some += bool(expected)
    assert some > 75, "most queries find something"


async def test_the_cursors_lead_through_every_list_once(seeded: Seeded) -> None:
    chance = random.Random(8)
    for _ in range(12):
        query, matches = a_query(seeded, chance)
        expected = [str(call["id"]) for call in seeded.calls if all(match(call) for match in matches)]
        assert await seeded.all_pages(**query, limit=100 if len(expected) > 200 else 9) == expected


async def test_a_page_from_a_cursor_in_the_depth_reads_no_more_than_the_first(seeded: Seeded) -> None:
    far = seeded.calls[-200]
    for statement in (listing.LIST, listing.LIST_BY_STATUS):
        top, deep = [
            await pages_read(seeded, statement, start) for start in (TOP, Cursor(far["created_at"], far["id"]))
        ]
        assert deep <= top + 6, (top, deep)


async def pages_read(seeded: Seeded, statement: str, start: Cursor) -> int:
    """How many pages of tables and indexes PostgreSQL looks at for one call of a list."""
    arguments = listing._arguments(
        seeded.org.id, Wanted(statuses=("completed",)), listing._Page(start, 1, 0), statement
    )
    if statement == listing.LIST:
        arguments = listing._arguments(seeded.org.id, Wanted(), listing._Page(start, 1, 0), statement)
    async with seeded.world.pool.acquire() as connection, connection.transaction():
        await connection.execute(totals.PLAN_AFRESH + "; SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        [[explained]] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
    plan = explained[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_call_placed_between_two_pages_moves_nothing(world: World) -> None:
    org = await world.org()
    first = [str(await world.placed(org)) for _ in range(4)]

    async def page(query: str) -> Any:
        return (await world.ask("GET", f"/api/v1/calls?{query}", headers=org.auth)).body

    top = await page("limit=2")
    await world.placed(org)
    rest = await page(f"limit=2&cursor={top['pagination']['next_cursor']}")
    assert [call["id"] for call in top["data"] + rest["data"]] == first[::-1]
    assert (rest["pagination"]["total"], rest["pagination"]["next_cursor"]) == (5, None)


@pytest.mark.parametrize("step", [1_000_000, 60])
async def test_what_many_calls_share_is_counted_exactly_at_any_time(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """With sums kept from nothing on, and, asked again, from what was kept before."""
    monkeypatch.setattr(kept_sums, "FEW", 5)
    monkeypatch.setattr(kept_sums, "STEP", step)
    await seeded.world.pool.execute("TRUNCATE kept_sums")
    chance = random.Random(step)
    for _ in range(60):
        one, other, names = chance.choice(seeded.calls), chance.choice(seeded.calls), ("after", "before")
        label = chance.choice(("metadata[lead_source]", "metadata[crm_lead_id]", "to_e164"))
        key = label.removeprefix("metadata[").rstrip("]")
        value = (one["metadata"] | {"to_e164": one["to_e164"]})[key]
        same = [call for call in seeded.calls if (call["metadata"] | {"to_e164": call["to_e164"]})[key] == value]
        between = sorted(a_time(chance, call["created_at"]) for call in (one, other))
        span = {f"created_{name}": at for name, at in zip(names, between, strict=True) if chance.random() < 0.6}
        start, end = span.get("created_after", seeded.calls[-1]["created_at"]), span.get("created_before", AFTER_ALL)
        expected = [str(call["id"]) for call in same if start <= call["created_at"] < end]
        query = {label: value, **{name: rfc3339(at) for name, at in span.items()}}
        found, pagination = await seeded.page(**query, limit=100)
        assert found == expected[:100], query
        assert (pagination["total"], pagination["total_is_exact"]) == (len(expected), True), query
    kept = await seeded.world.pool.fetch(
        "SELECT kind, count(DISTINCT label) FROM kept_sums GROUP BY kind ORDER BY kind"
    )
    assert [row[0] for row in kept] == ["metadata", "to_e164"]


async def test_nothing_is_kept_of_what_few_share_or_of_the_hour_that_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = await world.org()
    for _ in range(4):
        await world.placed(org, metadata={"campaign": "diwali"})
    monkeypatch.setattr(kept_sums, "FEW", 3)

    async def total() -> int:
        answer = await world.ask("GET", "/api/v1/calls?metadata[campaign]=diwali", headers=org.auth)
        found: int = answer.body["pagination"]["total"]
        return found

    assert (await total(), await world.pool.fetchval("SELECT count(*) FROM kept_sums")) == (4, 0)
    for table in ("calls", "call_labels"):
        await world.pool.execute(f"UPDATE {table} SET created_at = created_at - interval '3 hours'")
    assert (await total(), await world.pool.fetchval("SELECT sum(calls) FROM kept_sums")) == (4, 4)
    await world.placed(org, metadata={"campaign": "diwali"})
    assert (await total(), await world.pool.fetchval("SELECT sum(calls) FROM kept_sums")) == (5, 4)
    other = await world.org()
    answer = await world.ask("GET", "/api/v1/calls?metadata[campaign]=diwali", headers=other.auth)
    assert answer.body["pagination"]["total"] == 0


async def test_many_who_ask_at_once_keep_the_same_sums(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_sums, "FEW", 5)
    monkeypatch.setattr(kept_sums, "STEP", 100)
    await seeded.world.pool.execute("TRUNCATE kept_sums")
    query = {"metadata[lead_source]": "referral"}
    expected = sum(call["metadata"]["lead_source"] == "referral" for call in seeded.calls)
    pages = await asyncio.gather(*(seeded.page(**query) for _ in range(30)))
    assert {pagination["total"] for _, pagination in pages} == {expected}
    assert (await seeded.page(**query))[1]["total"] == expected


def forget_counts(monkeypatch: pytest.MonkeyPatch, *, step: int, walked: int = 300) -> None:
    """Little is much here."""
    monkeypatch.setattr(listing, "FEW", 5)
    monkeypatch.setattr(kept_counts, "WORTH", 5)
    monkeypatch.setattr(kept_counts, "WALKED", walked)
    monkeypatch.setattr(kept_counts, "STEP", step)
    monkeypatch.setattr(kept_counts, "KEEPING_SEC", 30)


@pytest.mark.parametrize("step", [1_000_000, 40])
async def test_what_many_calls_share_beside_other_filters_is_counted_exactly(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    forget_counts(monkeypatch, step=step)
    await seeded.world.pool.execute("TRUNCATE kept_counts, kept_count_marks")
    chance, queries = random.Random(step), 0
    while queries < 120:
        query, matches = a_query(seeded, chance)
        shares = [name for name in query if name.startswith("metadata[") or name == "to_e164"]
        if len(shares) != 1 or not {"status", "agent_id"} & query.keys():
            continue
        queries += 1
        expected = [str(call["id"]) for call in seeded.calls if all(match(call) for match in matches)]
        found, pagination = await seeded.page(**query, limit=50)
        assert found == expected[:50], query
        assert (pagination["total"], pagination["total_is_exact"]) == (len(expected), True), query
    kept = await seeded.world.pool.fetch("SELECT DISTINCT kind FROM kept_counts ORDER BY kind")
    assert [row["kind"] for row in kept] == ["metadata", "to_e164"]


async def test_many_who_ask_at_once_count_each_call_once(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_counts(monkeypatch, step=100)
    await seeded.world.pool.execute("TRUNCATE kept_counts, kept_count_marks")
    query = {"metadata[lead_source]": "referral", "status": "completed"}
    matching = [c for c in seeded.calls if c["metadata"]["lead_source"] == "referral" and c["status"] == "completed"]
    pages = await asyncio.gather(*(seeded.page(**query) for _ in range(30)))
    assert {(page["total"], page["total_is_exact"]) for _, page in pages} == {(len(matching), True)}
    kept = "SELECT sum(calls) FROM kept_counts WHERE grain = $1 AND status = 'completed'"
    assert await seeded.world.pool.fetchval(kept, "hour") == await seeded.world.pool.fetchval(kept, "day") > 0


async def test_a_call_that_is_not_over_is_counted_anew_until_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_counts(monkeypatch, step=1000)
    org = await world.org()
    calls = [await world.placed(org, metadata={"campaign": "diwali"}) for _ in range(20)]
    await world.feed_all([failed(org, call_id) for call_id in calls[:8]])
    for number, call_id in enumerate(calls):
        for table, column in (("calls", "id"), ("call_labels", "call_id")):
            moved = f"UPDATE {table} SET created_at = created_at - make_interval(hours => $2) WHERE {column} = $1"
            await world.pool.execute(moved, call_id, 40 - number)

    async def by_status() -> tuple[int, int, int]:
        return await total("busy"), await total("queued"), await total("completed")

    async def total(status: str) -> int:
        path = f"/api/v1/calls?metadata[campaign]=diwali&status={status}"
        pagination = (await world.ask("GET", path, headers=org.auth)).body["pagination"]
        assert pagination["total_is_exact"]
        return int(pagination["total"])

    async def kept() -> int:
        return int(await world.pool.fetchval("SELECT coalesce(sum(calls), 0) FROM kept_counts WHERE grain = 'hour'"))

    assert (await by_status(), await kept()) == ((8, 12, 0), 8)
    await world.feed_all([failed(org, call_id) for call_id in calls[9:]])
    assert (await by_status(), await kept()) == ((19, 1, 0), 8), (
        "the ninth is not over, and holds up what came after it"
    )
    await world.feed_all(life(org, calls[8], artifacts=()))
    assert (await by_status(), await kept()) == ((19, 0, 1), 20)
    other = await world.org()
    path = "/api/v1/calls?metadata[campaign]=diwali&status=busy"
    assert (await world.ask("GET", path, headers=other.auth)).body["pagination"]["total"] == 0


async def test_where_many_calls_share_a_key_and_other_filters_are_asked_too_the_total_is_a_least_number_and_says_so(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not kept yet is counted up to a bound."""
    forget_counts(monkeypatch, step=1000, walked=50)
    monkeypatch.setattr(listing, "FEW", 100)
    monkeypatch.setattr(kept_counts, "WORTH", 1_000_000)
    await seeded.world.pool.execute("TRUNCATE kept_counts, kept_count_marks")
    query = {"metadata[lead_source]": "google_ads"}
    expected = [str(call["id"]) for call in seeded.calls if call["metadata"]["lead_source"] == "google_ads"]
    assert (await seeded.page(**query))[1]["total"] == len(expected)
    ended = ",".join(status for status in STATUSES if status not in ("queued", "in_progress"))
    there = [str(c["id"]) for c in seeded.calls if c["status"] in ended and str(c["id"]) in set(expected)]
    found, pagination = await seeded.page(**query, status=ended, limit=100)
    assert found == there[:100]
    assert (pagination["total_is_exact"], pagination["has_more"]) == (False, True)
    assert 0 < pagination["total"] <= 100
    assert await seeded.all_pages(**query, limit=100) == expected
    busy = [str(c["id"]) for c in seeded.calls if c["status"] == "canceled" and str(c["id"]) in set(expected)]
    found, pagination = await seeded.page(**query, status="canceled")
    assert (found, pagination["total"], pagination["total_is_exact"]) == (busy, len(busy), True)


async def test_totals_by_agent_and_time_follow_every_change_of_a_call(world: World) -> None:
    org = await world.org()
    calls = [await world.placed(org) for _ in range(6)]
    await world.feed_all([*life(org, calls[0], artifacts=()), failed(org, calls[1]), debited(org, calls[0], 1420)])
    await world.feed("call.events", failed(org, calls[1]), failed(org, calls[2], status="no_answer"))
    await world.feed("call.events", life(org, calls[3])[0])
    for status, total in {"completed": 1, "busy": 1, "no_answer": 1, "dialing": 1, "queued": 2}.items():
        for more in ("", "&created_after=2020-01-01T00:00:00Z", "&created_before=2100-01-01T00:00:00Z"):
            path = f"/api/v1/calls?status={status}&agent_id={org.agent_id}{more}"
            body = (await world.ask("GET", path, headers=org.auth)).body
            assert (len(body["data"]), body["pagination"]["total"]) == (total, total), path


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=completed,ringing", "status"),
        ("status=", "status"),
        ("agent_id=1", "agent_id"),
        ("to_e164=98", "to_e164"),
        ("direction=sideways", "direction"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-05-31T14:22:11", "created_after"),
        ("created_before=0001-01-01T00:00:00%2B05:30", "created_before"),
        ("cursor=xyz", "cursor"),
        ("cursor=f" + "_" * 31, "cursor"),
        ("cursor=" + "A" * 32 + "&offset=1", "offset"),
        ("external_id=%00", "external_id"),
        ("metadata[a]=%00", "metadata"),
        ("metadata[%00]=1", "metadata"),
        ("limit=1.5", "limit"),
        ("offset=-1", "offset"),
    ],
)
async def test_a_wrong_value_is_refused_with_its_name(lasting: World, caller: Org, query: str, param: str) -> None:
    answer = await lasting.ask("GET", f"/api/v1/calls?{query}", headers=caller.auth)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)
    assert answer.body["error"]["details"]["fieldErrors"].keys() == {param}


async def test_an_unknown_parameter_is_passed_over(lasting: World, caller: Org) -> None:
    answer = await lasting.ask("GET", "/api/v1/calls?colour=blue&metadata=x&limit=5", headers=caller.auth)
    assert answer.status == 200


async def test_a_plus_that_was_not_escaped_is_meant(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    path = "/api/v1/calls?to_e164=+919812345678&created_after=2020-01-01T00:00:00+05:30"
    body = (await world.ask("GET", path, headers=org.auth)).body
    assert [call["id"] for call in body["data"]] == [str(call_id)]


def a_query(seeded: Seeded, chance: random.Random) -> tuple[dict[str, Any], list[Callable[[dict[str, Any]], bool]]]:
    """A random query, and what each of its filters means."""
    query: dict[str, Any] = {}
    matches: list[Callable[[dict[str, Any]], bool]] = []
    one, other = chance.choice(seeded.calls), chance.choice(seeded.calls)

    def add(name: str, value: Any, match: Callable[[dict[str, Any]], bool]) -> None:
        query[name] = value
        matches.append(match)

    if chance.random() < 0.4:
        statuses = [*chance.sample(STATUSES, chance.randint(1, 4)), one["status"]]
        add("status", ",".join(statuses), lambda call: call["status"] in statuses)
    if chance.random() < 0.4:
        add("agent_id", str(one["agent_id"]), lambda call: call["agent_id"] == one["agent_id"])
    if chance.random() < 0.2:
        add("to_e164", one["to_e164"], lambda call: call["to_e164"] == one["to_e164"])
    if chance.random() < 0.4:
        after = a_time(chance, min(one["created_at"], other["created_at"]))
        add("created_after", rfc3339(after), lambda call: call["created_at"] >= after)
    if chance.random() < 0.4:
        before = a_time(chance, max(one["created_at"], other["created_at"]))
        add("created_before", rfc3339(before), lambda call: call["created_at"] < before)
    if chance.random() < 0.1:
        add("external_id", one["external_id"], lambda call: call["external_id"] == one["external_id"])
    if chance.random() < 0.15:
        add("direction", "outbound", lambda call: True)
    if chance.random() < 0.03:
        add("direction", "inbound", lambda call: False)
    if chance.random() < 0.3:
        source = one["metadata"]["lead_source"]
        add("metadata[lead_source]", source, lambda call: call["metadata"]["lead_source"] == source)
    if chance.random() < 0.1:
        lead = one["metadata"]["crm_lead_id"]
        add("metadata[crm_lead_id]", lead, lambda call: call["metadata"]["crm_lead_id"] == lead)
    return query, matches


def a_time(chance: random.Random, near: datetime) -> datetime:
    """To the millisecond, as the API shows times; sometimes a whole hour or day."""
    at = near + chance.choice((timedelta(), timedelta(minutes=chance.randint(-3000, 3000))))
    match chance.randint(0, 3):
        case 0:
            return at.replace(minute=0, second=0, microsecond=0)
        case 1:
            return at.replace(hour=0, minute=0, second=0, microsecond=0)
        case _:
            return at.replace(microsecond=at.microsecond // 1000 * 1000)
