"""HTTP between the services: the bearer guard, bounded bodies, and errors that never leave the envelope.

app = internal_app(internal_token=…)

@app.get("/internal/things/{thing_id}")
async def show(thing_id: UUID) -> Response:
    raise Refused(404, "no such thing")
"""

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cualify_shared.database import is_passing
from cualify_shared.operator_routes import problem
from cualify_shared.signing import same_secret

log = structlog.get_logger(__name__)

LARGEST_BODY_BYTES = 64 * 1024
_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    422: "invalid_request",
}


_UNAUTHORIZED = problem(401, "unauthorized", "this route takes the internal bearer token")


def internal_app(*, internal_token: str) -> FastAPI:
    """An app whose `/internal/…` routes take the internal token, and whose every error is in the envelope."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Door, internal_token=internal_token)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


class Refused(Exception):
    """An expected refusal: its status, and what the caller is told."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class BodyTooLarge(Exception):
    """A request's body is beyond `LARGEST_BODY_BYTES`; what is left of it is not read."""


class Door:
    """Asks for the token before anything is read of a request to `/internal/…`, and turns a crash into an answer."""

    def __init__(self, app: ASGIApp, *, internal_token: str) -> None:
        self._app, self._expected = app, f"Bearer {internal_token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"].startswith("/internal") and not self._may_enter(scope):
            return await _UNAUTHORIZED(scope, receive, send)
        answering = _Answering(send)
        try:
            await self._app(scope, _bounded(receive), answering)
        except Exception as error:
            log.error("request_failed", path=scope["path"], error=repr(error), exc_info=not is_passing(error))
            if answering.began:
                raise
            await _answer_to(error)(scope, receive, send)

    def _may_enter(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and same_secret(given[0].decode("latin-1"), self._expected)


class _Answering:
    """Passes an answer on and remembers that it began: then no other can be given."""

    def __init__(self, send: Send) -> None:
        self._send, self.began = send, False

    async def __call__(self, message: Message) -> None:
        self.began = True
        await self._send(message)


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def receive_some() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST_BODY_BYTES:
            raise BodyTooLarge
        return message

    return receive_some


def _answer_to(error: Exception) -> Response:
    if isinstance(error, BodyTooLarge):
        return problem(413, "payload_too_large", f"a body has at most {LARGEST_BODY_BYTES} bytes")
    if is_passing(error):
        return problem(503, "unavailable", "the database is away or busy: ask again")
    return problem(500, "internal_error", "this went wrong on our side")


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, _CODES.get(error.status, "invalid_request"), error.message, param=error.param)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    form: list[str] = []
    fields: dict[str, list[str]] = {}
    for one in error.errors():
        where = ".".join(str(part) for part in one["loc"][1:])
        if one["type"] == "json_invalid":
            form.append("the body is no JSON")
        elif not where:
            form.append("a JSON object is expected, with Content-Type: application/json")
        else:
            fields.setdefault(where, []).append(one["msg"])
    param = next(iter(fields), None)
    message = f"{param}: {fields[param][0]}" if param else form[0]
    details = {"formErrors": form, "fieldErrors": fields}
    return problem(400, "invalid_request", message, param=param, details=details)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # FastAPI wraps what breaks while it reads a body.
    if isinstance(error.__cause__, BodyTooLarge):
        return _answer_to(error.__cause__)
    return problem(error.status_code, _CODES.get(error.status_code, "invalid_request"), str(error.detail))
