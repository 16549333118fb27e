"""What every event's data is made of. Writers are closed: a field that the model does not know is an error at once."""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Paise = Annotated[int, Field(ge=0, description="Whole paise, never negative.")]
Seconds = Annotated[int, Field(ge=0, description="Whole seconds.")]
Instant = Annotated[AwareDatetime, Field(description="RFC 3339, UTC, with Z.")]


def one_of(*known: str) -> Any:
    """An enumeration that is documented but open: to a reader a value it has never heard of is a string."""
    return Field(min_length=1, max_length=64, json_schema_extra={"x-known-values": list(known)})


class EventData(BaseModel):
    """A fact in the past tense. Frozen, closed for writers; readers validate with `extra="ignore"`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(EventData):
    """What a call was accepted at. They travel with the call and come back in its end: nobody looks a rate up later."""

    rate_paise_per_sec: Annotated[int, Field(ge=0, le=1_000_000)]
    pulse_sec: Annotated[int, Field(ge=1, le=3600)]
    hold_paise: Paise
    max_duration_sec: Annotated[int, Field(ge=1, le=3600)]
    min_billable_sec: Annotated[int, Field(ge=0, le=3600)] = 0
    """A call that was talked on is charged for at least so long. The hold covers it."""
