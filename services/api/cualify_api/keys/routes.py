"""`/admin/v1/…/keys`: make, list masked, revoke."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.keys import queries
from cualify_api.keys.secret import hash_of, make_key, masked
from cualify_api.orgs.routes import OrgOf
from cualify_api.web.answers import row_view
from cualify_api.web.auth import Keys
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool, Row


class MakeKey(BaseModel):
    """The body of `POST /admin/v1/orgs/{org_id}/keys`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None


def key_routes(pool: Pool, org_of: OrgOf, keys: Keys, *, pepper: str) -> APIRouter:
    """The operators' routes of API keys."""
    router = APIRouter()

    @router.post("/admin/v1/orgs/{org_id}/keys")
    async def make(request: Request, org_id: str) -> Response:
        body, org = checked(MakeKey, await json_body(request)), await org_of(org_id)
        new, at = make_key(), now()
        async with pool.acquire() as connection:
            await queries.add(
                connection,
                org_id=org,
                prefix=new.prefix,
                name=body.name,
                key_hash=hash_of(new.key, pepper=pepper),
                at=at,
            )
        keys.forget(new.prefix)
        return json({"data": {"prefix": new.prefix, "key": new.key, "created_at": rfc3339(at)}}, status=201)

    @router.get("/admin/v1/orgs/{org_id}/keys")
    async def list_keys(request: Request, org_id: str) -> Response:
        return json({"data": [_shown(row) for row in await queries.of_org(pool, await org_of(org_id))]})

    @router.delete("/admin/v1/keys/{prefix}")
    async def revoke(request: Request, prefix: str) -> Response:
        revoked_at = await queries.revoke(pool, prefix, at=now())
        keys.forget(prefix)
        if revoked_at is None:
            raise Problem("not_found", "there is no such key")
        return json({"data": {"prefix": prefix, "revoked_at": rfc3339(revoked_at)}})

    return router


def _shown(row: Row) -> dict[str, Any]:
    return {**row_view(row), "key": masked(row["prefix"])}
