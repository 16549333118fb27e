"""Events of deliveries to customers' endpoints: written by the webhook-dispatcher alone."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cualify_shared.events.model import EventData, one_of

EventName = Annotated[str, Field(max_length=100, description="The public name, as in `call.completed`.")]
Attempt = Annotated[int, Field(ge=1)]


class WebhookDelivered(EventData):
    """An endpoint answered 2xx."""

    endpoint_id: UUID
    org_id: UUID
    event_id: UUID
    event_type: EventName
    attempt: Attempt
    status_code: int
    duration_ms: Annotated[int, Field(ge=0)]


class WebhookAttemptFailed(EventData):
    """An attempt failed; it is tried again on schedule unless it was the last."""

    endpoint_id: UUID
    org_id: UUID
    event_id: UUID
    event_type: EventName
    attempt: Attempt
    failure_code: Annotated[
        str, one_of("connect_refused", "timeout_headers", "http_4xx", "http_5xx", "blocked_address")
    ]
    status_code: int | None = None
    duration_ms: Annotated[int, Field(ge=0)]
    final: bool
    """No further attempt follows by itself."""


class WebhookEndpointPaused(EventData):
    """An endpoint is no longer tried; its events are kept."""

    endpoint_id: UUID
    org_id: UUID
    reason: Annotated[str, one_of("gone", "failing_for_72_h", "customer")]
