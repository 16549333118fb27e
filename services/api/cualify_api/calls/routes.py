"""`/api/v1/calls`: place a call, list calls, see one."""

from typing import assert_never
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cualify_api.calls import listing, queries
from cualify_api.calls.decide import Accepted, Replayed, Request, window
from cualify_api.calls.filters import wanted_calls
from cualify_api.calls.place import Placing
from cualify_api.calls.schemas import PlaceCall
from cualify_api.calls.view import accepted, detail, view
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json, request_id
from cualify_api.web.idempotency import REPLAYED, fingerprint, idempotency_key
from cualify_api.web.paging import Cursor, keyset_page
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.ids import new_id


def call_routes(placing: Placing, pool: Pool) -> APIRouter:
    """The routes of calls."""
    router = APIRouter()

    async def place_call(http: HttpRequest) -> Response:
        request = await _request(http)
        decision = await placing.submit(request)
        match decision:
            case Accepted(call=call):
                return json({"data": accepted(call)}, status=201)
            case Replayed(status=status, answer=answer):
                return json(_with_request_id(answer, http), status=status, headers=REPLAYED)
            case Problem():
                raise decision
            case _:
                assert_never(decision)

    # A plain route: FastAPI's own, with its resolving of dependencies, would take half of the time of placing a call.
    router.add_route("/api/v1/calls", place_call, methods=["POST"])

    @router.get("/api/v1/calls")
    async def list_calls(http: HttpRequest) -> Response:
        page, wanted = keyset_page(http), wanted_calls(http)
        found = await listing.listed(
            pool, caller(http).org_id, wanted, start=page.start, limit=page.limit, offset=page.offset
        )
        content = page.of(
            found.calls,
            view,
            total=found.total,
            cursor=lambda last: Cursor(last.created_at, last.id),
            total_is_exact=found.total_is_exact,
        )
        return json(content)

    @router.get("/api/v1/calls/{call_id}")
    async def get_call(http: HttpRequest, call_id: str) -> Response:
        return json({"data": await shown(pool, as_id(call_id, "call"), org_id=caller(http).org_id)})

    return router


async def shown(pool: Pool, call_id: UUID, *, org_id: UUID | None) -> dict[str, object]:
    """A call with transcript and timeline, all of one moment. `org_id` None: an operator asks. Raises Problem."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        if org_id is None:
            call = await queries.get_for_operator(connection, call_id)
        else:
            call = await queries.get(connection, org_id, call_id)
        if call is None:
            raise Problem("not_found", "there is no such call")
        said = await queries.transcript(connection, call.org_id, call.id) if call.has_transcript else None
        return detail(call, transcript=said, timeline=await queries.timeline(connection, call.org_id, call.id))


def as_id(given: str, what: str) -> UUID:
    """An id from a path. What is no UUID names nothing. Raises Problem."""
    try:
        return UUID(given)
    except ValueError:
        raise Problem("not_found", f"there is no such {what}") from None


async def _request(http: HttpRequest) -> Request:
    """The request, checked. Raises Problem."""
    who, key = caller(http), idempotency_key(http)
    content = await json_body(http)
    body = checked(PlaceCall, content)
    request = Request(
        call_id=new_id(),
        org_id=who.org_id,
        key_prefix=who.key_prefix,
        request_id=request_id(http),
        at=now(),
        body=body,
        idempotency_key=key,
        fingerprint=fingerprint(content) if key is not None or body.external_id is not None else None,
    )
    _check_window(request)
    return request


def _check_window(request: Request) -> None:
    if request.body.schedule is None:
        return
    earliest_at, latest_at = window(request)
    if latest_at <= (earliest_at or request.at):
        name, message = "schedule.latest_at", "schedule.latest_at must lie in the future, after schedule.earliest_at"
        details = {"formErrors": [], "fieldErrors": {"schedule": [message]}}
        raise Problem("invalid_request", message, param=name, details=details)


def _with_request_id(answer: dict[str, object], http: HttpRequest) -> dict[str, object]:
    error = answer.get("error")
    return {"error": {**error, "request_id": request_id(http)}} if isinstance(error, dict) else answer
