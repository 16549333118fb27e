"""Schemathesis walks along the document's own links: it places calls and cancels them, makes contacts and erases them,
registers webhooks and removes them, in any order, and asks for what is gone.

Bounded, and the same every time, as far as ids made at random allow; where that does not lead everywhere it walks at
random, a few times. FUZZ_WALKS makes it walk more often.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import orjson
import pytest_asyncio
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, settings
from requests import Session
from schemathesis.specs.openapi.checks import ensure_resource_availability, use_after_free

from cualify_api.openapi.document import printed
from cualify_shared.database import create_pool
from tests.api.test_fuzz import CHECKS, example_of
from tests.api.world import Org, World, running
from tests.support.databases import Databases

WALKS = int(os.environ.get("FUZZ_WALKS", "40"))
STEPS = 12
BOUNDED = settings(
    max_examples=WALKS,
    stateful_step_count=STEPS,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
WANTED = (
    ("getCall", 200),
    ("cancelCall", 200),
    ("getTimeline", 200),
    ("getContact", 200),
    ("eraseContact", 200),
    ("changeWebhook", 200),
    ("removeWebhook", 200),
    ("getContact", 404),  # One that was erased was asked for.
)


class Endpoints:
    """The dispatcher's part of it: knows which endpoints there are, and shows the rest as the document does. And the
    ledger, which is empty."""

    def __init__(self) -> None:
        self._there: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        what, *rest = request.path.split("/")[4:]
        if what == "ledger":
            return web.json_response({"data": [], "next": None})
        if not rest and request.method == "POST":
            return self._registered()
        if rest and rest[0] not in self._there:
            refusal = {"error": {"code": "not_found", "message": "there is no such webhook"}}
            return web.json_response(refusal, status=404)
        if request.method == "DELETE":
            self._there.discard(rest[0])
        if request.method == "POST" and rest[-1] == "replays":
            rest[-1] = "replay"  # As customers name it.
        status, body = example_of(request.method.lower(), "/".join(("/api/v1/webhooks", *rest)))
        return web.json_response(body, status=status)

    def _registered(self) -> web.Response:
        status, body = example_of("post", "/api/v1/webhooks")
        made = str(uuid4())
        self._there.add(made)
        return web.json_response({**body, "data": {**body["data"], "id": made}}, status=status)


@pytest_asyncio.fixture(loop_scope="session")
async def there(databases: Databases) -> AsyncIterator[World]:
    """The api beside such a dispatcher."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", Endpoints().answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    pool = await create_pool(await databases.fresh("cualify_api"), application_name="test", size=10)
    async with running(pool, webhook_dispatcher_url=url, billing_url=url) as world:
        yield world
    await pool.close()
    await runner.cleanup()


async def test_along_the_links_everything_is_answered_as_documented_and_what_is_gone_is_gone(
    there: World,
) -> None:
    loop = asyncio.get_running_loop()

    def new_org() -> Org:
        return asyncio.run_coroutine_threadsafe(there.org(), loop).result(timeout=10)

    reached: Counter[tuple[str, int]] = Counter()
    for walked in (BOUNDED, *[settings(BOUNDED, derandomize=False)] * 5):
        reached += await asyncio.to_thread(walk, there.url, new_org, walked)
        if all(reached[wanted] for wanted in WANTED):
            break
    for name, status in WANTED:
        assert reached[name, status] > 0, f"{name} was never {status} along a link: {reached}"


def walk(url: str, new_org: Callable[[], Org], bounds: settings) -> Counter[tuple[str, int]]:
    """How often each operation gave each status. Each walk is another org's: Hypothesis wants the same answers to the
    same questions, and what an earlier walk has left behind would change them."""
    schema: Any = schemathesis.openapi.from_dict(orjson.loads(printed()))
    reached: Counter[tuple[str, int]] = Counter()
    session = Session()

    class Walk(schema.as_state_machine()):  # type: ignore[misc]
        """One customer, who has a valid agent."""

        def setup(self) -> None:
            self.org = new_org()

        def before_call(self, case: Any) -> None:
            case.headers = {
                **(case.headers or {}),
                **self.org.auth,
            }  # Those without a key are slowed down, as they should be.
            if len(str(case.query)) > 1000:
                case.query = {}  # The head of a request has a bound: 431, before any route.
            if isinstance(case.body, dict) and "agent_id" in case.body:
                case.body["agent_id"] = self.org.agent_id
                for refused in ("from_e164", "schedule"):
                    case.body.pop(refused, None)
            if "Prefer" in (case.headers or {}):
                case.headers["Prefer"] = "wait=0"  # Nobody takes these calls.

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"base_url": url, "headers": self.org.auth, "session": session, "timeout": 10}

        def validate_response(self, response: Any, case: Any, additional_checks: Any = None, **kwargs: Any) -> None:
            reached[case.operation.definition.raw["operationId"], response.status_code] += 1
            case.validate_response(
                response,
                checks=[*CHECKS, use_after_free, ensure_resource_availability],
                transport_kwargs=kwargs,
                recorder=self.recorder,
            )

    with session:
        Walk.run(settings=bounds)
    return reached
