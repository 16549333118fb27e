"""`/api/v1/calls`: place a call, list calls, see one."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, assert_never
from uuid import UUID

import structlog
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cualify_api.calls import listing, queries
from cualify_api.calls.acceptance import NotTaken, Waiting, wished_sec
from cualify_api.calls.cancel import cancel
from cualify_api.calls.decide import Accepted, Decision, Replayed, Request, window
from cualify_api.calls.filters import wanted_calls
from cualify_api.calls.place import Answered, Asked, Placing
from cualify_api.calls.schemas import PlaceCall
from cualify_api.calls.view import accepted, detail, view
from cualify_api.web import scopes
from cualify_api.web.again import retried
from cualify_api.web.auth import Caller, Handler, caller
from cualify_api.web.body import checked, read_json
from cualify_api.web.errors import Problem, add_headers, database_away, json, request_id, request_id_of
from cualify_api.web.idempotency import REPLAYED, fingerprint, idempotency_key
from cualify_api.web.paging import Cursor, keyset_page
from cualify_api.web.rate_limit import RateLimit
from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.ids import new_id

log = structlog.get_logger(__name__)


def place_call(placing: Placing, limit: RateLimit, waiting: Waiting) -> Handler:
    """`POST /api/v1/calls`, met right behind the door: the router, and FastAPI's resolving of dependencies, would take
    half of its time. The rate limit is asked with the batch, or, for what gets into no batch, alone."""

    async def place(scope: Scope, receive: Receive, send: Send, who: Caller) -> None:
        headers = dict(scope["headers"])
        try:
            request = await _request(scope, headers, receive, who)
        except Problem:
            allowance = await limit.hand_in(who.org_id)
            add_headers(scope, allowance.headers())
            allowance.or_refuse()
            raise
        answered = await _answered(placing, Asked(request))
        add_headers(scope, answered.allowance.headers())
        answered.allowance.or_refuse()
        assert answered.decision is not None
        response = _answer(answered.decision, id_of_request=request.request_id)
        if b"prefer" in headers and isinstance(answered.decision, Accepted):
            await _hold(response, _preferred(scope), request.call_id, waiting)
        await response(scope, receive, send)

    return place


async def _answered(placing: Placing, asked: Asked) -> Answered:
    """Raises Problem where the database went away in the middle of it and did not come back in time."""
    try:
        return await placing.hand_in(asked)
    except Exception as error:
        if asked.in_doubt is None or not is_passing(error):
            raise
        log.error("call_in_doubt", call_id=str(asked.request.call_id), error=type(error).__name__)
        raise database_away(
            "our database went away while the call was placed, and whether it was is not known: see whether there is a"
            " call by this id, or ask again under the same Idempotency-Key or external_id",
            details={"call_id": str(asked.request.call_id)},
        ) from None


def _answer(decision: Decision, *, id_of_request: str) -> Response:
    """Raises Problem."""
    match decision:
        case Accepted(call=call):
            return json({"data": accepted(call)}, status=201)
        case Replayed(status=status, answer=answer):
            return json(_with_request_id(answer, id_of_request), status=status, headers=REPLAYED)
        case Problem():
            raise decision
        case _:
            assert_never(decision)


def _preferred(scope: Scope) -> str:
    """All wishes, of as many headers as they were written in."""
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"prefer")


async def _hold(response: Response, prefer: str, call_id: UUID, waiting: Waiting) -> None:
    """Keeps the answer back as the client wishes. Raises Problem where the provider refuses meanwhile."""
    seconds = wished_sec(prefer)
    if seconds is None:
        return
    known = await waiting.until_taken(call_id, seconds=seconds)
    if isinstance(known, NotTaken):
        details = {"call_id": str(call_id), "ended_reason": known.ended_reason}
        raise Problem("upstream_error", "the provider refused the call", details=details)
    response.headers["Preference-Applied"] = f"wait={seconds}"


def call_routes(pool: Pool, *, committed: Callable[[], None]) -> APIRouter:
    """The other routes of calls."""
    router = APIRouter()

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

    @router.post("/api/v1/calls/{call_id}/cancel")
    async def cancel_call(http: HttpRequest, call_id: str) -> Response:
        org_id, wanted = caller(http).org_id, as_id(call_id, "call")
        if await retried("cancel", lambda: cancel(pool, org_id=org_id, call_id=wanted, request_id=request_id(http))):
            committed()
        return json({"data": await shown(pool, wanted, org_id=org_id)})

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


async def _request(scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, who: Caller) -> Request:
    """The request, checked. Raises Problem."""
    scopes.check(who.scopes, "POST", scope["path"])
    key = idempotency_key(headers)
    content = await read_json(headers, receive)
    body = checked(PlaceCall, content)
    request = Request(
        call_id=new_id(),
        org_id=who.org_id,
        key_prefix=who.key_prefix,
        request_id=request_id_of(scope),
        at=now(),
        body=body,
        idempotency_key=key,
        fingerprint=_fingerprint(content, who) if key is not None or body.external_id is not None else None,
        test=who.test,
    )
    _check_window(request)
    return request


def _fingerprint(content: Any, who: Caller) -> bytes:
    """A test key and a live key ask for different things with the same body."""
    return fingerprint({"test": content} if who.test else content)


def _check_window(request: Request) -> None:
    if request.body.schedule is None:
        return
    try:
        earliest_at, latest_at = window(request)
    except OverflowError:
        raise _wrong_window("schedule.earliest_at is too far away") from None
    if latest_at <= (earliest_at or request.at):
        raise _wrong_window("schedule.latest_at must lie in the future, after schedule.earliest_at")
    waits = request.body.retry.waits if request.body.retry else ()
    if latest_at - (earliest_at or request.at) <= sum(waits, timedelta()):
        raise _wrong_window("schedule.latest_at leaves no time for all attempts that retry asks for")


def _wrong_window(message: str) -> Problem:
    details = {"formErrors": [], "fieldErrors": {"schedule": [message]}}
    return Problem("invalid_request", message, param="schedule.latest_at", details=details)


def _with_request_id(answer: dict[str, object], id_of_request: str) -> dict[str, object]:
    error = answer.get("error")
    return {"error": {**error, "request_id": id_of_request}} if isinstance(error, dict) else answer
