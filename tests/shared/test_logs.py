"""One JSON line for each thing done: the ids are on it, a phone number or a key never is."""

import io
import logging
import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from cualify_shared.logs import about, masked, set_up_logs


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """Where our logging writes; afterwards the logging of other tests is put back."""
    handlers, level, before = logging.root.handlers[:], logging.root.level, structlog.get_config()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8", write_through=True))
    set_up_logs(service="sample", level="INFO")
    yield written
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.configure(**before)


def logged(out: io.BytesIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_carries_its_ids(out: io.BytesIO) -> None:
    with about(call_id="c1", org_id="o1"):
        structlog.get_logger("x").info("call_placed", hold_paise=3000)
    [line] = logged(out)
    assert (line["event"], line["call_id"], line["org_id"], line["hold_paise"]) == ("call_placed", "c1", "o1", 3000)
    assert line["service"] == "sample"


def test_libraries_log_the_same_way(out: io.BytesIO) -> None:
    logging.getLogger("somebody.else").warning("called +919812345678")
    [line] = logged(out)
    assert line["event"] == "called +…"


def test_an_exception_s_trace_is_masked_too(out: io.BytesIO) -> None:
    try:
        raise ValueError("to_e164=+919812345678 is wrong")
    except ValueError:
        structlog.get_logger("x").exception("it_failed")
    [line] = logged(out)
    assert "ValueError" in str(line["exception"])
    assert "9812345678" not in str(line)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ring +919812345678 now", "ring +… now"),
        ("ring 9812345678 now", "ring +… now"),
        ("ring 09812345678 now", "ring +… now"),
        ("ring 919812345678 now", "ring +… now"),
        ("ring 00919812345678 now", "ring +… now"),
        ("ring +91 98123 45678 now", "ring +… now"),
        ("ring +91-98123-45678 now", "ring +… now"),
        ("?To=%2B919812345678&x", "?To=+…&x"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw+/==", "secret whsec_…"),
        ("Authorization: Bearer abcDEF123._-", "Authorization: Bearer …"),
        ("postgresql://api:the-password@db/api is down", "postgresql://api:…@db/api is down"),
        ("call 01a211fe-88b2-7094-b3e5-e1c4a0402157 at 1764061234567 ms", None),
        ("offset 123456789, 2026-11-25T09:44:57.123456Z, 2 × 91 s", None),
        ("key cuk_live_abc12345_0123456789abcdefABCDEF0123456789", "key cuk_live_…"),
        ("order 42, 2026-11-23", "order 42, 2026-11-23"),
    ],
)
def test_what_is_nobody_s_business_is_masked(text: str, shown: str | None) -> None:
    assert masked(text) == (shown or text)


def test_what_stands_deeper_in_a_line_is_masked_too(out: io.BytesIO) -> None:
    number = "+919812345678"
    structlog.get_logger("x").info("it_came", body={"to": number, "more": [number, (number,)], number: 1})
    assert "9812345678" not in out.getvalue().decode()
