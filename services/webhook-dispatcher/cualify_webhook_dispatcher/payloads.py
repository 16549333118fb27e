"""What a customer's server receives: an event as the bytes of the body, signed and sent as they are. Pure."""

import orjson

from cualify_shared.clock import rfc3339
from cualify_shared.events.customer import public_data, public_name
from cualify_shared.events.envelope import Event
from cualify_shared.ids import notification_id

_OUT_OF_ORDER = b',"out_of_order":true}'


def body(event: Event) -> bytes:
    """`{"id", "type", "timestamp", "org_id", "sequence", "data"}`, compact JSON."""
    return orjson.dumps(
        {
            "id": notification_id(event.id),
            "type": public_name(event.type.name),
            "timestamp": rfc3339(event.time),
            "org_id": str(event.org_id),
            "sequence": event.sequence,
            "data": public_data(event.data),
        }
    )


def marked_out_of_order(content: bytes) -> bytes:
    """The same with `"out_of_order": true`: an earlier event of the same call was waited for long enough."""
    return content[:-1] + _OUT_OF_ORDER
