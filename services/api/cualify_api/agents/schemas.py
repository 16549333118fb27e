"""What an operator may send to make an agent."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from cualify_api.calls.schemas import language_tag

Provider: TypeAlias = Literal["bolna", "exotel", "plivo", "twilio"]


class FallbackProvider(BaseModel):
    """A provider to turn to, and the agent's id there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Provider
    provider_agent_id: Annotated[StrictStr, Field(min_length=1, max_length=64)]


class MakeAgent(BaseModel):
    """The body of `POST /admin/v1/orgs/{org_id}/agents`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    language: Annotated[StrictStr, AfterValidator(language_tag)] = "hi-IN"
    max_duration_sec: Annotated[StrictInt, Field(ge=1, le=3600)] = 300
    provider: Provider = "bolna"
    provider_agent_id: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    fallback_providers: Annotated[tuple[FallbackProvider, ...], Field(max_length=3)] = ()

    @model_validator(mode="after")
    def _names_each_provider_once(self) -> Self:
        named = [self.provider, *(one.provider for one in self.fallback_providers)]
        if len(set(named)) != len(named):
            raise PydanticCustomError("said", "fallback_providers names each provider once, and not the agent's own")
        return self
