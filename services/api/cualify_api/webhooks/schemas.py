"""What a customer may send about a webhook. Whether the URL may be called is the dispatcher's to say."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr
from pydantic_core import PydanticCustomError

from cualify_api.calls.schemas import instant
from cualify_shared.events import public_names

_KNOWN: Final = (*public_names(), "*")


def _event(name: str) -> str:
    if name not in _KNOWN:
        message = f"events must be of: {', '.join(_KNOWN)}"
        raise PydanticCustomError("said", "{message}", {"message": message})
    return name


Url: TypeAlias = Annotated[StrictStr, Field(min_length=1, max_length=2048)]
Events: TypeAlias = Annotated[list[Annotated[StrictStr, AfterValidator(_event)]], Field(min_length=1, max_length=50)]


class RegisterWebhook(BaseModel):
    """The body of `POST /api/v1/webhooks`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: Url
    events: Events


class PatchWebhook(BaseModel):
    """The body of `PATCH /api/v1/webhooks/{id}`: what is named changes; a null is refused."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: Url = "unchanged"
    events: Events = Field(default_factory=list)
    active: StrictBool = True


class ReplayDeliveries(BaseModel):
    """The body of `POST /api/v1/webhooks/{id}/replay`: which deliveries are sent again."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: Annotated[datetime, BeforeValidator(instant)]
    until: Annotated[datetime, BeforeValidator(instant)] | None = None
    events: Events | None = None
    status: Literal["failed", "delivered", "all"] | None = None

    def wanted(self) -> dict[str, Any]:
        """As the dispatcher takes it: what is not named is everything."""
        named = self.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in named.items() if (name, value) != ("status", "all")}
