"""`/admin/v1`: any call, and the dead letters of every service."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id, shown
from cualify_api.web.errors import Problem, json
from cualify_api.web.upstream import Upstream
from cualify_shared.database import Pool


def admin_routes(pool: Pool, services: Mapping[str, Upstream]) -> APIRouter:
    """The operators' routes that belong to no single resource."""
    router = APIRouter()

    @router.get("/admin/v1/calls/{call_id}")
    async def get_call(request: Request, call_id: str) -> Response:
        return json({"data": await shown(pool, as_id(call_id, "call"), org_id=None)})

    @router.get("/admin/v1/services/{service}/dead-letters")
    async def list_letters(request: Request, service: str) -> Response:
        status = request.query_params.get("status", "parked")
        return await _named(services, service).forward("GET", "/internal/dead-letters", params={"status": status})

    @router.get("/admin/v1/services/{service}/dead-letters/{letter}")
    async def show_letter(request: Request, service: str, letter: str) -> Response:
        return await _named(services, service).forward("GET", f"/internal/dead-letters/{_number(letter)}")

    @router.post("/admin/v1/services/{service}/dead-letters/{letter}/redrive")
    async def redrive(request: Request, service: str, letter: str) -> Response:
        return await _named(services, service).forward("POST", f"/internal/dead-letters/{_number(letter)}/redrive")

    return router


def _named(services: Mapping[str, Upstream], name: str) -> Upstream:
    if name not in services:
        raise Problem("not_found", f"there is no such service; there are {', '.join(services)}")
    return services[name]


def _number(given: str) -> int:
    if given.isascii() and given.isdecimal() and len(given) <= 18:
        return int(given)
    raise Problem("not_found", "there is no such dead letter")
