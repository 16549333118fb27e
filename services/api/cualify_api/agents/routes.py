"""`/api/v1/agents`, to read; `/admin/v1/orgs/{org_id}/agents`, to make them."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.agents import queries
from cualify_api.agents.schemas import MakeAgent
from cualify_api.orgs.routes import OrgOf
from cualify_api.web.answers import row_view
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import json
from cualify_api.web.paging import page
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id


def agent_routes(pool: Pool, org_of: OrgOf) -> APIRouter:
    """The routes of agents."""
    router = APIRouter()

    @router.get("/api/v1/agents")
    async def list_agents(request: Request) -> Response:
        wanted = page(request)
        rows, total = await queries.listed(pool, caller(request).org_id, limit=wanted.limit, offset=wanted.offset)
        return json(wanted.of([row_view(row) for row in rows], total=total))

    @router.get("/admin/v1/orgs/{org_id}/agents")
    async def list_agents_of_org(request: Request, org_id: str) -> Response:
        wanted, org = page(request), await org_of(org_id)
        rows, total = await queries.listed(pool, org, limit=wanted.limit, offset=wanted.offset)
        return json(wanted.of([row_view(row) for row in rows], total=total))

    @router.post("/admin/v1/orgs/{org_id}/agents")
    async def make_agent(request: Request, org_id: str) -> Response:
        body, org = checked(MakeAgent, await json_body(request)), await org_of(org_id)
        row = await queries.add(pool, agent_id=new_id(), org_id=org, at=now(), **body.model_dump())
        return json({"data": row_view(row)}, status=201)

    return router
