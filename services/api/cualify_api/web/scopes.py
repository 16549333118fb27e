"""What a key may be limited to, and which of it a route asks for."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from cualify_api.web.errors import Problem

Scope = Literal[
    "calls:write",
    "calls:read",
    "contacts:write",
    "contacts:read",
    "webhooks:write",
    "webhooks:read",
    "wallet:write",
    "wallet:read",
    "events:read",
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

AREAS: Final[Mapping[str, str | None]] = {
    "calls": "calls",
    "agents": "calls",
    "contacts": "contacts",
    "webhooks": "webhooks",
    "wallet": "wallet",
    "ledger": "wallet",
    "events": "events",
    "limits": None,
    "openapi.json": None,
}
"""Of the first word after `/api/v1/`. None: any key may."""


def needed(method: str, path: str) -> str | None:
    """The scope that a route under `/api/v1` asks for; None where any key may, or where there is nothing."""
    area = AREAS.get(path.split("/", 4)[3] if path.count("/") >= 3 else "")
    return None if area is None else f"{area}:{'read' if method in ('GET', 'HEAD') else 'write'}"


def check(scopes: frozenset[str] | None, method: str, path: str) -> None:
    """Raises Problem where a key with these scopes (None: all) may not ask this."""
    if scopes is None:
        return
    scope = needed(method, path)
    if scope is not None and scope not in scopes:
        reason = f"this key lacks the scope {scope}"
        raise Problem("forbidden", reason, details={"reason": reason, "missing_scope": scope})
