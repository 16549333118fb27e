"""CloudEvents 1.0, structured JSON: how an event looks on Kafka, and how it is read back.

The attributes stand in the value, and are mirrored as `ce_*` headers so that a reader can filter without parsing.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg.pgproto.pgproto import UUID as QuickUUID
from pydantic import ValidationError

from cualify_shared.clock import now, rfc3339
from cualify_shared.events.catalogue import EVENT_TYPES, EventType, type_of
from cualify_shared.events.model import EventData
from cualify_shared.ids import new_id
from cualify_shared.values import quick_value

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"
MIRRORED = (
    "id",
    "source",
    "type",
    "subject",
    "time",
    "orgid",
    "partitionkey",
    "sequence",
    "correlationid",
    "causationid",
)
_MIRRORS = [(name, f"ce_{name}") for name in MIRRORED]
_DATA = b',"data":'
_SAME_FOR_ALL = [("content-type", CONTENT_TYPE.encode()), ("ce_specversion", b"1.0")]


class MalformedEvent(Exception):
    """The bytes are no event that the catalogue knows. The record belongs in `dead_letters`."""


@quick_value
class Event:
    """One fact. `sequence` counts 1, 2, 3… per key and topic, taken from the row that was locked to state it."""

    _: KW_ONLY
    data: EventData
    org_id: UUID
    key: UUID
    subject: str
    sequence: int
    id: UUID = field(default_factory=new_id)
    time: datetime = field(default_factory=now)
    correlation_id: str | None = None
    causation_id: str | None = None

    @property
    def type(self) -> EventType:
        """The catalogue's entry for this event."""
        return type_of(self.data)


@quick_value
class Encoded:
    """An event as the outbox keeps it: `payload` is the Kafka record's value."""

    id: UUID
    topic: str
    key: str
    payload: bytes
    time: datetime


def encoded(event: Event) -> Encoded:
    """An event as the outbox keeps it."""
    return Encoded(event.id, event.type.topic.name, str(event.key), encode(event), event.time)


def encode(event: Event) -> bytes:
    """The Kafka record's value."""
    kind = event.type
    attributes = cloud_event(
        kind,
        id=str(event.id),
        subject=event.subject,
        time=rfc3339(event.time),
        org_id=str(event.org_id),
        key=str(event.key),
        sequence=event.sequence,
    )
    if event.correlation_id:
        attributes["correlationid"] = event.correlation_id
    if event.causation_id:
        attributes["causationid"] = event.causation_id
    attributes["data"] = orjson.Fragment(event.data.__pydantic_serializer__.to_json(event.data, exclude_none=True))
    return orjson.dumps(attributes)


def cloud_event(
    kind: EventType, *, id: str, subject: str, time: str, org_id: str, key: str, sequence: int
) -> dict[str, Any]:
    """The attributes that every event has, without its data."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": kind.source,
        "type": kind.name,
        "subject": subject,
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": kind.schema_path,
        "orgid": org_id,
        "partitionkey": key,
        "sequence": f"{sequence:010d}",
    }


def headers(value: bytes) -> list[tuple[str, bytes]]:
    """The record's headers, from its value: the content type and the mirrored attributes.

    `encode` puts the data last, and in JSON a quote inside a text is escaped: what stands before is all that is read.
    """
    before, data, _ = value.partition(_DATA)
    attributes = orjson.loads(before + b"}" if data else value)
    return _SAME_FOR_ALL + [(header, attributes[name].encode()) for name, header in _MIRRORS if name in attributes]


def peek_type(record_headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    """The event's type from the headers alone; None if they do not say."""
    for name, value in record_headers:
        if name == "ce_type" and value is not None:
            return value.decode("utf-8", "replace")
    return None


def decode(value: bytes | None) -> Event:
    """An event from a record's value. A field that this version does not know is passed over.

    Raises:
        MalformedEvent: no JSON, no CloudEvent, a type that the catalogue does not have, or data that breaks its model.
    """
    attributes = _attributes(value)
    kind = EVENT_TYPES.get(attributes.get("type", ""))
    if kind is None:
        raise MalformedEvent(f"no such event type: {attributes.get('type')!r}")
    try:
        return Event(
            data=kind.model.__pydantic_validator__.validate_python(attributes["data"], extra="ignore"),
            org_id=QuickUUID(attributes["orgid"]),
            key=QuickUUID(attributes["partitionkey"]),
            subject=attributes["subject"],
            sequence=int(attributes["sequence"]),
            id=QuickUUID(attributes["id"]),
            time=datetime.fromisoformat(attributes["time"]),
            correlation_id=attributes.get("correlationid"),
            causation_id=attributes.get("causationid"),
        )
    except ValidationError as error:
        raise MalformedEvent(f"{kind.name}: {_without_input(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedEvent(f"{kind.name}: the envelope is broken: {type(error).__name__} {error}") from None


def _attributes(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise MalformedEvent("the record is empty")
    try:
        attributes = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MalformedEvent(f"no JSON: {error}") from None
    if not isinstance(attributes, dict) or not isinstance(attributes.get("type", ""), str):
        raise MalformedEvent("no CloudEvent: an object with a type is expected")
    return attributes


def _without_input(error: ValidationError) -> str:
    """What is wrong and where, without the values: they may be a phone number."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False)[:5]
    )
