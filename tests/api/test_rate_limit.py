"""120 a minute and org: exact, sliding, over all routes, keys and replicas; what is refused does not count."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from cualify_api.web import auth, flood, rate_limit
from cualify_api.web.flood import Knocks
from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from tests.api.world import Answer, Org, World, plan, running

SHIFT = (
    "UPDATE rate_log SET at = at - make_interval(secs => $1)",
    "UPDATE rate_windows SET last_at = last_at - make_interval(secs => $1)",
)


async def time_passes(pool: Pool, seconds: float) -> None:
    """For the windows: what was, was so much longer ago."""
    for statement in SHIFT:
        await pool.execute(statement, seconds)


async def get(world: World, org: Org, path: str = "/api/v1/wallet") -> Answer:
    return await world.ask("GET", path, headers=org.auth)


async def burst(worlds: Sequence[World], org: Org, count: int) -> Counter[int]:
    answers = await asyncio.gather(*(get(worlds[n % len(worlds)], org) for n in range(count)))
    return Counter(answer.status for answer in answers)


async def test_120_pass_the_121st_is_refused_and_one_passes_when_it_is_told_to(world: World) -> None:
    org = await world.org(per_minute=120)
    for n in range(120):
        answer = await get(world, org)
        assert (answer.status, answer.headers["X-RateLimit-Remaining"]) == (200, str(119 - n))
    await time_passes(world.pool, 20)
    refused = await get(world, org)
    assert (refused.status, refused.body["error"]["code"]) == (429, "too_many_requests")
    after_sec = int(refused.headers["Retry-After"])
    assert 1 <= after_sec <= 40
    await time_passes(world.pool, after_sec)
    assert (await get(world, org)).status == 200


async def test_retry_after_is_no_longer_than_it_has_to_be(world: World) -> None:
    org = await world.org(per_minute=1)
    assert (await get(world, org)).status == 200
    await time_passes(world.pool, 30.5)
    after_sec = int((await get(world, org)).headers["Retry-After"])
    assert after_sec == 30
    await time_passes(world.pool, after_sec - 1)
    again = await get(world, org)
    assert (again.status, again.headers["Retry-After"]) == (429, "1")
    await asyncio.sleep(1)
    assert (await get(world, org)).status == 200


async def test_refused_requests_do_not_count(world: World) -> None:
    org = await world.org(per_minute=5)
    assert await burst([world], org, 5) == {200: 5}
    await time_passes(world.pool, 30)
    for _ in range(3):
        assert await burst([world], org, 50) == {429: 50}
    await time_passes(world.pool, 30)
    assert await burst([world], org, 50) == {200: 5, 429: 45}


async def test_the_window_slides(world: World) -> None:
    org = await world.org(per_minute=10)
    assert await burst([world], org, 6) == {200: 6}
    await time_passes(world.pool, 40)
    assert await burst([world], org, 6) == {200: 4, 429: 2}
    await time_passes(world.pool, 21)
    assert await burst([world], org, 10) == {200: 6, 429: 4}


async def test_of_a_thousand_at_once_120_pass(world: World) -> None:
    org = await world.org(per_minute=120)
    assert await burst([world], org, 1000) == {200: 120, 429: 880}


async def test_three_replicas_are_one_limit(world: World) -> None:
    org = await world.org(per_minute=120)
    async with AsyncExitStack() as stack:
        worlds = [world] + [await stack.enter_async_context(running(world.pool)) for _ in range(2)]
        assert await burst(worlds, org, 300) == {200: 120, 429: 180}
        await time_passes(world.pool, 60)
        assert await burst(worlds, org, 300) == {200: 120, 429: 180}


async def test_all_routes_and_keys_of_an_org_share_one_window(world: World) -> None:
    org = await world.org(per_minute=6)
    other_key = Org(org.id, org.agent_id, (await world.admin("POST", f"/orgs/{org.id}/keys", {}))["key"])
    assert (await world.place(org)).headers["X-RateLimit-Remaining"] == "5"
    assert (await world.place(other_key)).headers["X-RateLimit-Remaining"] == "4"
    assert (await get(world, other_key)).headers["X-RateLimit-Remaining"] == "3"
    assert (await get(world, org, "/api/v1/nowhere")).headers["X-RateLimit-Remaining"] == "2"
    assert (await world.place(org, to_e164="12")).headers["X-RateLimit-Remaining"] == "1"
    assert (await get(world, org, "/api/v1/webhooks")).headers["X-RateLimit-Remaining"] == "0"
    for answer in (await world.place(org), await get(world, org), await world.place(other_key, to_e164="12")):
        assert answer.status == 429


async def test_a_burst_of_calls_over_three_replicas_places_what_the_limit_allows(world: World) -> None:
    org = await world.org(per_minute=50)
    async with AsyncExitStack() as stack:
        worlds = [world] + [await stack.enter_async_context(running(world.pool)) for _ in range(2)]
        answers = await asyncio.gather(*(worlds[n % 3].place(org) for n in range(300)))
    assert Counter(answer.status for answer in answers) == {201: 50, 429: 250}
    assert await world.pool.fetchval("SELECT count(*) FROM calls") == 50
    assert sorted(int(a.headers["X-RateLimit-Remaining"]) for a in answers if a.status == 201) == list(range(50))


async def test_one_org_at_its_limit_refuses_no_other(world: World) -> None:
    org, other = await world.org(per_minute=3), await world.org(per_minute=100)
    answers = await asyncio.gather(*(get(world, (org, other)[n % 2]) for n in range(100)))
    assert Counter(answer.status for answer in answers[::2]) == {200: 3, 429: 47}
    assert Counter(answer.status for answer in answers[1::2]) == {200: 50}


async def test_every_answer_tells_how_much_is_left(world: World) -> None:
    org = await world.org(per_minute=120)
    ways = (await get(world, org), await get(world, org, "/api/v1/calls/nope"), await world.place(org, to_e164="1"))
    for left, answer in zip((119, 118, 117), ways, strict=True):
        assert answer.headers["RateLimit-Policy"] == '"org";q=120;w=60'
        assert answer.headers["RateLimit"] == f'"org";r={left};t=60'
        assert answer.headers["X-RateLimit-Limit"] == "120"
        assert answer.headers["X-RateLimit-Remaining"] == str(left)
        assert answer.headers["X-RateLimit-Reset"] == "60"


async def test_the_limit_is_the_plans_and_120_without_one(world: World) -> None:
    bare, org = await world.bare_org(), await world.org(per_minute=7)
    assert (await get(world, bare)).headers["X-RateLimit-Limit"] == "120"
    assert await burst([world], org, 10) == {200: 7, 429: 3}
    await world.feed("wallet.events", plan(org, per_minute=9))
    assert await burst([world], org, 10) == {200: 2, 429: 8}
    await world.feed("wallet.events", plan(org, per_minute=1))
    assert (await get(world, org)).status == 429


async def test_the_order_is_401_then_429_then_the_rest(world: World) -> None:
    org = await world.org(per_minute=1, granted_paise=0)
    assert (await get(world, org)).status == 200
    assert (await world.place(org, to_e164="12", agent_id="nope")).status == 429
    assert (await world.ask("POST", "/api/v1/calls", data=b"{", headers=org.auth)).status == 429
    assert (await world.ask("POST", "/api/v1/calls", data=b"{")).status == 401


async def test_a_429_is_not_kept_under_a_key(world: World) -> None:
    org, key = await world.org(per_minute=1), {"Idempotency-Key": "k"}
    await get(world, org)
    assert (await world.place(org, headers=key)).status == 429
    await time_passes(world.pool, 60)
    again = await world.place(org, headers=key)
    assert (again.status, "Idempotency-Replayed" in again.headers) == (201, False)


async def test_batches_agree_with_a_list_of_instants(world: World) -> None:
    """The running totals against the obvious: every allowed request's instant, counted."""
    org_id, chance = new_id(), random.Random(7)
    allowed: list[float] = []
    clock = 0.0
    async with world.pool.acquire() as connection:
        for _ in range(150):
            gap = chance.choice([0, 0, 0.5, 3, 3, 11, 31])
            clock += gap
            await time_passes(world.pool, gap)
            if any(abs(clock - 60 - at) < 0.4 for at in allowed):
                continue
            count = chance.choice([1, 1, 2, 7, 60])
            taken = await rate_limit.take(connection, [org_id] * count)
            expected = min(count, max(0, 120 - sum(at > clock - 60 for at in allowed)))
            assert sum(one.is_given for one in taken) == expected
            allowed += [clock] * expected
    assert len(allowed) > 600


