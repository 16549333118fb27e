"""GET /calls among ten thousand calls and among a million (CALLS=10000000 for ten): what it costs does not grow.

CALLS_DATABASE_URL names a database that is filled once and kept (see tests/support/many_calls.py).

Over HTTP, as a customer asks: the median of a request, the filters with other values each time. Beside them the
documented slow path, a deep offset, and what PostgreSQL does for each (EXPLAIN).
"""

import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from cualify_api.calls import kept_sums, listing, totals
from cualify_api.calls.listing import Wanted
from cualify_api.web.paging import TOP, Cursor
from cualify_shared.clock import rfc3339
from cualify_shared.database import Pool, create_pool, migrate
from tests.api.world import Org, World, running
from tests.support.databases import Databases
from tests.support.many_calls import UNTIL, Seeded, seed_calls, seeded_before

FEW = 10_000
MANY = int(os.environ.get("CALLS", "1000000"))
KEPT = os.environ.get("CALLS_DATABASE_URL")
REQUESTS = 40

FORGET = "DELETE FROM kept_sums WHERE org_id = $1 AND kind = 'metadata' AND label = call_label($2, $3)"

UNLIMITED = """
INSERT INTO org_plans (
    org_id, sequence, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls
)
VALUES ($1, 1, 'scale', 10, 1, 1000000, 10)
ON CONFLICT (org_id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Place:
    """An api over so many calls, asked as the largest org."""

    world: World
    org: Org
    seeded: Seeded
    sample: list[dict[str, Any]]

    def queries(self) -> dict[str, Callable[[int], dict[str, Any]]]:
        """What is asked, the n-th time."""

        def one(n: int) -> dict[str, Any]:
            return self.sample[n * 7 % len(self.sample)]

        middle = Cursor(self.sample[0]["created_at"], self.sample[0]["id"]).text()
        return {
            "the newest 50": lambda n: {},
            "a cursor in the middle": lambda n: {"cursor": middle},
            "status=completed": lambda n: {"status": "completed"},
            "status=canceled (0.4 %)": lambda n: {"status": "canceled"},
            "status=busy,no_answer": lambda n: {"status": "busy,no_answer"},
            "agent_id": lambda n: {"agent_id": str(one(n)["agent_id"])},
            "agent_id, status=canceled": lambda n: {"agent_id": str(one(n)["agent_id"]), "status": "canceled"},
            "created: three days": lambda n: {
                "created_after": rfc3339(one(n)["created_at"] - timedelta(days=3)),
                "created_before": rfc3339(one(n)["created_at"]),
            },
            "created: half a year, agent_id": lambda n: {
                "created_after": rfc3339(UNTIL - timedelta(days=180, minutes=n)),
                "agent_id": str(one(n)["agent_id"]),
            },
            "to_e164": lambda n: {"to_e164": one(n)["to_e164"]},
            "external_id": lambda n: {"external_id": one(n)["external_id"]},
            "metadata[crm_lead_id] (one call)": lambda n: {"metadata[crm_lead_id]": one(n)["metadata"]["crm_lead_id"]},
            "metadata[lead_source] (a quarter)": lambda n: {"metadata[lead_source]": one(n)["metadata"]["lead_source"]},
            "the same, three days": lambda n: {
                "metadata[lead_source]": one(n)["metadata"]["lead_source"],
                "created_after": rfc3339(one(n)["created_at"] - timedelta(days=3)),
                "created_before": rfc3339(one(n)["created_at"]),
            },
            "the same, status=busy": lambda n: {
                "metadata[lead_source]": one(n)["metadata"]["lead_source"],
                "status": "busy",
            },
        }


@asynccontextmanager
async def place(databases: Databases, calls: int) -> AsyncIterator[Place]:
    dsn = KEPT if KEPT and calls == MANY else await databases.fresh("cualify_api")
    await migrate(dsn, package="cualify_api")
    pool = await create_pool(dsn, application_name="bench", size=5)
    started = time.perf_counter()
    seeded = (await seeded_before(pool) or await seed_calls(pool, calls))[0]
    size = await pool.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
    print(f"\n{calls:,} calls seeded in {time.perf_counter() - started:.0f} s, {size}")
    await pool.execute(UNLIMITED, seeded.org_id)
    rows = await pool.fetch(
        "SELECT * FROM calls WHERE org_id = $1 AND created_at < $2 ORDER BY created_at DESC, id DESC LIMIT 500",
        seeded.org_id,
        UNTIL - timedelta(days=180),
    )
    async with running(pool) as world:
        key = (await world.admin("POST", f"/orgs/{seeded.org_id}/keys", {}))["key"]
        world.documented = False
        org = Org(seeded.org_id, str(seeded.agent_ids[0]), key)
        yield Place(world, org, seeded, [dict(row) for row in rows])
    await pool.close()


@pytest.mark.bench
async def test_a_list_costs_the_same_however_many_calls_there_are(databases: Databases) -> None:
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}")
    async with place(databases, FEW) as few, place(databases, MANY) as many:
        there = few.queries()
        for source in ("google_ads", "meta_ads"):
            await first_asked(many, source)
            await first_asked_beside_a_status(many, source)
        print(f"{'median of a request, ms':<40}{FEW:>12,}{MANY:>14,}{'ratio':>8}{'total':>12}")
        for name, query in many.queries().items():
            a, _ = await median_ms(few, there[name])
            b, total = await median_ms(many, query)
            print(f"{name:<40}{a:>12.2f}{b:>14.2f}{b / a:>8.2f}{total:>12}")
        deep = many.seeded.calls // 2
        c, _ = await median_ms(many, lambda n: {"offset": deep}, requests=5)
        print(f"{f'offset={deep} (slow, as documented)':<40}{'':>12}{c:>14.2f}")
        await explained(few)
        await explained(many)


async def first_asked(place: Place, source: str) -> None:
    """What it costs whoever asks first for a key that a quarter of all calls share, before sums are kept of it."""
    shared = kept_sums.a_label({"lead_source": source})
    await place.world.pool.execute(FORGET, place.org.id, shared.key, source)
    took, total = await median_ms(place, lambda n: {"metadata[lead_source]": source}, requests=1, warm=0)
    kept = await place.world.pool.fetchval("SELECT count(*) FROM kept_sums WHERE org_id = $1", place.org.id)
    print(
        f"metadata[lead_source]={source}, asked for the first time: {took:,.0f} ms, total {total}, {kept:,} sums kept"
    )


async def first_asked_beside_a_status(place: Place, source: str) -> None:
    """The same with a status: each request counts a part, and once all is counted the total is exact."""
    for table in ("kept_counts", "kept_count_marks"):
        forget = f"DELETE FROM {table} WHERE org_id = $1 AND label = call_label($2, $3)"
        await place.world.pool.execute(forget, place.org.id, "lead_source", source)
    took: list[str] = []
    for _ in range(20):
        query = {"metadata[lead_source]": source, "status": "busy"}
        milliseconds, total = await median_ms(place, lambda n: query, requests=1, warm=0)  # noqa: B023
        took.append(f"{milliseconds:,.0f}")
        if not total.endswith("+"):
            break
    kept = await place.world.pool.fetchval("SELECT count(*) FROM kept_counts WHERE org_id = $1", place.org.id)
    print(f"the same, status=busy, asked until it was exact: {', '.join(took)} ms, total {total}, {kept:,} counts kept")


async def median_ms(
    place: Place, query: Callable[[int], dict[str, Any]], *, requests: int = REQUESTS, warm: int = 2
) -> tuple[float, str]:
    """The median, after `warm` requests; and the total that the last one told."""
    took, total = [], ""
    for n in range(requests + warm):
        path = f"/api/v1/calls?{urlencode(query(n))}"
        started = time.perf_counter()
        answer = await place.world.ask("GET", path, headers=place.org.auth)
        took.append((time.perf_counter() - started) * 1000)
        assert answer.status == 200
        pagination = answer.body["pagination"]
        total = f"{pagination['total']:,}" + ("" if pagination["total_is_exact"] else "+")
    return statistics.median(took[warm:]), total


async def explained(place: Place) -> None:
    """What PostgreSQL does for each kind of page and total."""
    one = place.sample[0]
    always, org_id = totals.ALWAYS, place.org.id
    days = (UNTIL - timedelta(days=90), UNTIL)

    def page(wanted: Wanted, statement: str, *more: object) -> tuple[str, tuple[object, ...]]:
        page = listing._Page(TOP, 51, 0)
        return statement, (*listing._arguments(org_id, wanted, page, statement), *more)

    lead = one["metadata"]["crm_lead_id"]
    for name, (statement, arguments) in {
        "the newest": page(Wanted(), listing.LIST),
        "status=busy,canceled": page(Wanted(statuses=("busy", "canceled")), listing.LIST_BY_STATUS),
        "agent_id": page(Wanted(agent_id=one["agent_id"]), listing.LIST_BY_STATUS),
        "to_e164": page(Wanted(to_e164=one["to_e164"]), listing.LIST_TO_NUMBER, one["to_e164"]),
        "metadata[crm_lead_id]": page(
            Wanted(metadata={"crm_lead_id": lead}), listing.LIST_LABELLED, "crm_lead_id", lead, 2**62
        ),
        "total of a key that a quarter shares": (
            kept_sums.TOTAL_LABELLED,
            (org_id, "lead_source", one["metadata"]["lead_source"], always.start, always.end),
        ),
        "total of calls to a number": (
            kept_sums.TOTAL_TO_NUMBER,
            (org_id, "to_e164", one["to_e164"], always.start, always.end),
        ),
        "total by status": (totals.TOTAL_BY_STATUS, (org_id, ["completed"])),
        "total by agent": (
            totals.TOTAL_KEPT,
            (org_id, ["completed"], one["agent_id"], always.start, always.end, always.start, always.end),
        ),
        "total of calls under way": (totals.TOTAL_INDEXED, (org_id, ["queued"], one["agent_id"], *days)),
    }.items():
        print(f"\n-- {name}, of {place.seeded.calls:,} calls")
        print("\n".join(await plan(place.world.pool, statement, arguments)))


async def plan(pool: Pool, statement: str, arguments: tuple[object, ...]) -> list[str]:
    """EXPLAIN ANALYZE, without the lines that differ from run to run."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(totals.PLAN_AFRESH)
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS) {statement}", *arguments)
    return [row[0] for row in rows]
