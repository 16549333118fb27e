"""What a customer may send to place a call."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

METADATA_BYTES: Final = 16 * 1024
METADATA_KEYS: Final = 50
METADATA_DEPTH: Final = 32

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError("said", "{message}", {"message": message})


def e164(name: str) -> Callable[[str], str]:
    """A check that refuses what is not strict E.164, naming the field."""

    def check(given: str) -> str:
        if not _E164.fullmatch(given):
            raise _refused(f"{name} must be E.164 — e.g. +919812345678")
        return given

    return check


def language_tag(given: str) -> str:
    """Refuses what is not shaped like a BCP 47 tag."""
    if len(given) > 35 or not _LANGUAGE.fullmatch(given):
        raise _refused("language must be a BCP 47 tag — e.g. hi-IN")
    return given


def _uuid(given: Any) -> UUID:
    try:
        return UUID(given) if isinstance(given, str) and len(given) == 36 else _no_uuid()
    except ValueError:
        return _no_uuid()


def _no_uuid() -> UUID:
    raise _refused("agent_id must be a UUID")


def instant(given: Any) -> datetime:
    """RFC 3339 with its zone. A naive time could mean any of a day's hours, so it is refused."""
    if isinstance(given, str) and _INSTANT.fullmatch(given):
        try:
            # In UTC at once: at the ends of the calendar that can fail, and must not do so later.
            return datetime.fromisoformat(given.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise _refused("a time must be RFC 3339 with its zone — e.g. 2026-05-31T14:22:11+05:30")


def bounded_metadata(given: dict[str, Any]) -> dict[str, Any]:
    """Refuses metadata beyond 50 keys, 16 KB or 32 levels."""
    if len(given) > METADATA_KEYS:
        raise _refused(f"metadata has at most {METADATA_KEYS} keys")
    if _is_deep(given):
        raise _refused(f"metadata is nested at most {METADATA_DEPTH} levels deep")
    if len(orjson.dumps(given)) > METADATA_BYTES:
        raise _refused(f"metadata has at most {METADATA_BYTES} bytes")
    return given


def _is_deep(value: Any, levels: int = METADATA_DEPTH) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(one, levels - 1) for one in inside)


class Schedule(BaseModel):
    """When the phone may ring."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    earliest_at: Annotated[datetime, BeforeValidator(instant)] | None = None
    latest_at: Annotated[datetime, BeforeValidator(instant)] | None = None


def _each_once(given: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(given)) != len(given):
        raise _refused("retry.on names each outcome once")
    return given


class RetryWish(BaseModel):
    """That the phone may ring again when it was busy or not answered."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_attempts: Annotated[StrictInt, Field(ge=1, le=3)]
    on: Annotated[
        tuple[Literal["busy", "no_answer"], ...], Field(min_length=1, max_length=2), AfterValidator(_each_once)
    ] = ("busy", "no_answer")
    intervals_min: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=1440)], ...], Field(min_length=1, max_length=2)
    ] = (15,)

    @property
    def waits(self) -> tuple[timedelta, ...]:
        """How long each further attempt waits for; the last interval repeats."""
        last = len(self.intervals_min) - 1
        return tuple(timedelta(minutes=self.intervals_min[min(n, last)]) for n in range(self.max_attempts - 1))


class PlaceCall(BaseModel):
    """The body of `POST /api/v1/calls`. Unknown fields are passed over, as additive versions demand."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    agent_id: Annotated[UUID, BeforeValidator(_uuid)]
    to_e164: Annotated[StrictStr, AfterValidator(e164("to_e164"))]
    from_e164: Annotated[StrictStr, AfterValidator(e164("from_e164"))] | None = None
    language: Annotated[StrictStr, AfterValidator(language_tag)] | None = None
    max_duration_sec: Annotated[StrictInt, Field(ge=1, le=3600)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(bounded_metadata)] = Field(default_factory=dict)
    external_id: Annotated[StrictStr, Field(min_length=1, max_length=255)] | None = None
    schedule: Schedule | None = None
    retry: RetryWish | None = None
