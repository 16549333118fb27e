"""Writes the JSON Schemas and the AsyncAPI document, or says with `--check` what of them is stale.

`--publish 0.1` keeps the writers' schemas as those of a release: what everything later is held against.
"""

import sys
from pathlib import Path
from typing import Any

import orjson

from cualify_shared.events.catalogue import EVENT_TYPES, EventType, types_on
from cualify_shared.events.envelope import CONTENT_TYPE
from cualify_shared.events.topics import TOPICS, Topic

SCHEMAS = Path(__file__).parent / "schemas"
PUBLISHED = Path(__file__).parent / "published"
ASYNCAPI = "asyncapi.json"
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
        "components": {"messages": {name: _message(kind) for name, kind in EVENT_TYPES.items()}},
    }


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
        "payload": {
            "type": "object",
            "required": [
                "specversion",
                "id",
                "source",
                "type",
                "subject",
                "time",
                "orgid",
                "partitionkey",
                "sequence",
                "data",
            ],
            "properties": {"type": {"const": kind.name}, "data": reader_schema(kind)},
        },
        "examples": [{"payload": {"type": kind.name, "data": kind.example.model_dump(mode="json", exclude_none=True)}}],
    }


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
