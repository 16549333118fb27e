"""What a customer is told: the subject as `GET` shows it at that moment. Written by the api alone."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, JsonValue, SkipValidation

from cualify_shared.events.model import EventData, Paise

CUSTOMER_PREFIX = "customer."
"""`customer.call.completed` on the topic is `call.completed` to a customer."""

Json = Annotated[JsonValue, SkipValidation]
"""What came as JSON is JSON: to look at each value again costs as much as all else that is done with an event."""


class CustomerCallEvent(EventData):
    """A call as `GET /api/v1/calls/{id}` shows it, without the transcript."""

    call_id: UUID
    org_id: UUID
    call: Annotated[dict[str, Json], Field(description="The REST resource; its schema is in the OpenAPI document.")]


class CustomerCallDialing(CustomerCallEvent):
    """The provider is being asked to place the call."""


class CustomerCallInProgress(CustomerCallEvent):
    """The callee answered."""


class CustomerCallCompleted(CustomerCallEvent):
    """The callee was spoken to: duration, cost and outcome are known."""


class CustomerCallFailed(CustomerCallEvent):
    """The call ended `failed`, `no_answer`, `busy` or `canceled`."""


class CustomerCallBilled(CustomerCallEvent):
    """The cost became known after the call's end had already been told."""


class CustomerCallArtifactsReady(CustomerCallEvent):
    """Transcript or recording became known after the call's end had already been told."""


class CustomerWalletLowBalance(EventData):
    """The wallet is running low."""

    org_id: UUID
    balance_paise: Paise
    threshold_paise: Paise


def public_name(event_type: str) -> str:
    """The name under which a customer subscribes: `call.completed`."""
    return event_type.removeprefix(CUSTOMER_PREFIX)


def public_data(data: EventData) -> dict[str, Any]:
    """The `data` of the webhook body."""
    if isinstance(data, CustomerCallEvent):
        return dict(data.call)
    return data.model_dump(mode="json", exclude={"org_id"}, exclude_none=True)
