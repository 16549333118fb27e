"""Writes the JSON Schemas and the AsyncAPI document, or says with `--check` what of them is stale.

`--publish 0.1` keeps the writers' schemas as those of a release: what everything later is held against.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from cualify_shared.events.catalogue import EVENT_TYPES, EventType, types_on
from cualify_shared.events.envelope import CONTENT_TYPE, MIRRORED, Event, encode, headers
from cualify_shared.events.topics import TOPICS, Topic

SCHEMAS = Path(__file__).parent / "schemas"
PUBLISHED = Path(__file__).parent / "published"
ASYNCAPI = "asyncapi.json"
ALWAYS_MIRRORED = tuple(name for name in MIRRORED if name not in ("correlationid", "causationid"))
MIRRORS = tuple(f"ce_{name}" for name in MIRRORED)
OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


def writer_schema(kind: EventType) -> dict[str, Any]:
    """Closed: what we promise to write. Tests hold our own events against it."""
    return kind.model.model_json_schema(mode="validation")


def reader_schema(kind: EventType) -> dict[str, Any]:
    """Open: what a consumer may rely on. A field it has never heard of is none of its business."""
    opened: dict[str, Any] = _opened(writer_schema(kind))
    return opened


def _opened(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _opened(v) for k, v in schema.items() if not (k == "additionalProperties" and v is False)}
    return [_opened(item) for item in schema] if isinstance(schema, list) else schema


def asyncapi() -> dict[str, Any]:
    """An AsyncAPI 3.0 document of the six topics."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Cualify events", "version": "1.0.0", "license": {"name": "Apache-2.0"}},
        "defaultContentType": CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {f"send.{topic.name}": _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {name: _message(kind) for name, kind in EVENT_TYPES.items()},
            "schemas": {name: schema for kind in EVENT_TYPES.values() for name, schema in _schemas(kind).items()},
        },
    }


def _schemas(kind: EventType) -> dict[str, Any]:
    """The data's schema by the type's name, its parts by `<type>.<part>`: a `$ref` counts from the document's root."""
    schema = _referring(reader_schema(kind), f"#/components/schemas/{kind.name}.")
    parts = schema.pop("$defs", {})
    return {kind.name: schema} | {f"{kind.name}.{name}": part for name, part in parts.items()}


def _referring(schema: Any, place: str) -> Any:
    if isinstance(schema, dict):
        return {
            k: v.replace("#/$defs/", place) if k == "$ref" and isinstance(v, str) else _referring(v, place)
            for k, v in schema.items()
        }
    return [_referring(item, place) for item in schema] if isinstance(schema, list) else schema


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": f"{topic.summary} Writer: {topic.writer}. Key: {topic.key}. Audience: {topic.audience}.",
        "messages": {k.name: {"$ref": f"#/components/messages/{k.name}"} for k in types_on(topic)},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {"retention.ms": int(topic.retention.total_seconds() * 1000)},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return {"action": "send", "channel": {"$ref": f"#/channels/{topic.name}"}, "summary": f"{topic.writer} writes."}


def _message(kind: EventType) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": (kind.model.__doc__ or "").strip().splitlines()[0],
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "required": ["content-type", "ce_specversion", *(f"ce_{name}" for name in ALWAYS_MIRRORED)],
            "properties": {name: {"type": "string"} for name in ("content-type", "ce_specversion", *MIRRORS)},
        },
        "payload": {
            "type": "object",
            "required": ["specversion", *ALWAYS_MIRRORED, "datacontenttype", "dataschema", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                **{name: {"type": "string"} for name in MIRRORED},
                "source": {"const": kind.source},
                "type": {"const": kind.name},
                "time": {"type": "string", "format": "date-time"},
                "datacontenttype": {"const": "application/json"},
                "dataschema": {"type": "string"},
                "data": {"$ref": f"#/components/schemas/{kind.name}"},
            },
        },
        "bindings": {
            "kafka": {"key": {"type": "string", "description": kind.topic.key}, "bindingVersion": "0.5.0"},
        },
        "examples": [_example(kind)],
    }


def _example(kind: EventType) -> dict[str, Any]:
    """A whole record, as it lies on the topic."""
    some_id = UUID("01a211fe-88b2-7094-b3e5-e1be801c6598")
    value = encode(
        Event(
            data=kind.example,
            id=some_id,
            org_id=some_id,
            key=some_id,
            subject=f"call/{some_id}",
            sequence=1,
            time=datetime(2026, 11, 25, 9, 30, tzinfo=UTC),
        )
    )
    return {"headers": {name: text.decode() for name, text in headers(value)}, "payload": orjson.loads(value)}


def documents() -> dict[str, bytes]:
    """Every generated file by name: `<type>.json` for readers, `<type>.writer.json` for writers, `asyncapi.json`."""
    made: dict[str, Any] = {ASYNCAPI: asyncapi()}
    for kind in EVENT_TYPES.values():
        made[f"{kind.name}.json"] = reader_schema(kind)
        made[f"{kind.name}.writer.json"] = writer_schema(kind)
    return {name: orjson.dumps(document, option=OPTIONS) for name, document in made.items()}


def publish(release: str) -> Path:
    """Keeps every type's schema under a release's name. Raises `FileExistsError`: a release is never rewritten."""
    PUBLISHED.mkdir(exist_ok=True)
    kept = PUBLISHED / f"{release}.json"
    with kept.open("xb") as file:
        file.write(orjson.dumps({k.name: writer_schema(k) for k in EVENT_TYPES.values()}, option=orjson.OPT_SORT_KEYS))
        file.write(b"\n")
    return kept


def main(arguments: list[str]) -> int:
    """Exit code 1 when `--check` finds a file that is missing, stale or left over."""
    if arguments[:1] == ["--publish"] and len(arguments) == 2:
        print(f"kept {publish(arguments[1]).name}")
        return 0
    wanted = documents()
    present = {path.name: path.read_bytes() for path in SCHEMAS.glob("*.json")}
    stale = sorted({n for n in wanted if present.get(n) != wanted[n]} | (present.keys() - wanted.keys()))
    if "--check" in arguments:
        for name in stale:
            print(f"stale: events/schemas/{name} (run `make schemas`)", file=sys.stderr)
        return 1 if stale else 0
    SCHEMAS.mkdir(exist_ok=True)
    for name in stale:
        if name in wanted:
            (SCHEMAS / name).write_bytes(wanted[name])
        else:
            (SCHEMAS / name).unlink()
    print(f"{len(wanted)} files, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
