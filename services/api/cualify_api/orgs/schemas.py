"""What an operator may send about orgs."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr

from cualify_api.calls.schemas import e164


class MakeOrg(BaseModel):
    """The body of `POST /admin/v1/orgs`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[StrictStr, Field(min_length=1, max_length=200)]


class AddNumber(BaseModel):
    """The body of `POST /admin/v1/orgs/{org_id}/numbers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    e164: Annotated[StrictStr, AfterValidator(e164("e164"))]
    is_default: StrictBool = True
