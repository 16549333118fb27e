"""How a route is described: what it takes, what it answers, and every code it may refuse with."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cualify_api.openapi import examples
from cualify_api.openapi.schemas import UUID, Schema, ref
from cualify_api.web.errors import STATUS, Code

Operation: TypeAlias = dict[str, Any]
Paths: TypeAlias = dict[str, dict[str, Operation]]

EVERYWHERE: Final[tuple[Code, ...]] = (
    "invalid_request",
    "unauthorized",
    "forbidden",
    "too_many_requests",
    "internal_error",
)
NAMED: Final[tuple[Code, ...]] = (*EVERYWHERE, "not_found")
WITH_BODY: Final[tuple[Code, ...]] = (*EVERYWHERE, "payload_too_large", "conflict")
FORWARDED: Final[tuple[Code, ...]] = ("upstream_error", "not_found")

AWAY: Final = "database_away"
"""The name of an answer of its own: `internal_error` that passes by itself, with a status of its own."""

NEXT: Final = {"limit": 50, "offset": 0, "total": 1247, "has_more": True}
NEXT_WITH_CURSOR: Final = {**NEXT, "next_cursor": examples.NEXT_CURSOR}


def parameter(name: str, schema: Schema, about: str, *, where: str = "query", example: Any = None) -> Schema:
    """A parameter of the query, the path or the header."""
    made: Schema = {"name": name, "in": where, "schema": schema, "description": about}
    if where == "path":
        made["required"] = True
    return made if example is None else {**made, "example": example}


def path_id(name: str, example: str) -> Schema:
    """An id in the path."""
    return parameter(name, UUID, "An id of yours.", where="path", example=example)


LIMIT: Final = parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}, "How many.")
OFFSET: Final = parameter(
    "offset",
    {"type": "integer", "minimum": 0, "maximum": 1_000_000_000, "default": 0},
    "How many to pass over. They are counted through, so deep ones are slow: use `cursor`.",
)
CURSOR: Final = parameter(
    "cursor", {"type": "string"}, "The `next_cursor` of the page before; as fast anywhere. Not together with `offset`."
)
IDEMPOTENCY_KEY: Final = parameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "The first answer under a key is given again to the same body, for a day at least, with `Idempotency-Replayed: "
    "true`; another body is refused with `conflict`.",
    where="header",
)
PREFER: Final = parameter(
    "Prefer",
    {"type": "string"},
    "`wait=N`, N at most 10: holds the answer until the provider has accepted the call, or N seconds. A refusal in "
    "that time is `upstream_error`.",
    where="header",
    example="wait=5",
)


def content(schema: Schema, example: Any) -> dict[str, Any]:
    """JSON of a schema, with an example."""
    return {"application/json": {"schema": schema, "example": example}}


OF_THE_LIMIT: Final = (
    "RateLimit-Policy",
    "RateLimit",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)


def headers(*names: str) -> dict[str, Any]:
    """Headers of an answer; the request's id is on every one."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def success(status: int, about: str, schema: Schema, example: Any) -> dict[str, Any]:
    """A success, by its status."""
    described = {"description": about, "headers": headers(*OF_THE_LIMIT), "content": content(schema, example)}
    return {str(status): described}


def operation(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[str, Any],
    *,
    about: str = "",
    parameters: tuple[Schema, ...] = (),
    body: tuple[str, Any] | None = None,
    refusals: tuple[Code, ...] = EVERYWHERE,
) -> Operation:
    """One method of a path. `refusals`: every code that it may refuse with; `body`: a schema's name and an example."""
    made: Operation = {"operationId": name, "tags": [tag], "summary": summary}
    if about:
        made["description"] = about
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        made["requestBody"] = {"required": True, "content": content(ref(body[0]), body[1])}
    refused = {str(STATUS[code]): {"$ref": f"#/components/responses/{code}"} for code in STATUS if code in refusals}
    if "internal_error" in refusals:
        refused["503"] = {"$ref": f"#/components/responses/{AWAY}"}
    made["responses"] = dict(sorted({**answers, **refused}.items()))
    return made
