"""`/api/v1/webhooks`: the webhook-dispatcher owns the endpoints and their secrets; here is only the door to it.

A secret so never travels on Kafka nor rests in this database, and a DELETE is true when it is answered.
"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.paging import page
from cualify_api.web.upstream import Upstream
from cualify_api.webhooks.schemas import RegisterWebhook


def webhook_routes(dispatcher: Upstream) -> APIRouter:
    """The routes of outbound webhooks."""
    router = APIRouter()

    @router.post("/api/v1/webhooks")
    async def register(request: Request) -> Response:
        body = checked(RegisterWebhook, await json_body(request))
        return await dispatcher.forward("POST", _endpoints(request), body=body.model_dump())

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
