"""`/api/v1/wallet`: what an org can spend. `/api/v1/ledger`: billing's entries."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.wallet import queries
from cualify_api.web.auth import caller
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import LIMIT, MOST, whole_number, wrong_parameter
from cualify_api.web.upstream import Upstream, listed
from cualify_shared.database import Pool

LONGEST_CURSOR = 500


def wallet_routes(pool: Pool, billing: Upstream) -> APIRouter:
    """The routes of an org's money."""
    router = APIRouter()

    @router.get("/api/v1/wallet")
    async def get_wallet(request: Request) -> Response:
        row = await queries.credit(pool, caller(request).org_id)
        granted, held = (row["granted"], row["held"]) if row else (0, 0)
        return json({"data": {**_shown(granted, held), "test": _shown(0, 0)}})

    @router.get("/api/v1/ledger")
    async def get_ledger(request: Request) -> Response:
        limit = whole_number(request, "limit", default=LIMIT, least=1, most=MOST)
        params = {"limit": str(limit), **_cursor(request)}
        path = f"/internal/orgs/{caller(request).org_id}/ledger"
        try:
            _, content = await billing.ask("GET", path, params=params)
        except Problem as problem:
            raise _no_cursor() if problem.param == "before" else problem from None
        return json(listed(content, limit=limit))

    return router


def _shown(granted: int, held: int) -> dict[str, int]:
    """A wallet. That of test keys is always empty: their calls are accepted at rate 0, hold 0, and debited 0 paise."""
    return {"balance_paise": granted, "held_paise": held, "available_paise": granted - held}


def _cursor(request: Request) -> dict[str, str]:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return {}
    if not 1 <= len(cursor) <= LONGEST_CURSOR:
        raise _no_cursor()
    return {"before": cursor}


def _no_cursor() -> Problem:
    """What a cursor is, billing knows, which has another name for it."""
    return wrong_parameter("cursor", "cursor must be the next_cursor of an earlier answer")
