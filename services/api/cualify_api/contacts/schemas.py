"""What a customer may send about a contact."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr
from pydantic_core import PydanticCustomError

from cualify_api.calls.schemas import bounded_metadata, e164, language_tag
from cualify_api.contacts.contact import ConsentCapture

LONGEST_EMAIL: Final = 254
_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,253}")


def _email(given: str) -> str:
    """Refuses what can't be an address; whether it is one, only a mail shows."""
    if len(given) > LONGEST_EMAIL or not _EMAIL.fullmatch(given):
        raise PydanticCustomError("said", "email must be an e-mail address — e.g. riya@example.com")
    return given


def _language_pref(given: str) -> str:
    try:
        return language_tag(given)
    except PydanticCustomError:
        raise PydanticCustomError("said", "language_pref must be a BCP 47 tag — e.g. hi-IN") from None


class UpsertContact(BaseModel):
    """The body of `POST /api/v1/contacts`. A null clears name, email or language_pref."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    phone_e164: Annotated[StrictStr, AfterValidator(e164("phone_e164"))]
    name: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    email: Annotated[StrictStr, AfterValidator(_email)] | None = None
    language_pref: Annotated[StrictStr, AfterValidator(_language_pref)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(bounded_metadata)] = Field(default_factory=dict)
    consent_capture: ConsentCapture = "manual"
    """A null is refused. The default is never used: `given` leaves out what the body did not name."""

    def given(self) -> dict[str, Any]:
        """Only what the body named."""
        return self.model_dump(exclude_unset=True)
