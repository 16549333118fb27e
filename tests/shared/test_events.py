"""The catalogue and the envelope: closed for writers, open for readers, nothing personal where analysts read."""

import re
from typing import Any
from uuid import uuid4

import jsonschema
import orjson
import pytest
from pydantic import BaseModel, ValidationError

from cualify_shared.events import EVENT_TYPES, TOPICS, Event, EventType, MalformedEvent, decode, encode, types_on
from cualify_shared.events.envelope import headers, peek_type
from cualify_shared.events.generate import asyncapi, documents, main, reader_schema, writer_schema
from cualify_shared.events.topics import Audience

PERSONAL = re.compile(r"e164|phone|name$|e_?mail|transcript$|recording_url|metadata|^call$|text$")
every_type = pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=lambda kind: kind.name)


def event_of(kind: EventType) -> Event:
    return Event(data=kind.example, org_id=uuid4(), key=uuid4(), subject="call/x", sequence=7, correlation_id="req_1")


@every_type
def test_an_event_reads_back_as_it_was_written(kind: EventType) -> None:
    event = event_of(kind)
    again = decode(encode(event))
    assert again.data == event.data
    assert (again.id, again.key, again.org_id, again.sequence) == (event.id, event.key, event.org_id, 7)


@every_type
def test_a_reader_passes_over_what_it_has_never_heard_of(kind: EventType) -> None:
    value = orjson.loads(encode(event_of(kind)))
    value["data"]["a_field_of_tomorrow"] = {"nested": True}
    value["anattribute"] = "of tomorrow"
    assert decode(orjson.dumps(value)).data == kind.example


@every_type
def test_a_writer_can_not_write_what_the_model_does_not_know(kind: EventType) -> None:
    fields = kind.example.model_dump()
    with pytest.raises(ValidationError):
        kind.model.model_validate({**fields, "a_field_of_tomorrow": 1})


@every_type
def test_the_example_holds_against_both_schemas(kind: EventType) -> None:
    example = kind.example.model_dump(mode="json", exclude_none=True)
    for schema in (writer_schema(kind), reader_schema(kind)):
        jsonschema.Draft202012Validator(schema).validate(example)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(writer_schema(kind)).validate({**example, "a_field_of_tomorrow": 1})


@every_type
def test_the_headers_mirror_the_attributes(kind: EventType) -> None:
    value = encode(event_of(kind))
    mirrored = dict(headers(value))
    assert peek_type(list(mirrored.items())) == kind.name
    attributes = orjson.loads(value)
    for name, header in mirrored.items():
        if name.startswith("ce_"):
            assert attributes[name.removeprefix("ce_")] == header.decode()
    assert all(re.fullmatch(r"[a-z0-9]+", name) for name in attributes), "CloudEvents attributes: lower case, digits"


@pytest.mark.parametrize("topic", [t for t in TOPICS if t.audience is Audience.ANALYTICS], ids=lambda t: t.name)
def test_a_topic_for_analysts_carries_nothing_personal(topic: Any) -> None:
    found = [
        path
        for kind in types_on(topic)
        for path in _fields(kind.model, kind.name)
        if PERSONAL.search(path.rsplit(".", 1)[1])
    ]
    assert found == []


def test_the_lint_for_personal_fields_can_fail() -> None:
    private = [t for t in TOPICS if t.audience is Audience.PRIVATE]
    assert all(
        any(
            PERSONAL.search(path.rsplit(".", 1)[1])
            for kind in types_on(topic)
            for path in _fields(kind.model, kind.name)
        )
        for topic in private
    )


def _fields(model: type[BaseModel], path: str) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(f"{path}.{name}")
        for inner in _models_in(field.annotation):
            names.extend(_fields(inner, f"{path}.{name}"))
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'"call.completed"',
        b"\xff\xfe",
        b'{"type": 7}',
        b'{"type": "call.completed.v9", "data": {}}',
        b'{"type": "call.completed"}',
        b'{"type": "call.completed", "data": {}}',
        b'{"type": "call.completed", "data": []}',
    ],
)
def test_what_is_no_event_is_said_to_be_none(value: bytes | None) -> None:
    with pytest.raises(MalformedEvent):
        decode(value)


def test_an_error_never_repeats_a_phone_number() -> None:
    value = orjson.loads(encode(event_of(EVENT_TYPES["call.requested"])))
    value["data"]["to_e164"] = "+91 98123 45678"
    with pytest.raises(MalformedEvent) as caught:
        decode(orjson.dumps(value))
    assert "98123" not in str(caught.value)
    assert "to_e164" in str(caught.value)


@every_type
def test_the_document_describes_a_record_as_it_lies_on_the_topic(kind: EventType) -> None:
    document = asyncapi()
    message = document["components"]["messages"][kind.name]
    [example] = message["examples"]
    for record in (example, {"headers": headers_of(event_of(kind)), "payload": orjson.loads(encode(event_of(kind)))}):
        for part in ("headers", "payload"):
            whole = {"$ref": f"#/components/messages/{kind.name}/{part}", "components": document["components"]}
            jsonschema.Draft202012Validator(whole).validate(record[part])
            assert record[part].keys() <= message[part]["properties"].keys()
            assert set(message[part]["required"]) <= record[part].keys()
    assert message["bindings"]["kafka"]["key"]["description"] == kind.topic.key
    assert f"#/components/messages/{kind.name}" in str(document["channels"][kind.topic.name])


def headers_of(event: Event) -> dict[str, str]:
    return {name: value.decode() for name, value in headers(encode(event))}


def test_the_committed_documents_are_up_to_date() -> None:
    assert main(["--check"]) == 0
    assert "asyncapi.json" in documents()


def test_each_topic_has_one_writer_and_each_type_one_topic() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS) == 6
    for kind in EVENT_TYPES.values():
        assert kind.source == f"/cualify/{kind.topic.writer}"
