"""What billing keeps of an org's money and shows on its behalf: the bill of a call, and the balance to be warned at."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls import queries
from cualify_api.calls.routes import as_id
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem
from cualify_api.web.upstream import Upstream
from cualify_shared.database import Pool

MOST_PAISE: Final = 1_000_000_000_000


class SetThreshold(BaseModel):
    """The body: an amount, or null for no warning."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    threshold_paise: Annotated[StrictInt, Field(gt=0, le=MOST_PAISE)] | None


def account_routes(pool: Pool, billing: Upstream) -> APIRouter:
    """`/api/v1/wallet/low-balance-threshold` and `/api/v1/calls/{call_id}/bill`."""
    router = APIRouter()

    @router.get("/api/v1/wallet/low-balance-threshold")
    async def get_threshold(request: Request) -> Response:
        return await billing.forward("GET", _path(request, "low-balance-threshold"))

    @router.put("/api/v1/wallet/low-balance-threshold")
    async def put_threshold(request: Request) -> Response:
        body: dict[str, Any] = checked(SetThreshold, await json_body(request)).model_dump()
        if caller(request).test:
            reason = "a test key has no wallet to be warned of"
            raise Problem("forbidden", reason, details={"reason": reason})
        return await billing.forward("PUT", _path(request, "low-balance-threshold"), body=body)

    @router.get("/api/v1/calls/{call_id}/bill")
    async def get_bill(request: Request, call_id: str) -> Response:
        wanted = as_id(call_id, "call")
        async with pool.acquire() as connection:
            if await queries.get(connection, caller(request).org_id, wanted) is None:
                raise Problem("not_found", "there is no such call")
        return await billing.forward("GET", _path(request, f"bills/{wanted}"))

    return router


def _path(request: Request, what: str) -> str:
    return f"/internal/orgs/{caller(request).org_id}/{what}"
