"""The internal routes: endpoints of one org, every error in the envelope."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import pytest_asyncio
import uvicorn

from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import routes
from tests.webhook_dispatcher.conftest import LOOPBACK, SECRETS

TOKEN = "internal-token"
HOOK = {"url": "http://127.0.0.1:9/hook", "events": ["call.completed", "call.failed"]}


class Client:
    """Calls the routes as the api does."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self._http, self._base = http, base
        self.deleted: list[UUID] = []

    async def __call__(self, method: str, path: str, token: str = TOKEN, **more: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.request(method, self._base + path, headers=headers, **more) as response:
            return response.status, await response.json(content_type="application/json")


@pytest_asyncio.fixture(loop_scope="session")
async def call(pool: Pool) -> AsyncIterator[Client]:
    deleted: list[UUID] = []
    app = routes.app(pool=pool, secrets=SECRETS, allowed=LOOPBACK, internal_token=TOKEN, deleted=deleted.append)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        client = Client(http, f"http://127.0.0.1:{port}")
        client.deleted = deleted
        yield client
    server.should_exit = True
    await asyncio.wait_for(server.shutdown(), 5)


async def test_an_endpoint_is_registered_listed_and_deleted(call: Client) -> None:
    org_id = new_id()
    path = f"/internal/orgs/{org_id}/endpoints"
    status, made = await call("POST", path, json=HOOK)
    assert status == 201
    assert len(bytes.fromhex(made["secret"])) == 32
    assert set(made["data"]) == {"id", "url", "events", "active", "created_at"}
    assert made["data"]["events"] == HOOK["events"]
    assert made["data"]["created_at"].endswith("Z")
    _, page = await call("GET", path)
    assert page["pagination"] == {"limit": 50, "offset": 0, "total": 1, "has_more": False}
    assert page["data"] == [{**made["data"], "last_delivery_at": None, "last_status": None}]
    assert made["secret"] not in str(page)
    status, gone = await call("DELETE", f"{path}/{made['data']['id']}")
    assert (status, gone) == (200, {"data": {"id": made["data"]["id"], "deleted": True}})
    assert call.deleted == [UUID(made["data"]["id"])]
    assert (await call("DELETE", f"{path}/{made['data']['id']}"))[0] == 404
    assert (await call("GET", path))[1]["pagination"]["total"] == 0


async def test_another_orgs_endpoint_is_not_there(call: Client) -> None:
    mine, theirs = new_id(), new_id()
    _, made = await call("POST", f"/internal/orgs/{mine}/endpoints", json=HOOK)
    status, refused = await call("DELETE", f"/internal/orgs/{theirs}/endpoints/{made['data']['id']}")
    assert (status, refused["error"]["code"]) == (404, "not_found")
    assert (await call("GET", f"/internal/orgs/{theirs}/endpoints"))[1]["data"] == []
    assert (await call("GET", f"/internal/orgs/{mine}/endpoints"))[1]["pagination"]["total"] == 1


async def test_an_org_has_at_most_twenty_also_when_they_come_at_once(call: Client) -> None:
    path = f"/internal/orgs/{new_id()}/endpoints"
    answers = await asyncio.gather(*(call("POST", path, json=HOOK) for _ in range(25)))
    assert sorted(status for status, _ in answers) == [201] * 20 + [409] * 5
    _, page = await call("GET", path, params={"limit": 7, "offset": 7})
    assert (len(page["data"]), page["pagination"]["has_more"]) == (7, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://example.com/", "events": ["*"]}, "url"),
        ({"url": "https://10.0.0.1/", "events": ["*"]}, "url"),
        ({"url": "https://8.8.8.8/", "events": ["call.exploded"]}, "events"),
        ({"url": "https://8.8.8.8/", "events": []}, "events"),
        ({"events": ["*"]}, "url"),
        ({"url": 5, "events": ["*"]}, "url"),
        ({"url": "https://8.8.8.8/", "events": "*"}, "events"),
    ],
)
async def test_a_wrong_registration_is_refused_with_its_field(call: Client, body: dict[str, Any], param: str) -> None:
    status, refused = await call("POST", f"/internal/orgs/{new_id()}/endpoints", json=body)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "invalid_request", param)


async def test_no_error_leaves_the_envelope(call: Client) -> None:
    path = f"/internal/orgs/{new_id()}/endpoints"
    for status, (answered, body) in {
        401: await call("POST", path, token="wrong", data=b"{"),
        400: await call("POST", path, data=b"{"),
        404: await call("GET", "/nowhere"),
        405: await call("PUT", path),
        413: await call("POST", path, data=b"x" * 70_000),
    }.items():
        assert answered == status
        assert {"code", "message"} <= set(body["error"])
    assert (await call("GET", "/internal/orgs/not-a-uuid/endpoints"))[1]["error"]["param"] == "org_id"
    assert (await call("GET", path, params={"limit": 101}))[1]["error"]["param"] == "limit"
