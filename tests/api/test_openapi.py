"""The OpenAPI document is true, whole and valid; so is its committed copy; the page needs nothing from elsewhere."""

import re
from html.parser import HTMLParser
from typing import Any

import aiohttp
import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from cualify_api.openapi.document import COMMITTED, document, printed
from cualify_api.web.errors import STATUS
from tests.api.documented import errors, operations, resolved, routes
from tests.api.world import World

ALL = list(operations())
NAMES = [operation["operationId"] for _, _, operation in ALL]


def test_the_committed_copy_is_this_document() -> None:
    assert COMMITTED.read_bytes() == printed(), "python -m cualify_api.openapi.document"


def test_it_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(orjson.loads(printed())).validate()


async def test_every_route_is_in_it_and_nothing_else(lasting: World) -> None:
    # POST /calls is met at the door, before the router.
    assert {(method, path) for method, path, _ in ALL} == routes(lasting.app) | {("post", "/api/v1/calls")}


async def test_anybody_may_read_it(lasting: World) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{lasting.url}/api/v1/openapi.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.json() == orjson.loads(printed())


def test_operations_have_names_of_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(("method", "path", "operation"), ALL, ids=NAMES)
def test_every_request_and_answer_has_an_example_that_keeps_to_its_schema(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
    for status, answer in operation["responses"].items():
        content = resolved(answer).get("content")
        assert content or status == "204", f"{status} has an example"
        contents += [content] if content else []
    for content in contents:
        for one in content.values():
            assert errors(one["schema"], one["example"]) == []
    for parameter in operation.get("parameters", ()):
        if "example" in parameter:
            assert errors(parameter["schema"], parameter["example"]) == []
    assert set(re.findall(r"\{(\w+)\}", path)) == {
        one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"
    }


@pytest.mark.parametrize(("method", "path", "operation"), ALL, ids=NAMES)
def test_every_code_that_a_route_may_refuse_with_is_listed(method: str, path: str, operation: dict[str, Any]) -> None:
    if operation.get("security") == []:
        return
    listed = {
        code
        for answer in operation["responses"].values()
        if "$ref" in answer
        for code in [answer["$ref"].rpartition("/")[2]]
    }
    expected = {"invalid_request", "unauthorized", "forbidden", "too_many_requests", "internal_error"}
    if "requestBody" in operation:
        expected |= {"payload_too_large"}
    if any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ())):
        expected |= {"conflict"}
    if "{" in path:
        expected |= {"not_found"}
    assert expected <= listed
    assert operation["responses"]["503"] == {"$ref": "#/components/responses/database_away"}
    listed.remove("database_away")
    assert all(resolved(operation["responses"][str(STATUS[code])]) for code in listed)


def test_every_schema_is_used() -> None:
    text = printed().decode()
    unused = [name for name in document()["components"]["schemas"] if f'"#/components/schemas/{name}"' not in text]
    assert unused == []


class Links(HTMLParser):
    """Everything that a page would fetch or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data") and value:
                self.found.append(value)
            if name == "id" and value:
                self.ids.add(value)


async def test_the_page_shows_every_route_and_loads_without_the_internet(lasting: World) -> None:
    async with lasting.http.get(f"{lasting.url}/docs") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = answer.headers.getall("Content-Security-Policy")
        text = await answer.text()
    assert len(policy) == 1
    assert "default-src 'none'" in policy[0]
    links = Links()
    links.feed(text)
    assert not links.tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\(|@import", text)
    assert set(NAMES) <= links.ids
    inside = {link.removeprefix("#") for link in links.found if link.startswith("#")}
    assert inside <= links.ids
    assert [link for link in links.found if not link.startswith("#")] == ["/api/v1/openapi.json"]
