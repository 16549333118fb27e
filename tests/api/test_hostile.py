"""Whoever sends what nobody should is answered in the envelope, soon, and costs little; the next request is served."""

import asyncio
import json
from typing import Any

import pytest

from cualify_shared import http_protocol
from cualify_shared.http_protocol import BoundedHttp
from tests.api.world import Org, World

JSON = {"Content-Type": "application/json"}


def valid(org: Org, **more: Any) -> str:
    return json.dumps({"agent_id": org.agent_id, "to_e164": "+919812345678", **more})


async def post(world: World, org: Org, data: bytes | str, **headers: str) -> tuple[int, Any]:
    answer = await world.ask("POST", "/api/v1/calls", data=data, headers=org.auth | JSON | headers)
    return answer.status, answer.body


async def raw(world: World, sent: bytes, *, then: float = 5.0) -> bytes:
    """What comes back on a connection of its own, until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), then)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def refused(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["request_id"].encode() in head
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    "data",
    [
        "[" * 60_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        b"\xff\xfe{}",
        b'{"to_e164": "\xed\xa0\x80"}',
        '{"to_e164": "\\ud800"}',
        '{"metadata": {"a": "\\udfff\\ud800"}}',
        '{"metadata": {"\\u0000": 1}}',
        '{"metadata": {"a": ["\\u0000"]}}',
        b'{"metadata": {"a": "\x00"}}',
        '{"max_duration_sec": 1e400}',
        '{"max_duration_sec": NaN}',
        '{"agent_id": 1} {"agent_id": 2}',
        "null",
        '"text"',
        "1",
        "",
    ],
)
async def test_what_is_no_decent_json_is_a_400(lasting: World, caller: Org, data: str | bytes) -> None:
    status, answer = await post(lasting, caller, data)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "change",
    [
        {"max_duration_sec": 10**30},
        {"max_duration_sec": -(2**63)},
        {"max_duration_sec": 1.5},
        {"to_e164": "+91" + "9" * 5000},
        {"to_e164": {"$gt": ""}},
        {"metadata": {"a": [[[]]] * 3, "deep": json.loads("[" * 40 + "]" * 40)}},
        {"external_id": "x" * 256},
        {"schedule": {"earliest_at": "9999-99-99T99:99:99Z"}},
        {"schedule": {"earliest_at": 10**18}},
        {"agent_id": "0" * 36},
    ],
)
async def test_a_value_beyond_reason_is_a_400(lasting: World, caller: Org, change: dict[str, Any]) -> None:
    status, answer = await post(lasting, caller, valid(caller, **change))
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert "999999" not in json.dumps(answer), "an answer repeats no phone number"


async def test_numbers_of_any_size_in_metadata_never_crash(lasting: World, caller: Org) -> None:
    for number in ("1e308", "-1e308", str(2**63), str(10**40), "1" * 4000):
        status, _ = await post(lasting, caller, valid(caller)[:-1] + f', "metadata": {{"n": {number}}}}}')
        assert status in (201, 400)


async def test_of_duplicate_keys_the_last_counts_for_all(lasting: World, caller: Org) -> None:
    """One parser reads the body, once: what was checked is what is dialed."""
    text = valid(caller)[:-1] + ', "to_e164": "+919811111111"}'
    status, answer = await post(lasting, caller, text)
    assert (status, answer["data"]["to_e164"]) == (201, "+919811111111")


async def test_text_beyond_ascii_comes_back_as_it_was_sent(lasting: World, caller: Org) -> None:
    said = {"ನಮಸ್ತೆ": "🙏 \u2028 \U0010ffff"}
    status, answer = await post(lasting, caller, valid(caller, metadata=said))
    assert (status, answer["data"]["metadata"]) == (201, said)


@pytest.mark.parametrize("kind", ["", "text/json", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
async def test_only_json_is_taken_for_json(lasting: World, caller: Org, kind: str) -> None:
    status, answer = await post(lasting, caller, valid(caller), **{"Content-Type": kind})
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_ten_megabytes_are_refused_by_their_length_alone(lasting: World, caller: Org) -> None:
    head = f"POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {10 * 2**20}\r\n\r\n"
    assert refused(await raw(lasting, head.encode())) == (413, "payload_too_large")


async def test_ten_megabytes_without_a_length_are_cut_off(lasting: World, caller: Org) -> None:
    async def endless() -> Any:
        for _ in range(160):
            yield b" " * 65_536

    answer = await lasting.ask("POST", "/api/v1/calls", data=endless(), headers=caller.auth | JSON)
    assert (answer.status, answer.body["error"]["code"]) == (413, "payload_too_large")


async def test_a_body_that_drips_is_not_waited_for(
    lasting: World, caller: Org, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttp, "arrives_within_sec", 0.1)
    head = f"POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.key}\r\n"
    head += 'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"'
    assert refused(await raw(lasting, head.encode())) == (408, "invalid_request")


@pytest.mark.parametrize("sent", [b"", b"GET /api/v1/calls HTT", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
async def test_a_head_that_drips_is_not_waited_for(
    lasting: World, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttp, "arrives_within_sec", 0.1)
    assert refused(await raw(lasting, sent)) == (408, "invalid_request")


async def test_a_flood_of_headers_is_cut_off(lasting: World) -> None:
    many = b"".join(b"X-%d: y\r\n" % n for n in range(http_protocol.HEADERS + 1))
    assert refused(await raw(lasting, b"GET / HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")) == (431, "invalid_request")
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * http_protocol.HEAD_BYTES + b"\r\n\r\n"
    assert refused(await raw(lasting, long)) == (431, "invalid_request")
    far = b"GET /" + b"y" * http_protocol.HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert refused(await raw(lasting, far)) == (431, "invalid_request")


async def test_an_endless_head_is_cut_off_before_it_ends(lasting: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(lasting.url.rsplit(":", 1)[1]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
    try:
        for _ in range(1000):
            writer.write(b"X: " + b"y" * 1000 + b"\r\n")
            await writer.drain()
        await writer.drain()
        assert await asyncio.wait_for(reader.read(), 5) == b"", "more than a megabyte of head was taken"
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_a_large_body_in_one_packet_with_its_head_is_no_large_head(lasting: World, caller: Org) -> None:
    said = valid(caller, metadata={"a": "x" * 15_000})
    body = (" " * 40_000 + said).encode()
    head = f"POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {caller.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert (await raw(lasting, head.encode() + body)).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_in_the_envelope(lasting: World, sent: bytes) -> None:
    assert refused(await raw(lasting, sent)) == (400, "invalid_request")


async def test_two_authorizations_are_none(lasting: World, caller: Org) -> None:
    auth = f"Authorization: Bearer {caller.key}\r\n"
    sent = f"GET /api/v1/wallet HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}{auth}\r\n"
    assert refused(await raw(lasting, sent.encode())) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/api/v1/calls", "/api/v1/nowhere", "/nowhere", "/admin/v1/orgs", "/crash"])
async def test_every_answer_tells_browsers_to_do_nothing_with_it(lasting: World, caller: Org, path: str) -> None:
    answer = await lasting.ask("GET", path, headers=caller.auth)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    assert "Server" not in answer.headers
