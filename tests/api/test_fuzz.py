"""Schemathesis asks the running api whatever its own document allows, and what it forbids: it never breaks, and never
answers anything that the document does not expect.

Bounded, and the same every time. FUZZ_EXAMPLES asks each route more often.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from requests import Session
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cualify_api.openapi import examples
from cualify_api.openapi.document import document, printed
from cualify_shared.database import create_pool
from tests.api.documented import operations
from tests.api.world import Org, World, life, running
from tests.support.databases import Databases

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
NAMES = [operation["operationId"] for _, _, operation in operations()]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def example_of(method: str, path: str) -> tuple[int, Any]:
    """A success that the document shows of a route."""
    for pattern, methods in document()["paths"].items():
        if method in methods and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern), path):
            status, answer = next((s, a) for s, a in methods[method]["responses"].items() if s.startswith("2"))
            return int(status), answer["content"]["application/json"]["example"]
    return 404, {"error": {"code": "not_found", "message": "no such route"}}


async def neighbour(request: web.Request) -> web.Response:
    """The dispatcher and billing, as the document shows them."""
    rest = "/".join(request.path.split("/")[4:])
    if rest == "ledger":
        return web.json_response({"data": [], "next": None})
    if request.method == "POST":
        rest = re.sub("/replays$", "/replay", rest)
    status, body = example_of(request.method.lower(), "/api/v1/" + rest.replace("endpoints", "webhooks", 1))
    return web.json_response(body, status=status)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def there(databases: Databases) -> AsyncIterator[tuple[World, Org, dict[str, str]]]:
    """The api with neighbours, an org that can call, and what its paths can name."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", neighbour)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    pool = await create_pool(await databases.fresh("cualify_api"), application_name="test", size=10)
    async with running(pool, webhook_dispatcher_url=url, billing_url=url) as world:
        org = await world.org()
        call_id = await world.placed(org, external_id="crm-1", metadata={"a": "b"})
        await world.feed("call.events", *life(org, call_id, artifacts=()))
        contact = await world.ask("POST", "/api/v1/contacts", json={"phone_e164": "+919812345678"}, headers=org.auth)
        known = {
            "call_id": str(call_id),
            "endpoint_id": str(call_id),
            "contact_id": contact.body["data"]["id"],
            "event_id": examples.EVENT_ID,
            "replay_id": examples.REPLAY_ID,
            "wish": "cancel",
        }
        yield world, org, known
    await pool.close()
    await runner.cleanup()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", NAMES)
async def test_whatever_is_asked_is_answered_as_documented(
    there: tuple[World, Org, dict[str, str]], name: str, mode: GenerationMode
) -> None:
    world, org, known = there
    await asyncio.to_thread(fuzz, name, mode, world.url, org, known)


def fuzz(name: str, mode: GenerationMode, url: str, org: Org, known: dict[str, str]) -> None:
    """Asks one route, of things that are there and of things that are not."""
    schema: Any = schemathesis.openapi.from_dict(orjson.loads(printed()))
    operation = schema.find_operation_by_id(name)
    names = [one.name for one in operation.path_parameters]
    asked = 0
    with Session() as session:
        for named in (None, {one: known[one] for one in names}) if names else (None,):
            strategy = operation.as_strategy(
                generation_mode=mode, **({} if named is None else {"path_parameters": named})
            )

            @BOUNDED
            @given(case=strategy)
            def ask(case: Any) -> None:
                nonlocal asked
                if asked % 2 and isinstance(case.body, dict) and "agent_id" in case.body:
                    case.body["agent_id"] = org.agent_id
                asked += 1
                if "Prefer" in (case.headers or {}):
                    case.headers["Prefer"] = "wait=0"  # Nobody takes these calls.
                case.call_and_validate(base_url=url, headers=org.auth, session=session, checks=CHECKS, timeout=10)

            try:
                ask()
            except Exception as error:
                if type(error).__name__ != "Unsatisfiable":  # nothing that a route without parameters could forbid
                    raise
    assert asked or mode is GenerationMode.NEGATIVE
