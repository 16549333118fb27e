"""The event catalogue: what a service imports to speak on Kafka or to listen."""

from cualify_shared.events.catalogue import EVENT_TYPES, EventType, public_names, type_of, types_on
from cualify_shared.events.envelope import Event, MalformedEvent, decode, encode
from cualify_shared.events.model import EventData, Terms
from cualify_shared.events.topics import TOPICS, Topic

__all__ = [
    "EVENT_TYPES",
    "TOPICS",
    "Event",
    "EventData",
    "EventType",
    "MalformedEvent",
    "Terms",
    "Topic",
    "decode",
    "encode",
    "public_names",
    "type_of",
    "types_on",
]