async def test_what_no_window_reaches_is_removed_and_changes_nothing(world: World) -> None:
    org = await world.org(per_minute=5)
    await burst([world], org, 5)
    await time_passes(world.pool, 100)
    await world.pool.execute(rate_limit.FORGET)
    assert await world.pool.fetchval("SELECT count(*) FROM rate_log") == 0
    assert await burst([world], org, 6) == {200: 5, 429: 1}


async def test_who_guesses_keys_is_slowed_down_and_who_has_one_is_not(world: World) -> None:
    org = await world.org()
    assert (await get(world, org)).status == 200
    guess = {"Authorization": "Bearer cuk_live_aaaaaaaa_" + "b" * 32}
    tried = [(await world.ask("GET", "/api/v1/calls", headers=guess)) for _ in range(70)]
    assert Counter(answer.status for answer in tried) == {401: 60, 429: 10}
    assert int(tried[-1].headers["Retry-After"]) >= 1
    assert (await world.ask("GET", "/admin/v1/orgs", headers=guess)).status == 429
    assert (await get(world, org)).status == 200
    world.keys.clock = lambda: time.monotonic() + auth.FRESH_SEC
    assert (await world.place(org)).status == 201, "a key that has to be looked up again is no stranger's"
    assert (await world.admin("GET", "/orgs"))[0]["id"] == str(org.id)


