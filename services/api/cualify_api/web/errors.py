"""The envelope: every answer that is no success has the same shape, and every answer has an `X-Request-Id`.

{"error": {"code": "invalid_request", "message": "…", "param": "to_e164", "details": {…}, "request_id": "req_…"}}
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cualify_shared.batch import Overloaded
from cualify_shared.database import is_passing
from cualify_shared.ids import new_hex

log = structlog.get_logger(__name__)

Code = Literal[
    "invalid_request",
    "unauthorized",
    "insufficient_credits",
    "forbidden",
    "not_found",
    "conflict",
    "payload_too_large",
    "too_many_requests",
    "internal_error",
    "upstream_error",
]

STATUS: Final[Mapping[Code, int]] = {
    "invalid_request": 400,
    "unauthorized": 401,
    "insufficient_credits": 402,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "payload_too_large": 413,
    "too_many_requests": 429,
    "internal_error": 500,
    "upstream_error": 502,
}

METHODS: Final = ("DELETE", "GET", "PATCH", "POST", "PUT")

_OTHER_STATUS: Final[Mapping[int, Code]] = {405: "invalid_request", 415: "invalid_request"}

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

SAFE: Final[Mapping[bytes, bytes]] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"referrer-policy": b"no-referrer",
    b"strict-transport-security": b"max-age=63072000; includeSubDomains",
    b"x-content-type-options": b"nosniff",
}
"""On every answer, but where the route has set its own: a page needs another content policy than an answer in JSON."""
_SAFE: Final = list(SAFE.items())

_GIVEN_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.\-]{1,100}")


@dataclass(slots=True, eq=False)
class Problem(Exception):
    """An expected refusal, as the customer is told it."""

    code: Code
    message: str
    param: str | None = None
    details: Mapping[str, Any] | None = None
    status: int | None = None
    """Where it differs from the code's own: 405."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The envelope, without the request's id."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.param is not None:
            error["param"] = self.param
        if self.details is not None:
            error["details"] = self.details
        return {"error": error}


def database_away(message: str, *, details: Mapping[str, Any] | None = None) -> Problem:
    """What passes by itself: 503, under the code that the contract has for our side's failures."""
    return Problem("internal_error", message, details=details, status=503, headers={"Retry-After": "1"})


def json(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer; instants must be strings already."""
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def request_id(request: Request) -> str:
    """The id that this request's answer carries."""
    return request_id_of(request.scope)


def request_id_of(scope: Scope) -> str:
    """The same, where there is only a scope."""
    name: str = scope["state"]["request_id"]
    return name


def add_headers(scope: Scope, headers: RawHeaders) -> None:
    """Has the answer carry these, whatever it will be."""
    more: RawHeaders = scope["state"]["headers"]
    more += headers


def answer_problem(problem: Problem, *, id_of_request: str) -> Response:
    """A refusal in the envelope."""
    body = problem.body()
    body["error"]["request_id"] = id_of_request
    return json(body, status=problem.status or STATUS[problem.code], headers=problem.headers)


async def on_problem(request: Request, error: Exception) -> Response:
    """Handler for `Problem`."""
    assert isinstance(error, Problem)
    return answer_problem(error, id_of_request=request_id(request))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handler for what the router raises: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return answer_problem(_as_problem(error, request), id_of_request=request_id(request))


def _as_problem(error: HTTPException, request: Request) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Problem("not_found", f"there is nothing at {request.url.path}", headers=headers)
    if error.status_code == 405:
        headers |= {"Allow": ", ".join(_methods_at(request))}
        return Problem("invalid_request", f"{request.method} is not possible here", status=405, headers=headers)
    by_status = {status: code for code, status in STATUS.items()} | dict(_OTHER_STATUS)
    code = by_status.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    return Problem(code, HTTPStatus(error.status_code).phrase, status=error.status_code, headers=headers)


def _methods_at(request: Request) -> Iterator[str]:
    """Of all routes of the path, those before the router included: its own answer names those of the first one only."""
    for method in METHODS:
        scope = {**request.scope, "method": method}
        direct = (method, scope["path"]) in getattr(request.app, "direct", {})
        if direct or any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            yield method


class Envelope:
    """ASGI middleware, the outermost: names the request, and turns whatever comes out of the rest into the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = _name_of(scope)
        more: RawHeaders = [(b"x-request-id", name.encode())]
        state = scope.setdefault("state", {})
        state["request_id"], state["headers"] = name, more
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_safe(message.get("headers", ())) + more
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            problem = _as_known(error, path=scope["path"], name=name)
            await answer_problem(problem, id_of_request=name)(scope, receive, send_named)


def _with_safe(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    own = list(headers)
    names = {header for header, _ in own}
    if names.isdisjoint(SAFE):
        return own + _SAFE
    return own + [one for one in _SAFE if one[0] not in names]


def _as_known(error: Exception, *, path: str, name: str) -> Problem:
    match error:
        case Problem():
            return error
        case Overloaded():
            return Problem("too_many_requests", "too much is waiting already; try again", headers={"Retry-After": "1"})
        case _ if is_passing(error):
            log.error("request_failed", path=path, request_id=name, error=type(error).__name__)
            return database_away("our database is away at the moment; try again")
        case _:
            log.error("request_crashed", path=path, request_id=name, exc_info=error)
            return Problem(
                "internal_error", "something went wrong on our side; with the request id we can find out what"
            )


def _name_of(scope: Scope) -> str:
    for header, value in scope["headers"]:
        if header == b"x-request-id" and _GIVEN_REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req_{new_hex()}"
