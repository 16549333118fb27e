"""Whoever reads our topics today reads them tomorrow: every schema ever published is held against the present one."""

from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from cualify_shared.events import EVENT_TYPES
from cualify_shared.events.compatibility import breaks
from cualify_shared.events.generate import PUBLISHED, writer_schema

RELEASES = {path.stem: orjson.loads(path.read_bytes()) for path in sorted(PUBLISHED.glob("*.json"))}
EVERY = [(release, name) for release, schemas in RELEASES.items() for name in schemas]


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seconds: int = Field(ge=0)
    at: str | None = None


class Then(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=10)
    inner: Inner
    many: tuple[Inner, ...] = ()


@pytest.mark.parametrize(("release", "name"), EVERY, ids=[f"{name} of {release}" for release, name in EVERY])
def test_a_published_type_has_only_gained_optional_fields(release: str, name: str) -> None:
    assert name in EVENT_TYPES, "a type that was published is written beside its successor, never taken away"
    assert breaks(RELEASES[release][name], writer_schema(EVENT_TYPES[name])) == []


def test_something_has_been_published() -> None:
    assert EVERY


def changed(**fields: Any) -> list[str]:
    """What breaks where `Then` is replaced by a model with these fields instead."""
    now = create_model("Now", __base__=Then, **fields)
    return breaks(Then.model_json_schema(), now.model_json_schema())


class Wider(Inner):
    seconds: int


class More(Inner):
    more: int | None = None


class Stricter(Inner):
    at: str


def test_an_optional_field_may_be_added_anywhere() -> None:
    assert changed(also=(int | None, None)) == []
    assert changed(inner=(More, ...)) == []
    assert changed(many=(tuple[More, ...], ())) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"also": (int, ...)}, "also is required now"),
        ({"name": (int, ...)}, "name: type was 'string', is 'integer'"),
        ({"name": (str, Field(max_length=20))}, "name: maxLength was 10, is 20"),
        ({"name": (str, Field(max_length=10, pattern="^a"))}, "name: pattern was None, is '^a'"),
        ({"name": (str, Field("x", max_length=10))}, "name is optional now"),
        ({"inner": (Wider, ...)}, "inner.seconds: minimum was 0, is None"),
        ({"inner": (Stricter, ...)}, "inner.at is required now"),
        ({"many": (tuple[Wider, ...], ())}, "many.[].seconds: minimum was 0, is None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_breaks_somebody(fields: dict[str, Any], says: str) -> None:
    assert says in changed(**fields)


def test_a_field_that_is_gone_breaks_who_reads_it() -> None:
    assert "many is gone" in breaks(Then.model_json_schema(), {**Then.model_json_schema(), "properties": {}})
