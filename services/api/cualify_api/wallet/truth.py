"""`GET /internal/credit`: what the api believes of each org's money, for billing's reconciliation to compare."""

from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.web.answers import row_view
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import whole_number
from cualify_shared.database import Pool
from cualify_shared.operator_routes import guarded_by

MOST_ORGS = 1000
FIRST = UUID(int=0)

CREDIT = """
WITH page AS MATERIALIZED (
    SELECT org_id, granted, held, frozen, xmin::text AS version
    FROM org_credit
    WHERE org_id > $1
    ORDER BY org_id
    LIMIT $2
), open_calls AS (
    SELECT org_id, sum(hold_paise)::bigint AS paise,
           count(*) FILTER (WHERE terminal_at < now() - interval '5 minutes') AS unsettled,
           count(*) FILTER (
               WHERE terminal_at IS NULL
               AND latest_at + make_interval(secs => max_duration_sec) < now() - interval '6 hours'
           ) AS unended
    FROM calls
    WHERE org_id IN (SELECT org_id FROM page) AND debited_paise IS NULL
    GROUP BY org_id
), leaving AS (
    SELECT org_id,
           (sum(amount_paise) FILTER (WHERE status = 'set_aside'))::bigint AS paise,
           count(*) FILTER (WHERE status = 'disputed') AS disputed
    FROM reductions
    WHERE org_id IN (SELECT org_id FROM page) AND status IN ('set_aside', 'disputed')
    GROUP BY org_id
)
SELECT org_id, granted AS granted_paise, held AS held_paise, frozen, version,
       coalesce(open_calls.paise, 0) AS open_holds_paise,
       coalesce(open_calls.unsettled, 0) AS unsettled_calls,
       coalesce(open_calls.unended, 0) AS unended_calls,
       coalesce(leaving.paise, 0) AS set_aside_paise,
       coalesce(leaving.disputed, 0) AS disputed
FROM page
LEFT JOIN open_calls USING (org_id)
LEFT JOIN leaving USING (org_id)
ORDER BY org_id
"""
"""One statement, one moment: `held` and the open calls are of the same. `version` changes whenever the row does.

Unsettled: ended five minutes ago, and nobody has said what it costs. Unended: beyond all that a call can last, ringing
again included, and six hours of looking.
"""


def truth_routes(pool: Pool, *, internal_token: str) -> APIRouter:
    """Behind the internal token. Reads every unsettled call of a page's orgs: for once an hour."""
    router = APIRouter()

    @guarded_by(internal_token)
    async def credit(request: Request) -> Response:
        limit = whole_number(request, "limit", default=MOST_ORGS, least=1, most=MOST_ORGS)
        rows = await pool.fetch(CREDIT, _after(request), limit)
        following = str(rows[-1]["org_id"]) if len(rows) == limit else None
        return json({"data": [row_view(row) for row in rows], "next": following})

    router.add_route("/internal/credit", credit, methods=["GET"])
    return router


def _after(request: Request) -> UUID:
    try:
        return UUID(request.query_params.get("after", str(FIRST)))
    except ValueError:
        raise Problem("invalid_request", "after is the `next` of an earlier answer", param="after") from None
