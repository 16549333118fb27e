"""`/api/v1/limits`: how much an org may do at once."""

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.schemas import METADATA_BYTES, METADATA_KEYS
from cualify_api.limits import queries
from cualify_api.web.auth import caller
from cualify_api.web.body import LIMIT_BYTES
from cualify_api.web.errors import json
from cualify_api.web.rate_limit import QUOTA, WINDOW_SEC
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool, Row

WEBHOOKS: Final = 20
LONGEST_CALL_SEC: Final = 3600


def limit_routes(pool: Pool) -> APIRouter:
    """The route of limits."""
    router = APIRouter()

    @router.get("/api/v1/limits")
    async def get_limits(request: Request) -> Response:
        return json({"data": _view(await queries.limits(pool, caller(request).org_id))})

    return router


def _view(row: Row) -> dict[str, Any]:
    until = row["active_until"]
    active = row["plan"] is not None and row["expired_at"] is None and (until is None or now() < until)
    return {
        "plan": None
        if row["plan"] is None
        else {"name": row["plan"], "active": active, "active_until": None if until is None else rfc3339(until)},
        "rate": {
            "requests": row["rate_limit_per_minute"] or QUOTA,
            "used": row["requests_used"] or 0,
            "window_sec": WINDOW_SEC,
        },
        "concurrent_calls": {
            "limit": (row["max_concurrent_calls"] or 0) if active else 0,
            "used": row["under_way"],
            "waiting": row["waiting"],
        },
        "webhooks": {"limit": WEBHOOKS},
        "request_body": {"bytes": LIMIT_BYTES},
        "metadata": {"bytes": METADATA_BYTES, "keys": METADATA_KEYS},
        "max_duration_sec": LONGEST_CALL_SEC,
    }
