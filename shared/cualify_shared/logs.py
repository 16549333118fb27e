"""One JSON line for each thing done, with the ids from the context. Never a phone number, a transcript or a key."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
import structlog

_PHONE = re.compile(
    r"(?:\+|%2B)\d(?:[ -]?\d){7,14}"  # +91 98123 45678, also in a URL
    r"|(?<!\d)\d{10}(?!\d)"
    r"|(?<![\w-])(?:00?|(?:00)?91)\d{10}(?![\w-])"  # as carriers in India write it: 0… or 91…
)
_SECRET = re.compile(r"(cuk_(?:live|test)_|whsec_|Bearer )[\w.~+/=-]+|(://[^\s:/@]+:)[^\s/@]+(?=@)")

SHORT = 64


def set_up_logs(*, service: str, level: str) -> None:
    """Sends everything, libraries included, to stdout as JSON lines.

    Our own lines go there directly: by way of the standard library each would cost twice as much.
    """
    structlog.configure(
        processors=[
            *_shared_steps(service),
            structlog.processors.format_exc_info,
            _mask,
            structlog.processors.JSONRenderer(serializer=_to_bytes),
        ],
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared_steps(service),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _mask,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    for noisy in ("aiokafka", "faststream", "uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger(noisy).handlers[:] = []
    logging.getLogger("aiokafka.cluster").setLevel(logging.CRITICAL)  # a missing topic ten times a second


@contextmanager
def about(*, call_id: UUID | str | None = None, org_id: UUID | str | None = None, **more: Any) -> Iterator[None]:
    """Every line logged inside carries these ids."""
    ids = {
        name: str(value) for name, value in {"call_id": call_id, "org_id": org_id, **more}.items() if value is not None
    }
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def _shared_steps(service: str) -> list[Any]:
    def name_service(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        name_service,
    ]


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if type(value) is not int and not name.endswith("_id") and name != "at":
            event[name] = _masked_within(value)
    return event


def _masked_within(value: Any) -> Any:
    match value:
        case str():
            return _masked_before(value) if len(value) < SHORT else masked(value)
        case dict():
            return {_masked_within(name): _masked_within(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked_within(one) for one in value]
        case _:
            return value


def masked(text: str) -> str:
    """`text` without phone numbers, API keys, bearer tokens, webhook secrets and passwords in URLs."""
    return _PHONE.sub("+…", _SECRET.sub(r"\1\2…", text))


_masked_before = lru_cache(maxsize=2_000)(masked)
"""Of short texts: most of a line's come again in the next."""


def _to_json(value: Any, **_: Any) -> str:
    return _to_bytes(value).decode()


def _to_bytes(value: Any, **_: Any) -> bytes:
    return orjson.dumps(value, default=str)


def names(items: Iterable[Any]) -> str:
    """A few things in one log field."""
    return ",".join(str(item) for item in items)