async def test_who_reads_the_documents_without_a_key_is_limited_by_address_too(world: World) -> None:
    org = await world.org()
    answers = []
    for n in range(64):
        async with world.http.get(world.url + ("/docs", "/api/v1/openapi.json")[n % 2]) as answer:
            answers.append((answer.status, answer.headers.get("Retry-After")))
    assert Counter(status for status, _ in answers) == {200: 60, 429: 4}
    assert int(answers[-1][1] or 0) >= 1
    assert (await get(world, org)).status == 200
    assert (await world.ask("GET", "/api/v1/calls")).status == 401, "that is counted apart"


def test_an_address_is_heard_again_as_time_passes() -> None:
    at = 1000.0
    knocks = Knocks(per_minute=60, clock=lambda: at)
    for _ in range(60):
        assert knocks.wait_sec("10.0.0.1") is None
        knocks.failed("10.0.0.1")
    assert knocks.wait_sec("10.0.0.1") == 1
    assert knocks.wait_sec("10.0.0.2") is None
    at += 1
    assert knocks.wait_sec("10.0.0.1") is None


def test_an_ipv6_customer_is_one_address_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    knocks = Knocks(per_minute=1)
    knocks.failed("2001:db8:1:2::1")
    assert knocks.wait_sec("2001:db8:1:2:ffff::9") is not None
    assert knocks.wait_sec("2001:db8:1:3::1") is None
    knocks.failed("::ffff:10.0.0.1")
    assert knocks.wait_sec("10.0.0.1") is not None
    monkeypatch.setattr(flood, "REMEMBERED", 100)
    for n in range(1000):
        knocks.failed(f"10.1.{n // 256}.{n % 256}")
    assert len(knocks._full_again_at) <= 100
