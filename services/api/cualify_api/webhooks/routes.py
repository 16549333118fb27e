"""`/api/v1/webhooks`: the webhook-dispatcher owns the endpoints and their secrets; here is only the door to it.

A secret so never travels on Kafka nor rests in this database, and a DELETE is true when it is answered.
"""

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.once import Once
from cualify_api.web.paging import page
from cualify_api.web.upstream import Upstream
from cualify_api.webhooks.schemas import RegisterWebhook

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

    @router.delete("/api/v1/webhooks/{endpoint_id}")
    async def remove(request: Request, endpoint_id: str) -> Response:
        return await dispatcher.forward("DELETE", f"{_endpoints(request)}/{as_id(endpoint_id, 'webhook')}")

    return router


def _endpoints(request: Request) -> str:
    return f"/internal/orgs/{caller(request).org_id}/endpoints"
