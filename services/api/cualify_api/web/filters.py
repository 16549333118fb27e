"""Filters of lists, from the query. An unknown parameter is passed over, a wrong value is refused with its name."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic_core import PydanticCustomError
from starlette.requests import Request

from cualify_api.calls import schemas
from cualify_api.web.paging import wrong_parameter

LONGEST: Final = 1000
"""Characters of a text to compare with. What is stored is not longer, or could not be asked for by a URL."""
_KEYED: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def one_of(request: Request, name: str, known: Sequence[str]) -> str | None:
    """One of the known values. Raises Problem."""
    given = request.query_params.get(name)
    if given is not None and given not in known:
        raise wrong_parameter(name, f"{name} must be one of {', '.join(known)}")
    return given


def some_of(request: Request, name: str, known: Sequence[str]) -> tuple[str, ...] | None:
    """Known values, with commas between them, each once. Raises Problem."""
    given = request.query_params.get(name)
    if given is None:
        return None
    values = tuple(dict.fromkeys(given.split(",")))
    if not set(values) <= set(known):
        raise wrong_parameter(name, f"{name} must be of {', '.join(known)}; with commas between several")
    return values


def e164_number(request: Request, name: str) -> str | None:
    """A phone number. A `+` that was not escaped arrives as a space, and is meant. Raises Problem."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        return schemas.e164(name)("+" + given[1:] if given.startswith(" ") else given)
    except PydanticCustomError as error:
        raise wrong_parameter(name, error.message()) from None


def instant(request: Request, name: str) -> datetime | None:
    """An RFC 3339 time with its zone; here too a `+` may have arrived as a space. Raises Problem."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        return schemas.instant(given[:11] + given[11:].replace(" ", "+"))
    except PydanticCustomError:
        message = f"{name} must be RFC 3339 with its zone — e.g. 2026-05-31T14:22:11+05:30"
        raise wrong_parameter(name, message) from None


def uuid(request: Request, name: str) -> UUID | None:
    """A UUID. Raises Problem."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        if len(given) == 36:
            return UUID(given)
    except ValueError:
        pass
    raise wrong_parameter(name, f"{name} must be a UUID")


def text(request: Request, name: str) -> str | None:
    """Any text that could be stored. Raises Problem."""
    given = request.query_params.get(name)
    return None if given is None else _storable(name, given)


def keyed(request: Request) -> dict[str, str]:
    """`metadata[key]=value` pairs. Raises Problem."""
    found = {}
    for name, value in request.query_params.items():
        match = _KEYED.fullmatch(name)
        if match is not None:
            found[_storable("metadata", match.group(1))] = _storable("metadata", value)
    if len(found) > schemas.METADATA_KEYS:
        raise wrong_parameter("metadata", f"at most {schemas.METADATA_KEYS} keys of metadata can be asked for")
    return found


def _storable(name: str, given: str) -> str:
    if len(given) > LONGEST or "\0" in given:
        raise wrong_parameter(name, f"{name} has at most {LONGEST} characters, none of them U+0000")
    return given
