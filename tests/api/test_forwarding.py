"""What belongs to another service is asked of it: its answers and its refusals come through, its absence is a 502."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from aiohttp import web

from tests.api.world import ADMIN, Org, World, running


class Neighbour:
    """A service that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, str | None]] = []
        self.status = 200
        self.body: dict[str, Any] = {"data": []}

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, body, request.headers.get("Authorization")))
        return web.json_response(self.body, status=self.status)


@pytest_asyncio.fixture(loop_scope="session")
async def neighbour() -> AsyncIterator[tuple[Neighbour, str]]:
    made, app = Neighbour(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_webhooks_are_registered_listed_and_removed_at_the_dispatcher(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        there.status, there.body = 201, {"data": {"id": "1"}, "secret": "s"}
        wanted = {"url": "https://your-app.com/cualify-webhook", "events": ["call.completed", "call.failed"]}
        answer = await world.ask("POST", "/api/v1/webhooks", json=wanted, headers=caller.auth)
        assert (answer.status, answer.body) == (201, {"data": {"id": "1"}, "secret": "s"})
        there.status, endpoint_id = 200, uuid4()
        await world.ask("GET", "/api/v1/webhooks?limit=7", headers=caller.auth)
        await world.ask("DELETE", f"/api/v1/webhooks/{endpoint_id}", headers=caller.auth)
        root, token = f"/internal/orgs/{caller.id}/endpoints", "Bearer internal-token"
        assert there.asked == [
            ("POST", root, wanted, token),
            ("GET", f"{root}?limit=7&offset=0", None, token),
            ("DELETE", f"{root}/{endpoint_id}", None, token),
        ]


async def test_a_neighbours_refusal_comes_through_and_its_failure_is_a_502(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        for status, code, seen in (
            (404, "not_found", 404),
            (400, "invalid_request", 400),
            (500, "internal_error", 502),
        ):
            there.status, there.body = status, {"error": {"code": code, "message": "m", "param": "url"}}
            answer = await world.ask("DELETE", f"/api/v1/webhooks/{uuid4()}", headers=caller.auth)
            assert answer.status == seen
            assert answer.body["error"]["request_id"] == answer.headers["X-Request-Id"]
            assert answer.body["error"]["code"] == ("upstream_error" if seen == 502 else code)


async def test_a_webhook_for_an_unknown_event_is_refused_here(lasting: World, caller: Org) -> None:
    body = {"url": "https://a.example", "events": ["call.exploded"]}
    answer = await lasting.ask("POST", "/api/v1/webhooks", json=body, headers=caller.auth)
    assert (answer.status, answer.body["error"]["param"]) == (400, "events.0")


async def test_operators_reach_billing_and_the_dead_letters(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, billing_url=url, dialer_url=url) as world:
        there.body = {"data": [], "next": "c2"}
        await world.admin("PUT", f"/orgs/{caller.id}/plan", {"plan": "growth"})
        await world.admin("POST", f"/orgs/{caller.id}/credits", {"payment_id": "p"})
        await world.admin("PUT", f"/orgs/{caller.id}/low-balance-threshold", {"threshold_paise": 50_000})
        await world.admin("POST", "/services/dialer/dead-letters/7/redrive", {})
        ledger = await world.ask("GET", "/api/v1/ledger?limit=5&cursor=c1", headers=caller.auth)
        assert ledger.body["pagination"] == {"limit": 5, "next_cursor": "c2", "has_more": True}
        assert [one[1] for one in there.asked] == [
            f"/internal/orgs/{caller.id}/plan",
            f"/internal/orgs/{caller.id}/credits",
            f"/internal/orgs/{caller.id}/low-balance-threshold",
            "/internal/dead-letters/7/redrive",
            f"/internal/orgs/{caller.id}/ledger?limit=5&before=c1",
        ]
        unknown = await world.ask("POST", f"/admin/v1/orgs/{uuid4()}/credits", json={}, headers=ADMIN)
        assert unknown.status == 404


async def test_whatever_else_is_done_to_a_webhook_is_done_at_the_dispatcher(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        endpoint_id, replay_id, token = uuid4(), uuid4(), "Bearer internal-token"
        event_id = f"evt_{uuid4().hex}"
        ours, theirs = f"/api/v1/webhooks/{endpoint_id}", f"/internal/orgs/{caller.id}/endpoints/{endpoint_id}"
        replay = {"since": "2026-05-31T14:22:11+05:30", "events": ["call.completed"], "status": "failed"}
        for method, path, body in (
            ("PATCH", "", {"active": False}),
            ("POST", "/rotate-secret", None),
            ("POST", "/test", None),
            ("GET", "/deliveries?limit=5&status=failed&cursor=c&since=2026-05-31T14:22:11%2B05:30&colour=blue", None),
            ("GET", f"/deliveries/{event_id}", None),
            ("POST", "/replay", replay),
            ("POST", "/replay", {"since": "2026-05-31T14:22:11Z", "until": None, "status": "all"}),
            ("GET", "/replays", None),
            ("GET", f"/replays/{replay_id}", None),
            ("POST", f"/replays/{replay_id}/pause", None),
        ):
            answer = await world.http.request(method, f"{world.url}{ours}{path}", json=body, headers=caller.auth)
            assert answer.status == 200, await answer.text()
        assert there.asked == [
            ("PATCH", theirs, {"active": False}, token),
            ("POST", f"{theirs}/rotate-secret", {}, token),
            ("POST", f"{theirs}/test", {}, token),
            ("GET", f"{theirs}/deliveries?limit=5&cursor=c&status=failed&since=2026-05-31T08:52:11.000Z", None, token),
            ("GET", f"{theirs}/deliveries/{event_id}", None, token),
            ("POST", f"{theirs}/replays", replay | {"since": "2026-05-31T08:52:11Z"}, token),
            ("POST", f"{theirs}/replays", {"since": "2026-05-31T14:22:11Z"}, token),
            ("GET", f"{theirs}/replays", None, token),
            ("GET", f"{theirs}/replays/{replay_id}", None, token),
            ("POST", f"{theirs}/replays/{replay_id}/pause", {}, token),
        ]


async def test_an_operator_has_what_webhooks_keep_of_a_callee_erased(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        there.body = {"data": {"payloads_erased": 2, "deliveries_ended": 1}}
        wanted = {"e164": "+919812345678"}
        answer = await world.admin("POST", f"/orgs/{caller.id}/webhook-erasures", wanted)
        assert answer == there.body["data"]
        assert there.asked == [("POST", f"/internal/orgs/{caller.id}/expunge", wanted, "Bearer internal-token")]
        unknown = await world.ask("POST", f"/admin/v1/orgs/{uuid4()}/webhook-erasures", json=wanted, headers=ADMIN)
        assert unknown.status == 404
        assert len(there.asked) == 1


async def test_a_page_of_deliveries_says_where_the_next_begins(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        there.body = {"data": [], "next": "evt_1"}
        page = await world.ask("GET", f"/api/v1/webhooks/{uuid4()}/deliveries?limit=7", headers=caller.auth)
        assert page.body["pagination"] == {"limit": 7, "next_cursor": "evt_1", "has_more": True}
        there.body = {"data": [], "next": None}
        page = await world.ask("GET", f"/api/v1/webhooks/{uuid4()}/deliveries", headers=caller.auth)
        assert page.body["pagination"] == {"limit": 50, "next_cursor": None, "has_more": False}


@pytest.mark.parametrize("path", ["/deliveries/evt_1", "/deliveries/..%2F..", "/replays/1", "/replays/{id}/stop"])
async def test_what_is_no_id_of_a_delivery_or_a_replay_is_not_asked_for(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str], path: str
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        method = "POST" if path.endswith("stop") else "GET"
        whole = f"/api/v1/webhooks/{uuid4()}{path.replace('{id}', str(uuid4()))}"
        answer = await world.ask(method, whole, headers=caller.auth)
        assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")
        assert there.asked == []


async def test_a_route_that_the_dispatcher_does_not_have_is_not_found(
    lasting: World, caller: Org, neighbour: tuple[Neighbour, str]
) -> None:
    there, url = neighbour
    async with running(lasting.pool, webhook_dispatcher_url=url) as world:
        there.status, there.body = 405, {"error": {"code": "method_not_allowed", "message": "m"}}
        answer = await world.ask("POST", f"/api/v1/webhooks/{uuid4()}/test", headers=caller.auth)
        assert (answer.status, answer.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("PATCH", "", {"url": None}, "url"),
        ("PATCH", "", {"events": []}, "events"),
        ("PATCH", "", {"events": ["call.exploded"]}, "events.0"),
        ("PATCH", "", {"active": "no"}, "active"),
        ("POST", "/replay", {}, "since"),
        ("POST", "/replay", {"since": "2026-05-31T14:22:11"}, "since"),
        ("POST", "/replay", {"since": "2026-05-31T14:22:11Z", "status": "odd"}, "status"),
        ("POST", "/replay", {"since": "2026-05-31T14:22:11Z", "call_id": "7"}, "call_id"),
        ("GET", "/deliveries?limit=0", None, "limit"),
        ("GET", "/deliveries?since=yesterday", None, "since"),
    ],
)
async def test_what_is_wrong_about_a_webhook_is_refused_here(
    lasting: World, caller: Org, method: str, path: str, body: Any, param: str
) -> None:
    answer = await lasting.ask(method, f"/api/v1/webhooks/{uuid4()}{path}", json=body, headers=caller.auth)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)
