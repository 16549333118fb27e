"""One JSON line for each thing done, with the ids from the context. Never a phone number, a transcript or a key."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson
import structlog

_PHONE = re.compile(r"\+\d{8,15}|(?<!\d)\d{10}(?!\d)")
_KEY = re.compile(r"cuk_(live|test)_[0-9A-Za-z]{8}_[0-9A-Za-z]+")


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
        if isinstance(value, str) and not name.endswith("_id") and name != "at":
            event[name] = masked(value)
    return event


def masked(text: str) -> str:
    """`text` without phone numbers and API keys."""
    return _PHONE.sub("+…", _KEY.sub(r"cuk_\1_…", text))


def _to_json(value: Any, **_: Any) -> str:
    return _to_bytes(value).decode()


def _to_bytes(value: Any, **_: Any) -> bytes:
    return orjson.dumps(value, default=str)


def names(items: Iterable[Any]) -> str:
    """A few things in one log field."""
    return ",".join(str(item) for item in items)
