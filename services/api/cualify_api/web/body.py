"""A request's body: JSON of at most 64 KB, checked against a model once; what is wrong is told in zod's flat form."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from cualify_api.web.errors import Problem

LIMIT_BYTES: Final = 64 * 1024
SHAPES: Final[Mapping[str, str]] = {
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "an array",
    "tuple_type": "an array",
}
"""What JSON calls that which Python has other words for."""

Model = TypeVar("Model", bound=BaseModel)


async def json_body(request: Request) -> Any:
    """The body as parsed JSON.

    Raises:
        Problem: not said to be JSON, too large, or not JSON.
    """
    return await read_json(dict(request.scope["headers"]), request.receive)


async def read_json(headers: Mapping[bytes, bytes], receive: Receive) -> Any:
    """The same, where there is no request. Headers by their lower-case names.

    Raises:
        Problem: as above.
        ClientDisconnect: the client went away, or took longer than the protocol lets it.
    """
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json" and not _is_json(kind.partition(b";")[0].strip().lower()):
        raise Problem("invalid_request", "the body must be JSON: send Content-Type: application/json")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > LIMIT_BYTES:
        raise _too_large()
    raw = await _read(receive)
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_request", f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    if b"\\u0000" in raw and _has_nul(content):
        raise Problem("invalid_request", "the body holds the character U+0000, which can't be stored")
    return content


def _is_json(kind: bytes) -> bool:
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > LIMIT_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return body


def checked(model: type[Model], content: Any) -> Model:
    """`content` as the model.

    Raises:
        Problem: with `param`, the first wrong field, and all of them in `details`.
    """
    if not isinstance(content, dict):
        raise _refusal([], ["the body must be a JSON object"], param=None)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise as_problem(error) from None


def as_problem(error: ValidationError) -> Problem:
    """A validation failure as the customer is told it; never with the values, which may be personal."""
    wrong = error.errors(include_input=False, include_url=False)
    fields = [(one["loc"], _said(one)) for one in wrong]
    return _refusal(
        [(str(loc[0]), said) for loc, said in fields if loc],
        [said for loc, said in fields if not loc],
        param=next((".".join(map(str, loc)) for loc, _ in fields if loc), None),
    )


def _refusal(fields: list[tuple[str, str]], form: list[str], *, param: str | None) -> Problem:
    by_field: dict[str, list[str]] = {}
    for name, said in fields:
        by_field.setdefault(name, []).append(said)
    message = fields[0][1] if fields else form[0]
    return Problem("invalid_request", message, param=param, details={"formErrors": form, "fieldErrors": by_field})


def _said(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name} is required"
    if name and error["type"] in SHAPES:
        return f"{name} must be {SHAPES[error['type']]}"
    if error["type"] == "said" or not name:
        return error["msg"]
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _too_large() -> Problem:
    return Problem(
        "payload_too_large", f"a request body has at most {LIMIT_BYTES} bytes", headers={"Connection": "close"}
    )


def _has_nul(content: Any) -> bool:
    if isinstance(content, str):
        return "\0" in content
    if isinstance(content, dict):
        return any("\0" in name or _has_nul(value) for name, value in content.items())
    return isinstance(content, list) and any(map(_has_nul, content))
