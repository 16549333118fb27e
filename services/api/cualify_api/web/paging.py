"""`limit` and `offset`, and the `pagination` of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from cualify_api.web.errors import Problem

LIMIT: Final = 50
MOST: Final = 100
FARTHEST: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    offset: int

    def of(self, items: Sequence[Any], *, total: int) -> dict[str, Any]:
        """The answer's body."""
        has_more = self.offset + len(items) < total and bool(items)
        return {
            "data": items,
            "pagination": {"limit": self.limit, "offset": self.offset, "total": total, "has_more": has_more},
        }


def page(request: Request) -> Page:
    """From the query; 50 from 0 if it does not say.

    Raises:
        Problem: out of range, or no whole number.
    """
    return Page(
        limit=whole_number(request, "limit", default=LIMIT, least=1, most=MOST),
        offset=whole_number(request, "offset", default=0, least=0, most=FARTHEST),
    )


def whole_number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A whole number from the query. Raises Problem."""
    given = request.query_params.get(name)
    if given is None:
        return default
    if given.isascii() and given.isdecimal() and len(given) <= 10 and least <= int(given) <= most:
        return int(given)
    raise wrong_parameter(name, f"{name} must be a whole number from {least} to {most}")


def wrong_parameter(name: str, message: str) -> Problem:
    """A refusal of one query parameter, in the same form as a field's."""
    details = {"formErrors": [], "fieldErrors": {name: [message]}}
    return Problem("invalid_request", message, param=name, details=details)
