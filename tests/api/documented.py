"""What the OpenAPI document says about an answer, and whether the answer keeps to it."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from cualify_api.openapi.document import document

METHODS = ("get", "put", "post", "patch", "delete")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation), all of them."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def routes(app: FastAPI, *, under: str = "/api/v1") -> set[tuple[str, str]]:
    """(method, path) of every route of the app, those of included routers too."""
    return {
        (method.lower(), path)
        for route in _flat(app.routes)
        if (path := getattr(route, "path", "")).startswith(under)
        for method in getattr(route, "methods", None) or ()
        if method not in ("HEAD", "OPTIONS")
    }


def _flat(found: Any) -> Iterator[Any]:
    for route in found:
        inside = getattr(getattr(route, "original_router", None), "routes", None)
        if inside is None:
            yield route
        else:
            yield from _flat(inside)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference points to; anything else as it is."""
    if "$ref" not in part:
        return part
    found: Any = document()
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def errors(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong about a value; references lead into the document."""
    whole = {**schema, "components": document()["components"]}
    checker = Draft202012Validator.FORMAT_CHECKER
    found = validator_for(whole, default=Draft202012Validator)(whole, format_checker=checker).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


def check(method: str, path: str, status: int, body: Any, headers: Mapping[str, str]) -> None:
    """Fails where the document does not expect this answer. Paths that it does not know are none of its business."""
    operation = _operation(method.lower(), path.partition("?")[0])
    if operation is None:
        return
    assert str(status) in operation["responses"], f"{method} {path} answered {status}, which is not documented"
    described = resolved(operation["responses"][str(status)])
    if status < 400:
        missing = {name for name in described["headers"] if name not in headers}
        assert not missing, f"{method} {path} {status} came without {missing}"
    content = described.get("content")
    if content is not None:
        assert errors(content["application/json"]["schema"], body) == [], f"{method} {path} {status}"


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, methods in _patterns():
        if pattern.fullmatch(path):
            found: dict[str, Any] | None = methods.get(method)
            return found
    return None


@cache
def _patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    return [
        (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), methods)
        for path, methods in document()["paths"].items()
    ]
