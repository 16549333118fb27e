"""Nobody sees another org's things: every route there is, asked with a stranger's key and the owner's ids, says 404.

Routes that are added later are asked too. One that names something new in its path fails here until it is said how to
make one.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio
from aiohttp import web

from cualify_api.openapi.document import document
from tests.api.documented import routes
from tests.api.test_fuzz import example_of
from tests.api.world import Org, World, credited, debited, failed, running

PHONE = "+919812345678"


class Dispatcher:
    """Knows one endpoint, of one org, and tells nobody else of it; and as billing the bill of any call of that org, for
    whose calls are whose is the api's to know. Remembers what it was asked."""

    def __init__(self) -> None:
        self.endpoint_id, self.owner = str(uuid4()), ""
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        _, org_id, _, *rest = request.path.removeprefix("/internal/").split("/")
        if org_id != self.owner and rest:
            return web.json_response({"error": {"code": "not_found", "message": "no such webhook"}}, status=404)
        if "/bills/" in request.path:
            _, bill = example_of("get", "/api/v1/calls/{call_id}/bill")
            return web.json_response(bill)
        shown = {"id": self.endpoint_id, "url": "https://owner.example"} if org_id == self.owner else None
        if request.method == "GET" and not rest:
            listed = [shown] if shown else []
            pagination = {"limit": 50, "offset": 0, "total": len(listed), "has_more": False}
            return web.json_response({"data": listed, "pagination": pagination})
        return web.json_response({"data": shown or {}, "secret": "0" * 64})


@pytest_asyncio.fixture(loop_scope="session")
async def dispatcher() -> AsyncIterator[tuple[Dispatcher, str]]:
    made, app = Dispatcher(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def a_call(world: World, owner: Org, dispatcher: Dispatcher) -> str:
    dispatcher.owner = str(owner.id)
    return str(await world.placed(owner, external_id=f"crm-{uuid4()}", metadata={"secret": "owner"}))


async def a_contact(world: World, owner: Org, _: Dispatcher) -> str:
    body = {"phone_e164": f"+9198{uuid4().int % 10**8:08}", "name": "Riya Sharma"}
    answer = await world.ask("POST", "/api/v1/contacts", json=body, headers=owner.auth)
    return str(answer.body["data"]["id"])


async def an_endpoint(_: World, owner: Org, dispatcher: Dispatcher) -> str:
    dispatcher.owner = str(owner.id)
    return dispatcher.endpoint_id


async def an_event(_: World, __: Org, ___: Dispatcher) -> str:
    return f"evt_{uuid4().hex}"


async def a_replay(_: World, __: Org, ___: Dispatcher) -> str:
    return str(uuid4())


async def a_wish(_: World, __: Org, ___: Dispatcher) -> str:
    return "pause"


OWNED: Mapping[str, Callable[[World, Org, Dispatcher], Awaitable[str]]] = {
    "call_id": a_call,
    "contact_id": a_contact,
    "endpoint_id": an_endpoint,
    "event_id": an_event,
    "replay_id": a_replay,
    "wish": a_wish,
}
"""How to make what a path names; what lies below an endpoint belongs to whom the endpoint belongs to."""


async def test_what_is_anothers_is_not_found_on_any_route(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    stub, url = dispatcher
    owner, stranger = await world.org(), await world.org()
    walked = 0
    async with running(world.pool, webhook_dispatcher_url=url, billing_url=url) as there:
        for method, path in sorted(routes(there.app)):
            names = re.findall(r"\{(\w+)\}", path)
            if not names:
                continue
            assert set(names) <= OWNED.keys(), f"{path}: how is one made that belongs to an org?"
            made = {name: await OWNED[name](there, owner, stub) for name in names}
            for headers in ({}, {"Accept": "text/event-stream"}):
                theirs = await there.ask(
                    method, path.format(**made), json=_body(method, path), headers=stranger.auth | headers
                )
                assert (theirs.status, theirs.body["error"]["code"]) == (404, "not_found"), (method, path)
            nowhere = made | {names[0]: str(uuid4())}
            unknown = await there.ask(method, path.format(**nowhere), json=_body(method, path), headers=stranger.auth)
            assert unknown.body["error"]["message"] == theirs.body["error"]["message"], "and looks like what never was"
            own = await there.ask(method, path.format(**made), json=_body(method, path), headers=owner.auth)
            assert own.status in (200, 201, 202), (method, path, own)
            walked += 1
    assert walked >= 11
    assert all(str(stranger.id) in path or str(owner.id) in path for path in stub.asked)


async def test_no_list_shows_anything_of_anothers(world: World, dispatcher: tuple[Dispatcher, str]) -> None:
    stub, url = dispatcher
    owner, stranger = await world.org(), await world.bare_org()
    async with running(world.pool, webhook_dispatcher_url=url, billing_url=url) as there:
        call_id = await a_call(there, owner, stub)
        contact_id, endpoint_id = await a_contact(there, owner, stub), await an_endpoint(there, owner, stub)
        await there.feed("call.events", failed(owner, UUID(call_id)))
        await there.feed("wallet.events", debited(owner, UUID(call_id), 0), credited(owner, 5))
        marks = {str(owner.id), owner.agent_id, call_id, contact_id, endpoint_id, "Riya", "owner.example"}
        lists = 0
        for method, path in sorted(routes(there.app)):
            if method != "get" or "{" in path or path.endswith("openapi.json"):
                continue
            own = await there.ask("GET", path, headers=owner.auth)
            theirs = await there.ask("GET", path, headers=stranger.auth)
            assert not [mark for mark in marks if mark in str(theirs.body)], path
            assert theirs.status == own.status == 200, (path, own, theirs)
            lists += bool([mark for mark in marks if mark in str(own.body)])
        assert lists >= 5, "the owner sees them: calls, contacts, events, agents, webhooks"


async def test_filters_find_nothing_of_anothers(world: World) -> None:
    owner, stranger = await world.org(), await world.org()
    call = (await world.place(owner, external_id="crm-1", metadata={"lead": "L-1"})).body["data"]
    for query in (
        "external_id=crm-1",
        f"agent_id={owner.agent_id}",
        "to_e164=%2B919812345678",
        "metadata[lead]=L-1",
        "status=queued",
        "created_after=2020-01-01T00:00:00Z",
    ):
        path = f"/api/v1/calls?{query}"
        assert (await world.ask("GET", path, headers=owner.auth)).body["data"][0]["id"] == call["id"]
        theirs = (await world.ask("GET", path, headers=stranger.auth)).body
        assert (theirs["data"], theirs["pagination"]["total"]) == ([], 0), query


async def test_nobody_calls_with_another_orgs_agent(world: World) -> None:
    owner, stranger = await world.org(), await world.org()
    answer = await world.place(stranger, agent_id=owner.agent_id)
    assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


def _body(method: str, path: str) -> Any:
    """The document's own example."""
    content = document()["paths"][path][method].get("requestBody", {}).get("content")
    return content["application/json"]["example"] if content else None
