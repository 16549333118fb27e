"""The OpenAPI 3.1 document of `/api/v1`. Its committed copy is services/api/openapi.json:

python -m cualify_api.openapi.document [--check]
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson

from cualify_api.openapi import examples
from cualify_api.openapi.building import AWAY, OF_THE_LIMIT, headers
from cualify_api.openapi.links import with_links
from cualify_api.openapi.operations import PATHS
from cualify_api.openapi.schemas import SCHEMAS, ref
from cualify_api.web.errors import STATUS, Code

COMMITTED: Final = Path(__file__).parents[2] / "openapi.json"

_INTRODUCTION: Final = """\
JSON over HTTPS. Place a call when a lead arrives; receive the outcome by webhook, or pull it.

Within `v1` we only add: fields, routes, values. Pass over what you don't know. Money is in whole paise, times are
RFC 3339 in UTC.

Every answer that is no success has the same envelope: switch on `error.code`. Each org has 120 requests a minute (or
its plan's number) over all routes and keys, in a sliding window; `RateLimit` and `RateLimit-Policy` on every answer say
what is left.
"""

_ABOUT: Final[dict[Code, str]] = {
    "invalid_request": "Something is wrong about the request; `param` names it.",
    "unauthorized": "No valid API key.",
    "insufficient_credits": "The wallet does not cover the call; `details` say by how much.",
    "forbidden": "There is no active plan, the number is not yours, or the key lacks a scope.",
    "not_found": "There is nothing by that name, or not in your org.",
    "conflict": "It contradicts what is there: the same key with another body, a call that is over.",
    "payload_too_large": "A body has at most 64 KB.",
    "too_many_requests": "Try again after `Retry-After` seconds; a request made then passes.",
    "internal_error": "Our fault. Asking again under the same Idempotency-Key is safe.",
    "upstream_error": "What we asked on your behalf did not answer, or refused.",
}

_TAGS: Final = {
    "Calls": "Place calls, and see what became of them.",
    "Contacts": "Keep the contact book in step with your CRM.",
    "Webhooks": "Be told of events, signed.",
    "Events": "Pull the same events instead.",
    "Account": "Agents, money and limits.",
}


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cualify REST API", "version": "1.0.0", "description": _INTRODUCTION},
        "servers": [{"url": "https://app.cualify.in"}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": with_links(PATHS),
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "cuk_live_<8>_<32>",
                    "description": "An API key of your org. A `cuk_test_` key places calls on the simulator.",
                }
            },
            "headers": {
                "X-Request-Id": {
                    "schema": {"type": "string"},
                    "required": True,
                    "description": "Names the request; say it to support.",
                },
                "Retry-After": _header("Seconds.", least=1),
                "RateLimit-Policy": _header("How many requests in how many seconds.", example='"org";q=120;w=60'),
                "RateLimit": _header(
                    "What is left, and in how many seconds there is more.", example='"org";r=119;t=60'
                ),
                "X-RateLimit-Limit": _header("Requests a minute, of the whole org."),
                "X-RateLimit-Remaining": _header("What is left of them."),
                "X-RateLimit-Reset": _header("Seconds until the oldest request of the minute no longer counts."),
            },
            "responses": {**{code: _refusal(code) for code in STATUS}, AWAY: _away()},
            "schemas": SCHEMAS,
        },
    }


def _header(about: str, *, least: int = 0, example: str | None = None) -> dict[str, Any]:
    if example is not None:
        return {"schema": {"type": "string"}, "description": about, "example": example}
    return {"schema": {"type": "integer", "minimum": least}, "description": about}


def _refusal(code: Code) -> dict[str, Any]:
    """Who has no key has no org, and so no limit of one."""
    of_the_limit = () if code == "unauthorized" else OF_THE_LIMIT
    waits = ("Retry-After",) if code in ("too_many_requests", "conflict") else ()
    return {
        "description": f"`{code}`: {_ABOUT[code]}",
        "headers": headers(*of_the_limit, *waits),
        "content": {"application/json": {"schema": ref("Error"), "example": examples.error(code)}},
    }


def _away() -> dict[str, Any]:
    """It may have failed before the org's limit was asked."""
    return {
        "description": "`internal_error`: our database is away. Try again after `Retry-After` seconds, a POST under "
        "the same Idempotency-Key; where it is not known whether a call was placed, `details.call_id` is its id.",
        "headers": headers("Retry-After"),
        "content": {"application/json": {"schema": ref("Error"), "example": examples.DATABASE_AWAY}},
    }


def printed() -> bytes:
    """The document as the committed copy has it."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main() -> None:
    """Writes the copy, or, with `--check`, says whether it is true."""
    if sys.argv[1:] == ["--check"]:
        if not COMMITTED.exists() or COMMITTED.read_bytes() != printed():
            sys.exit(f"{COMMITTED.name} is stale: python -m cualify_api.openapi.document")
        return
    COMMITTED.write_bytes(printed())


if __name__ == "__main__":
    main()
