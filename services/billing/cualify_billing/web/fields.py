"""Fields that several requests have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST_PAISE_AT_ONCE = 1_000_000_000_000
"""₹10,00,00,00,000: more is a slip of somebody's fingers."""

Amount = Annotated[int, Field(strict=True, gt=0, le=MOST_PAISE_AT_ONCE)]
Lines = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]+$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Body(BaseModel):
    """A request's body: closed, and the same for as long as it is handled."""

    model_config = ConfigDict(extra="forbid", frozen=True)
