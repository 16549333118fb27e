"""What every route shares: the bearer guard, bounded bodies, and errors that never leave the envelope."""

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cualify_shared.database import is_passing
from cualify_shared.operator_routes import json, problem
from cualify_shared.signing import same_secret

log = structlog.get_logger(__name__)

LARGEST_BODY_BYTES = 16_384
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


def keep_errors_in_the_envelope(app: FastAPI) -> None:
    """Unknown paths, wrong methods and invalid requests answer as everything else does."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


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
    return _invalid(message, param=param, details={"formErrors": form, "fieldErrors": fields})


def _invalid(message: str, *, param: str | None, details: dict[str, object]) -> Response:
    named = {"param": param} if param else {}
    return json({"error": {"code": "invalid_request", "message": message, **named, "details": details}}, status=400)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # FastAPI wraps what breaks while it reads a body.
    if isinstance(error.__cause__, BodyTooLarge):
        return _answer_to(error.__cause__)
    return problem(error.status_code, _CODES.get(error.status_code, "invalid_request"), str(error.detail))
