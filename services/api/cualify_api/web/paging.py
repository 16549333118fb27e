"""`limit` and `offset`, or `limit` and `cursor`, and the `pagination` of the answer.

An offset is counted through, so a deep one is slow; a cursor says where the last page ended and is fast anywhere.
"""

import base64
import binascii
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from starlette.requests import Request

from cualify_api.web.errors import Problem

LIMIT: Final = 50
MOST: Final = 100
FARTHEST: Final = 1_000_000_000
_CURSOR: Final = struct.Struct(">q16s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Item = TypeVar("Item")


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


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended, in a list that is ordered by an instant and an id, newest first."""

    at: datetime
    id: UUID

    def text(self) -> str:
        """Opaque to customers: microseconds and id."""
        microseconds = (self.at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(_CURSOR.pack(microseconds, self.id.bytes)).decode().rstrip("=")


TOP: Final = Cursor(datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class KeysetPage:
    """Which part of a list is wanted: what comes after `start`, less `offset`."""

    limit: int
    offset: int
    start: Cursor

    def of(
        self,
        found: Sequence[Item],
        view: Callable[[Item], dict[str, Any]],
        *,
        total: int,
        cursor: Callable[[Item], Cursor],
        **more: Any,
    ) -> dict[str, Any]:
        """The answer's body. `found` holds one more than `limit` where there is more."""
        items, has_more = found[: self.limit], len(found) > self.limit
        return {
            "data": [view(item) for item in items],
            "pagination": {
                "limit": self.limit,
                "offset": self.offset,
                "total": total,
                "has_more": has_more,
                "next_cursor": cursor(items[-1]).text() if has_more else None,
                **more,
            },
        }


def keyset_page(request: Request) -> KeysetPage:
    """From the query. Raises Problem; also for a cursor together with an offset, which would mean two places."""
    wanted, given = page(request), request.query_params.get("cursor")
    if given is None:
        return KeysetPage(wanted.limit, wanted.offset, TOP)
    if wanted.offset:
        raise wrong_parameter("offset", "offset can't be combined with cursor")
    return KeysetPage(wanted.limit, 0, _cursor(given))


def _cursor(given: str) -> Cursor:
    try:
        if len(given) == 32 and given.isascii():
            microseconds, raw = _CURSOR.unpack(base64.b64decode(given, altchars=b"-_", validate=True))
            return Cursor(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=raw))
    except (binascii.Error, struct.error, OverflowError):
        pass
    raise wrong_parameter("cursor", "cursor must be the next_cursor of an earlier answer")


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
