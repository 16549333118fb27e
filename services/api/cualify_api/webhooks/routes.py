"""`/api/v1/webhooks`: the webhook-dispatcher owns the endpoints and their secrets; here is only the door to it.

A secret so never travels on Kafka nor rests in this database, and a DELETE is true when it is answered.
"""

import re
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id
from cualify_api.orgs.routes import OrgOf
from cualify_api.web import filters
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json
from cualify_api.web.once import Once
from cualify_api.web.paging import LIMIT, MOST, page, whole_number
from cualify_api.web.upstream import Upstream, listed
from cualify_api.webhooks.schemas import PatchWebhook, RegisterWebhook, ReplayDeliveries
from cualify_shared.clock import rfc3339

DELIVERY_FILTERS: Final = ("cursor", "status", "event", "call_id")
DELIVERY_TIMES: Final = ("since", "until")
EVENT_ID: Final = re.compile(r"evt_[0-9a-f]{32}")
WISHES: Final = ("pause", "resume", "cancel")
ERASED_WITHIN_SEC: Final = 65.0
"""Every body of the org is looked into."""
TEST_WITHIN_SEC: Final = 65.0
"""The dispatcher answers when the customer's server has, or has not in its time: 15 s, and 60 at most."""

ROUTE: Final = "POST /api/v1/webhooks"


def webhook_routes(dispatcher: Upstream, once: Once) -> APIRouter:
    """The routes of outbound webhooks."""
    router = APIRouter()

    @router.post("/api/v1/webhooks")
    async def register(request: Request) -> Response:
        content = await json_body(request)
        body = checked(RegisterWebhook, content).model_dump()
        if named := once.name_of(request, ROUTE, content):
            body["id"] = str(named)

        async def ask() -> tuple[int, dict[str, Any]]:
            return await dispatcher.ask("POST", _endpoints(request), body=body)

        return await once.answer(request, ROUTE, content, ask)

    @router.get("/api/v1/webhooks")
    async def list_webhooks(request: Request) -> Response:
        wanted = page(request)
        params = {"limit": str(wanted.limit), "offset": str(wanted.offset)}
        return await dispatcher.forward("GET", _endpoints(request), params=params)

    @router.patch("/api/v1/webhooks/{endpoint_id}")
    async def change(request: Request, endpoint_id: str) -> Response:
        named, body = _endpoint(request, endpoint_id), checked(PatchWebhook, await json_body(request))
        return await dispatcher.forward("PATCH", named, body=body.model_dump(exclude_unset=True))

    @router.delete("/api/v1/webhooks/{endpoint_id}")
    async def remove(request: Request, endpoint_id: str) -> Response:
        return await dispatcher.forward("DELETE", _endpoint(request, endpoint_id))

    @router.post("/api/v1/webhooks/{endpoint_id}/rotate-secret")
    async def rotate_secret(request: Request, endpoint_id: str) -> Response:
        return await dispatcher.forward("POST", f"{_endpoint(request, endpoint_id)}/rotate-secret", body={})

    @router.post("/api/v1/webhooks/{endpoint_id}/test")
    async def send_test(request: Request, endpoint_id: str) -> Response:
        named = f"{_endpoint(request, endpoint_id)}/test"
        return await dispatcher.forward("POST", named, body={}, within_sec=TEST_WITHIN_SEC)

    @router.get("/api/v1/webhooks/{endpoint_id}/deliveries")
    async def list_deliveries(request: Request, endpoint_id: str) -> Response:
        named = _endpoint(request, endpoint_id)
        limit = whole_number(request, "limit", default=LIMIT, least=1, most=MOST)
        params = {"limit": str(limit), **_filters(request)}
        _, content = await dispatcher.ask("GET", f"{named}/deliveries", params=params)
        return json(listed(content, limit=limit))

    @router.get("/api/v1/webhooks/{endpoint_id}/deliveries/{event_id}")
    async def show_delivery(request: Request, endpoint_id: str, event_id: str) -> Response:
        named = _endpoint(request, endpoint_id)
        if not EVENT_ID.fullmatch(event_id):
            raise Problem("not_found", "there is no such event")
        return await dispatcher.forward("GET", f"{named}/deliveries/{event_id}")

    @router.post("/api/v1/webhooks/{endpoint_id}/replay")
    async def replay(request: Request, endpoint_id: str) -> Response:
        named, body = _endpoint(request, endpoint_id), checked(ReplayDeliveries, await json_body(request))
        return await dispatcher.forward("POST", f"{named}/replays", body=body.wanted())

    @router.get("/api/v1/webhooks/{endpoint_id}/replays")
    async def list_replays(request: Request, endpoint_id: str) -> Response:
        return await dispatcher.forward("GET", f"{_endpoint(request, endpoint_id)}/replays")

    @router.get("/api/v1/webhooks/{endpoint_id}/replays/{replay_id}")
    async def show_replay(request: Request, endpoint_id: str, replay_id: str) -> Response:
        return await dispatcher.forward("GET", _replay(request, endpoint_id, replay_id))

    @router.post("/api/v1/webhooks/{endpoint_id}/replays/{replay_id}/{wish}")
    async def steer_replay(request: Request, endpoint_id: str, replay_id: str, wish: str) -> Response:
        named = _replay(request, endpoint_id, replay_id)
        if wish not in WISHES:
            raise Problem("not_found", f"a replay can be told to {', '.join(WISHES)}")
        return await dispatcher.forward("POST", f"{named}/{wish}", body={})

    return router


def erasure_routes(org_of: OrgOf, dispatcher: Upstream) -> APIRouter:
    """The operators' route by which what webhooks keep of a callee is erased."""
    router = APIRouter()

    @router.post("/admin/v1/orgs/{org_id}/webhook-erasures")
    async def erase(request: Request, org_id: str) -> Response:
        body, org = await json_body(request), await org_of(org_id)
        return await dispatcher.forward(
            "POST", f"/internal/orgs/{org}/expunge", body=body, within_sec=ERASED_WITHIN_SEC
        )

    return router


def _filters(request: Request) -> dict[str, str]:
    """What was asked for; what is wrong about it the dispatcher says by the same names."""
    found = {name: given for name in DELIVERY_FILTERS if (given := filters.text(request, name)) is not None}
    times = {name: rfc3339(at) for name in DELIVERY_TIMES if (at := filters.instant(request, name)) is not None}
    return {**found, **times}


def _endpoints(request: Request) -> str:
    return f"/internal/orgs/{caller(request).org_id}/endpoints"


def _endpoint(request: Request, given: str) -> str:
    return f"{_endpoints(request)}/{as_id(given, 'webhook')}"


def _replay(request: Request, endpoint_id: str, given: str) -> str:
    return f"{_endpoint(request, endpoint_id)}/replays/{as_id(given, 'replay')}"
