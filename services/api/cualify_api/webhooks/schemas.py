"""What a customer may send to register a webhook. Whether the URL may be called is the dispatcher's to say."""

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr
from pydantic_core import PydanticCustomError

from cualify_shared.events import public_names

_KNOWN: Final = (*public_names(), "*")


def _event(name: str) -> str:
    if name not in _KNOWN:
        message = f"events must be of: {', '.join(_KNOWN)}"
        raise PydanticCustomError("said", "{message}", {"message": message})
    return name


class RegisterWebhook(BaseModel):
    """The body of `POST /api/v1/webhooks`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: Annotated[StrictStr, Field(min_length=1, max_length=2048)]
    events: Annotated[list[Annotated[StrictStr, AfterValidator(_event)]], Field(min_length=1, max_length=50)]
