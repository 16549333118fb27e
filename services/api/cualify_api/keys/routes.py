"""`/admin/v1/…/keys`: make, list masked, revoke."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.schemas import instant
from cualify_api.keys import queries
from cualify_api.keys.secret import hash_of, make_key, masked
from cualify_api.orgs.routes import OrgOf
from cualify_api.web.answers import row_view
from cualify_api.web.auth import Keys
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import wrong_parameter
from cualify_api.web.scopes import SCOPES, Scope
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool, Row


class MakeKey(BaseModel):
    """The body of `POST /admin/v1/orgs/{org_id}/keys`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    mode: Literal["live", "test"] = "live"
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))] | None = None
    """All, if not given: also those that later versions add."""
    expires_at: Annotated[datetime, BeforeValidator(instant)] | None = None


def key_routes(pool: Pool, org_of: OrgOf, keys: Keys, *, pepper: str) -> APIRouter:
    """The operators' routes of API keys."""
    router = APIRouter()

    @router.post("/admin/v1/orgs/{org_id}/keys")
    async def make(request: Request, org_id: str) -> Response:
        body, org = checked(MakeKey, await json_body(request)), await org_of(org_id)
        new, at = make_key(test=body.mode == "test"), now()
        if body.expires_at is not None and body.expires_at <= at:
            raise wrong_parameter("expires_at", "expires_at must lie in the future")
        await queries.add(
            pool,
            org_id=org,
            prefix=new.prefix,
            name=body.name,
            key_hash=hash_of(new.key, pepper=pepper),
            at=at,
            expires_at=body.expires_at,
            scopes=None if body.scopes is None else sorted(set(body.scopes)),
            test=body.mode == "test",
        )
        keys.forget(new.prefix)
        made = {
            "prefix": new.prefix,
            "key": new.key,
            "mode": body.mode,
            "scopes": sorted(set(body.scopes or SCOPES)),
            "expires_at": None if body.expires_at is None else rfc3339(body.expires_at),
            "created_at": rfc3339(at),
        }
        return json({"data": made}, status=201)

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
    shown = row_view(row)
    test = shown.pop("test")
    more = {"mode": "test" if test else "live", "scopes": shown["scopes"] or sorted(SCOPES)}
    return shown | more | {"key": masked(row["prefix"], test=test)}
