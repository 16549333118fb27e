"""What an operator may send to make an agent."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from cualify_api.calls.schemas import language_tag


class MakeAgent(BaseModel):
    """The body of `POST /admin/v1/orgs/{org_id}/agents`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    language: Annotated[StrictStr, AfterValidator(language_tag)] = "hi-IN"
    max_duration_sec: Annotated[StrictInt, Field(ge=1, le=3600)] = 300
    provider: Literal["bolna", "exotel", "plivo", "twilio"] = "bolna"
    provider_agent_id: Annotated[StrictStr, Field(min_length=1, max_length=64)]
