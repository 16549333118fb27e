"""Keys on routes that ask another service; and how long keys are kept."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest_asyncio
from aiohttp import web

from cualify_api.main import forget_once
from cualify_api.web import idempotency
from cualify_shared.clock import now
from tests.api.world import Answer, Org, World, debited, life, running

WANTED = {"url": "https://your-app.com/cualify-webhook", "events": ["call.completed"]}


class Dispatcher:
    """Registers slowly, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.status, self.code = 0, 201, ""
        self.ids: list[str | None] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.ids.append((await request.json()).get("id"))
        number = self.asked
        await self.go_on.wait()
        if self.status >= 400:
            return web.json_response({"error": {"code": self.code, "message": "no"}}, status=self.status)
        return web.json_response({"data": {"id": number}, "secret": "5ec2e7" * 10}, status=self.status)


@pytest_asyncio.fixture(loop_scope="session")
async def dispatcher() -> AsyncIterator[tuple[Dispatcher, str]]:
    made, app = Dispatcher(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    made.go_on.set()
    await runner.cleanup()


async def register(world: World, org: Org, key: str = "k", **more: Any) -> Answer:
    headers = org.auth | {"Idempotency-Key": key}
    return await world.ask("POST", "/api/v1/webhooks", json=WANTED | more, headers=headers)


async def test_a_hundred_equal_requests_register_one_webhook(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    there, url = dispatcher
    org = await world.org()
    async with (
        running(world.pool, webhook_dispatcher_url=url) as here,
        running(world.pool, webhook_dispatcher_url=url) as twin,
    ):
        there.go_on.clear()
        first = asyncio.create_task(register(here, org))
        async with asyncio.timeout(5):
            while not there.asked:
                await asyncio.sleep(0.005)
        answers = await asyncio.gather(*(register((here, twin)[n % 2], org) for n in range(100)))
        assert Counter(answer.status for answer in answers) == {409: 100}
        assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        there.go_on.set()
        told = await first
        later = await asyncio.gather(*(register((here, twin)[n % 2], org) for n in range(100)))
        assert all((one.status, one.body) == (201, told.body) for one in later)
        assert all(one.headers["Idempotency-Replayed"] == "true" for one in later)
        assert there.asked == 1
        assert (await register(here, org, url="https://other.example/")).status == 409
        assert (await register(here, await world.org())).body["data"] == {"id": 2}


async def test_a_secret_never_rests_in_the_open(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    _, url = dispatcher
    org = await world.org()
    async with running(world.pool, webhook_dispatcher_url=url) as here:
        answer = await register(here, org)
        assert answer.body["secret"].startswith("5ec2e7")
        assert "5ec2e7" not in str(await world.dump())
        assert answer.body["secret"].encode().hex() not in str(await world.dump())


async def test_what_was_not_decided_gives_the_key_back(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    there, url = dispatcher
    org = await world.org()
    async with running(world.pool, webhook_dispatcher_url=url) as here:
        for status, code, seen in ((500, "internal_error", 502), (400, "invalid_request", 400)):
            there.status, there.code = status, code
            assert (await register(here, org)).status == seen
        there.status, there.code = 409, "conflict"
        assert (await register(here, org)).status == 409
        there.status = 201
        kept = await register(here, org)
        assert (kept.status, kept.headers["Idempotency-Replayed"]) == (409, "true")
        assert kept.body["error"]["request_id"] == kept.headers["X-Request-Id"]
        assert "Retry-After" not in kept.headers
        assert there.asked == 3


async def test_a_webhook_whose_answer_never_came_is_asked_for_again_under_the_same_id(
    world: World, dispatcher: tuple[Dispatcher, str]
) -> None:
    """It may have been registered: the dispatcher then knows the id."""
    there, url = dispatcher
    org = await world.org()
    async with running(world.pool, webhook_dispatcher_url=url) as here:
        there.status, there.code = 503, "internal_error"
        assert (await register(here, org)).status == 502
        assert (await register(here, org, url="https://other.example/")).status == 502
        there.status = 201
        assert (await register(here, org)).status == 201
        assert (await register(here, await world.org())).status == 201
        assert (await here.ask("POST", "/api/v1/webhooks", json=WANTED, headers=org.auth)).status == 201
    lost, of_another_body, again, of_another_org, without_a_key = there.ids
    assert lost == again
    assert (len({lost, of_another_body, of_another_org}), without_a_key) == (3, None)


async def test_a_claim_whose_process_died_ends_by_itself(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    there, url = dispatcher
    org = await world.org()
    async with running(world.pool, webhook_dispatcher_url=url) as here:
        there.go_on.clear()
        lost = asyncio.create_task(register(here, org))
        async with asyncio.timeout(5):
            while not there.asked:
                await asyncio.sleep(0.005)
        await world.pool.execute("UPDATE idempotency_keys SET claimed_until = now() - interval '1 second'")
        there.go_on.set()
        assert (await lost).status == 201, "whoever is late answers, and keeps nothing that is another's"
        taken_over = await register(here, org)
        assert (taken_over.status, there.asked) == (201, 2)
        assert (await register(here, org)).body == taken_over.body


MANY_OLD = """
INSERT INTO idempotency_keys (org_id, route, key, fingerprint, status, answer, created_at)
SELECT $1, 'POST /api/v1/calls', n::text, '', 403, '{}', now() - interval '25 hours'
FROM generate_series(1, 2500) AS n
"""


async def test_however_many_keys_a_day_leaves_one_round_forgets_them(world: World) -> None:
    org = await world.org()
    await world.placed(org, headers={"Idempotency-Key": "new"})
    await world.pool.execute(MANY_OLD, org.id)
    await forget_once(world.pool, asyncio.Event())
    assert [row["key"] for row in await world.pool.fetch("SELECT key FROM idempotency_keys")] == ["new"]


async def test_keys_are_kept_until_their_call_is_over_and_a_day_at_least(world: World) -> None:
    org = await world.org()
    live, over = [await world.placed(org, headers={"Idempotency-Key": name}) for name in ("live", "over")]
    await world.feed_all([*life(org, over, artifacts=()), debited(org, over, 1420)])
    assert live != over

    async def kept() -> set[str]:
        return {row["key"] for row in await world.pool.fetch("SELECT key FROM idempotency_keys")}

    await idempotency.forget(world.pool, older_than=now() - timedelta(hours=24))
    assert await kept() == {"live", "over"}
    await world.pool.execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
    await idempotency.forget(world.pool, older_than=now() - timedelta(hours=24))
    assert await kept() == {"live"}
