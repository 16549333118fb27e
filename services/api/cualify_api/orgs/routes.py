"""`/admin/v1/orgs`: orgs, their numbers, and, forwarded to billing, plans, top-ups, ledgers, low-balance thresholds."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.orgs import queries
from cualify_api.orgs.schemas import AddNumber, MakeOrg
from cualify_api.web.answers import row_view
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import page
from cualify_api.web.upstream import Upstream
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id

OrgOf: TypeAlias = Callable[[str], Awaitable[UUID]]
"""The org that a path names. Raises Problem where there is none."""


def org_finder(pool: Pool) -> OrgOf:
    """Looks in the database each time."""

    async def org_of(given: str) -> UUID:
        try:
            org_id = UUID(given)
        except ValueError:
            raise Problem("not_found", "there is no such org") from None
        if not await queries.exists(pool, org_id):
            raise Problem("not_found", "there is no such org")
        return org_id

    return org_of


def org_routes(pool: Pool, org_of: OrgOf, billing: Upstream) -> APIRouter:
    """The operators' routes of orgs."""
    router = APIRouter()

    @router.post("/admin/v1/orgs")
    async def make_org(request: Request) -> Response:
        body = checked(MakeOrg, await json_body(request))
        return json({"data": row_view(await queries.add(pool, org_id=new_id(), name=body.name, at=now()))}, status=201)

    @router.get("/admin/v1/orgs")
    async def list_orgs(request: Request) -> Response:
        wanted = page(request)
        rows, total = await queries.listed(pool, limit=wanted.limit, offset=wanted.offset)
        return json(wanted.of([row_view(row) for row in rows], total=total))

    @router.post("/admin/v1/orgs/{org_id}/numbers")
    async def add_number(request: Request, org_id: str) -> Response:
        body, org = checked(AddNumber, await json_body(request)), await org_of(org_id)
        async with pool.acquire() as connection, connection.transaction():
            row = await queries.add_number(connection, org, e164=body.e164, is_default=body.is_default, at=now())
        return json({"data": row_view(row)}, status=201)

    @router.put("/admin/v1/orgs/{org_id}/plan")
    async def put_plan(request: Request, org_id: str) -> Response:
        body, org = await json_body(request), await org_of(org_id)
        return await billing.forward("PUT", f"/internal/orgs/{org}/plan", body=body)

    @router.post("/admin/v1/orgs/{org_id}/credits")
    async def add_credits(request: Request, org_id: str) -> Response:
        body, org = await json_body(request), await org_of(org_id)
        return await billing.forward("POST", f"/internal/orgs/{org}/credits", body=body)

    @router.put("/admin/v1/orgs/{org_id}/low-balance-threshold")
    async def put_low_balance_threshold(request: Request, org_id: str) -> Response:
        body, org = await json_body(request), await org_of(org_id)
        return await billing.forward("PUT", f"/internal/orgs/{org}/low-balance-threshold", body=body)

    @router.get("/admin/v1/orgs/{org_id}/ledger")
    async def get_ledger(request: Request, org_id: str) -> Response:
        org, query = await org_of(org_id), request.query_params
        params = {name: query[name] for name in ("limit", "before") if name in query}
        return await billing.forward("GET", f"/internal/orgs/{org}/ledger", params=params)

    return router
