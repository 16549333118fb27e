"""`/api/v1/webhooks`: the webhook-dispatcher owns the endpoints and their secrets; here is only the door to it.

A secret so never travels on Kafka nor rests in this database, and a DELETE is true when it is answered.
"""

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id
from cualify_api.web import filters
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import json
from cualify_api.web.once import Once
from cualify_api.web.paging import LIMIT, MOST, page, whole_number
from cualify_api.web.upstream import Upstream, listed
from cualify_api.webhooks.schemas import PatchWebhook, RegisterWebhook, ReplayDeliveries

TEXT_FILTERS: Final = ("cursor", "status", "event")
TEST_WITHIN_SEC: Final = 75.0
"""The dispatcher waits for the customer's endpoint, a minute at most, and then says what was wrong with it."""

ROUTE: Final = "POST /api/v1/webhooks"


def webhook_routes(dispatcher: Upstream, once: Once) -> APIRouter:
    """The routes of outbound webhooks."""
    router = APIRouter()

    @router.post("/api/v1/webhooks")
    async def register(request: Request) -> Response:
        content = await json_body(request)
        body = checked(RegisterWebhook, content)

        async def ask() -> tuple[int, dict[str, Any]]:
            return await dispatcher.ask("POST", _endpoints(request), body=body.model_dump())

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
        path = f"{_endpoint(request, endpoint_id)}/test"
        return await dispatcher.forward("POST", path, body={}, within_sec=TEST_WITHIN_SEC)

    @router.get("/api/v1/webhooks/{endpoint_id}/deliveries")
    async def list_deliveries(request: Request, endpoint_id: str) -> Response:
        named = _endpoint(request, endpoint_id)
        limit = whole_number(request, "limit", default=LIMIT, least=1, most=MOST)
        params = {"limit": str(limit), **_delivery_filters(request)}
        _, content = await dispatcher.ask("GET", f"{named}/deliveries", params=params)
        return json(listed(content, limit=limit))

    @router.post("/api/v1/webhooks/{endpoint_id}/replay")
    async def replay(request: Request, endpoint_id: str) -> Response:
        named, body = _endpoint(request, endpoint_id), checked(ReplayDeliveries, await json_body(request))
        return await dispatcher.forward("POST", f"{named}/replays", body=body.wanted())

    return router


def _delivery_filters(request: Request) -> dict[str, str]:
    texts = {name: filters.text(request, name) for name in TEXT_FILTERS}
    instants = {name: filters.instant(request, name) for name in ("since", "until")}
    call_id = filters.uuid(request, "call_id")
    given = {
        **texts,
        **{name: None if at is None else at.isoformat() for name, at in instants.items()},
        "call_id": None if call_id is None else str(call_id),
    }
    return {name: value for name, value in given.items() if value is not None}


def _endpoints(request: Request) -> str:
    return f"/internal/orgs/{caller(request).org_id}/endpoints"


def _endpoint(request: Request, given: str) -> str:
    return f"{_endpoints(request)}/{as_id(given, 'webhook')}"
