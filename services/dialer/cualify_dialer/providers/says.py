"""What providers say, read tolerantly: nulls, numbers as text, names that drift, bodies in three encodings."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, urljoin

from cualify_dialer.providers.http import json_in

ID_LIMIT_CHARS = 128
FIELDS_LIMIT = 200
FIELD_NAME = re.compile(rb'^content-disposition:[^\r\n]*[;\s]name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)


def text_in(body: Any, *names: str) -> str | None:
    """The first of these fields that holds a text that is not empty, or a number as text."""
    for name in names:
        value = body.get(name) if isinstance(body, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        # PostgreSQL takes no NUL in a text.
        if isinstance(value, str) and (text := value.replace("\x00", "").strip()):
            return text
    return None


def id_in(body: Any, *names: str) -> str | None:
    """The provider's id of a call."""
    found = text_in(body, *names)
    return found if found is not None and len(found) <= ID_LIMIT_CHARS else None


def seconds_in(body: Any, *names: str) -> Decimal:
    """A duration, to the last digit, because it becomes money; 0 where there is none that can be true."""
    try:
        found = Decimal(text_in(body, *names) or "0")
    except InvalidOperation:
        return Decimal(0)
    return found if found.is_finite() and 0 <= found <= 86_400 else Decimal(0)


def instant_in(body: Any, *names: str, utc_offset_min: int = 0) -> datetime | None:
    """A time stamp: ISO 8601, `YYYY-MM-DD HH:mm:ss`, or as in mails. Without an offset, that of the account."""
    text = text_in(body, *names) or ""
    found = _iso(text) or _as_in_mails(text)
    if found is None:
        return None
    zone = timezone(timedelta(minutes=utc_offset_min))
    try:
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError:
        return None


def fields_in(body: bytes, content_type: str) -> dict[str, Any] | None:
    """The fields of a callback's body: JSON, a form, or a multipart form. None if it is none of them."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _multipart(body, content_type)
    if kind == "application/x-www-form-urlencoded":
        return _form(body)
    found = json_in(body)
    return found if isinstance(found, dict) else None


def _form(body: bytes) -> dict[str, Any] | None:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_LIMIT))
    except ValueError:
        return None


def _multipart(body: bytes, content_type: str) -> dict[str, Any] | None:
    """A flat form. The standard library's parser takes 20 s for a body of a million bytes that is all delimiters."""
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if not boundary:
        return None
    delimiter = b"\r\n--" + boundary.encode("utf-8", "replace")
    fields: dict[str, Any] = {}
    for part in (b"\r\n" + body).split(delimiter, FIELDS_LIMIT + 1)[1 : FIELDS_LIMIT + 1]:
        about, _, content = part.partition(b"\r\n\r\n")
        if name := FIELD_NAME.search(about):
            fields[name[1].decode("utf-8", "replace")] = content.decode("utf-8", "replace")
    return fields or None


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _as_in_mails(text: str) -> datetime | None:
    """`Tue, 31 Aug 2010 20:36:28 +0000`, as Twilio writes."""
    try:
        return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S %z")
    except ValueError:
        return None


def next_page(base: str, following: str) -> str | None:
    """The address of the next page: a path at the provider, and nowhere else."""
    return urljoin(base, following) if following.startswith("/") and not following.startswith("//") else None
