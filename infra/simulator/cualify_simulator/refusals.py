"""How Bolna says no: the shapes of its error bodies, which differ from one kind of refusal to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MALFORMED = 1001


@dataclass(eq=False)
class Refusal(Exception):
    """Becomes the answer. A `noted` one is also an entry of kind `refused` in the journal: the client did wrong."""

    status: int
    body: Mapping[str, Any]
    noted: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    to_e164: str | None = None
    cualify_ref: str | None = None


def malformed(message: str) -> dict[str, Any]:
    return {"error": MALFORMED, "message": message}


def error(status: int, message: str) -> dict[str, Any]:
    return {"error": status, "message": message}


def bad_field(path: str, message: str, *, place: str = "body", kind: str = "value_error") -> dict[str, Any]:
    return {"detail": [{"loc": [place, *path.split(".")], "msg": message, "type": kind}]}


def not_found(what: str) -> Refusal:
    """Asking for what is not there is no breach of the protocol."""
    return Refusal(404, error(404, f"{what} not found"), noted=False)


def reason_of(body: Mapping[str, Any]) -> str:
    """One line for the journal, whatever shape the body has."""
    if "message" in body:
        return str(body["message"])
    detail = body.get("detail")
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in detail)
    return str(detail)
