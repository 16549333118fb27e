"""`/api/v1/events`: all that webhooks would say, to be pulled. What was passed is never filled in later."""

import re
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.feed import queries
from cualify_api.web.auth import caller
from cualify_api.web.errors import json
from cualify_api.web.paging import LIMIT, MOST, whole_number, wrong_parameter
from cualify_shared.clock import rfc3339
from cualify_shared.database import Pool, Row
from cualify_shared.ids import notification_id

_ID: Final = re.compile(r"evt_([0-9a-f]{32})")


def feed_routes(pool: Pool) -> APIRouter:
    """The route of the pull feed."""
    router = APIRouter()

    @router.get("/api/v1/events")
    async def list_events(request: Request) -> Response:
        limit = whole_number(request, "limit", default=LIMIT, least=1, most=MOST)
        org_id, given = caller(request).org_id, request.query_params.get("after")
        position = 0 if given is None else await _position(pool, org_id, given)
        rows = await queries.after(pool, org_id, position, limit=limit + 1)
        events, has_more = [event_view(row) for row in rows[:limit]], len(rows) > limit
        following = events[-1]["id"] if events else given
        return json({"data": events, "pagination": {"limit": limit, "next_after": following, "has_more": has_more}})

    return router


def event_view(row: Row) -> dict[str, Any]:
    """An event as the body of a webhook says it."""
    return {
        "id": notification_id(row["id"]),
        "type": row["type"],
        "timestamp": rfc3339(row["at"]),
        "org_id": str(row["org_id"]),
        "sequence": row["sequence"],
        "data": row["data"],
    }


async def _position(pool: Pool, org_id: UUID, given: str) -> int:
    match = _ID.fullmatch(given)
    position = await queries.position(pool, org_id, UUID(match.group(1))) if match else None
    if position is None:
        raise wrong_parameter("after", "after must be the id of an event of this feed — e.g. evt_0190b7a2…")
    return position
