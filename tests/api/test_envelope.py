"""No answer leaves the envelope, and every answer has its X-Request-Id."""

from typing import Any

import pytest

from cualify_api.web.errors import STATUS
from tests.api.world import ADMIN, Org, World

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/api/v1/nowhere", {}, 404, "not_found"),
        ("GET", "/api/v1/calls/", {}, 404, "not_found"),
        ("PATCH", "/api/v1/calls", {}, 405, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b"{", "headers": JSON}, 400, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b"", "headers": JSON}, 400, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b"[]", "headers": JSON}, 400, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b'{"a":"\\u0000"}', "headers": JSON}, 400, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b"a=b", "headers": {"Content-Type": "text/plain"}}, 400, "invalid_request"),
        ("POST", "/api/v1/calls", {"data": b" " * 65_537, "headers": JSON}, 413, "payload_too_large"),
        ("POST", "/api/v1/calls", {"json": {}, "headers": {"Idempotency-Key": "x" * 256}}, 400, "invalid_request"),
        ("GET", "/api/v1/calls?limit=0", {}, 400, "invalid_request"),
        ("GET", "/api/v1/calls?limit=101", {}, 400, "invalid_request"),
        ("GET", "/api/v1/calls?limit=ten", {}, 400, "invalid_request"),
        ("GET", "/api/v1/calls?offset=-1", {}, 400, "invalid_request"),
        ("GET", "/api/v1/calls?status=ringing", {}, 400, "invalid_request"),
        ("GET", "/api/v1/calls/no-uuid", {}, 404, "not_found"),
        ("GET", "/api/v1/webhooks", {}, 502, "upstream_error"),
        ("GET", "/api/v1/ledger", {}, 502, "upstream_error"),
        ("GET", "/crash", {}, 500, "internal_error"),
        ("GET", "/admin/v1/orgs", {}, 401, "unauthorized"),
    ],
)
async def test_every_refusal_is_in_the_envelope(
    lasting: World, caller: Org, method: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    more = more | {"headers": caller.auth | more.get("headers", {})}
    answer = await lasting.ask(method, path, **more)
    error = answer.body["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert error["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["Content-Type"] == "application/json"
    assert "secret detail" not in str(answer.body)


@pytest.mark.parametrize(
    ("method", "path", "possible"),
    [
        ("PUT", "/api/v1/calls", "GET, POST"),
        ("PUT", "/api/v1/contacts/x", "DELETE, GET"),
        ("GET", "/api/v1/calls/x/cancel", "POST"),
    ],
)
async def test_a_method_that_is_not_possible_is_answered_with_all_that_are(
    lasting: World, caller: Org, method: str, path: str, possible: str
) -> None:
    answer = await lasting.ask(method, path, headers=caller.auth)
    assert (answer.status, answer.headers["Allow"]) == (405, possible)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/api/v1/calls", {"retry": 5}, "retry must be an object"),
        ("/api/v1/calls", {"retry": {"max_attempts": 2, "on": "busy"}}, "retry.on must be an array"),
        ("/api/v1/contacts", {"metadata": "x"}, "metadata must be an object"),
        ("/api/v1/webhooks", {"url": "https://a.example", "events": "*"}, "events must be an array"),
    ],
)
async def test_a_wrong_shape_is_told_in_the_words_of_json(
    lasting: World, caller: Org, path: str, body: dict[str, Any], said: str
) -> None:
    answer = await lasting.ask("POST", path, json=body, headers=caller.auth)
    fields = answer.body["error"]["details"]["fieldErrors"]
    assert (answer.status, said in str(fields)) == (400, True)


@pytest.mark.parametrize("auth", ["", "Bearer", "Bearer nonsense", "Basic abc", "Bearer cuk_live_aaaaaaaa_" + "b" * 32])
async def test_without_a_valid_key_nothing_is_told(lasting: World, auth: str) -> None:
    for path in ("/api/v1/calls", "/api/v1/nowhere", "/admin/v1/orgs"):
        answer = await lasting.ask("GET", path, headers={"Authorization": auth})
        assert (answer.status, answer.body["error"]["code"]) == (401, "unauthorized")


async def test_a_body_without_a_length_is_cut_off_at_the_limit(lasting: World, caller: Org) -> None:
    async def endless() -> Any:
        for _ in range(20):
            yield b" " * 8192

    answer = await lasting.ask("POST", "/api/v1/calls", data=endless(), headers=caller.auth | JSON)
    assert answer.status == 413


async def test_a_success_has_a_request_id_and_a_given_one_is_kept(lasting: World) -> None:
    answer = await lasting.ask("GET", "/admin/v1/orgs", headers=ADMIN)
    assert answer.headers["X-Request-Id"].startswith("req_")
    answer = await lasting.ask("GET", "/admin/v1/orgs", headers=ADMIN | {"X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"


def test_each_code_has_the_published_status() -> None:
    assert STATUS == {
        "invalid_request": 400,
        "unauthorized": 401,
        "insufficient_credits": 402,
        "forbidden": 403,
        "not_found": 404,
        "conflict": 409,
        "payload_too_large": 413,
        "too_many_requests": 429,
        "internal_error": 500,
        "upstream_error": 502,
    }
