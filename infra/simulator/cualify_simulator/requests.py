"""What we take in, strictly: a wrong body is refused the way Bolna documents it, never read with goodwill.

Bolna itself lets unknown fields pass; here they are refused, because a typo of ours would go unseen until a bill came.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cualify_simulator.refusals import Refusal, bad_field, error, malformed

Json: TypeAlias = dict[str, Any]

DEFAULT_FROM_E164: Final = "+918035730000"
USER_DATA_LIMIT_BYTES: Final = 25 * 1024
SCHEDULE_AHEAD: Final = timedelta(minutes=2)
LIST_SPAN: Final = timedelta(days=7)
PAGE_SIZE: Final = 20
PAGE_SIZE_LIMIT: Final = 50
PAGING: Final = frozenset({"from", "to", "page_number", "page_size"})
FILTERS: Final = frozenset({"status", "call_type", "provider", "answered_by_voice_mail", "batch_id"})
LIST_PARAMETERS: Final = PAGING | FILTERS

E164 = Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$")]


def _is_uuid(value: str) -> str:
    return str(UUID(value))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AgentData(Strict):
    voice_id: str


class RetryConfig(Strict):
    """Only ever off: a provider that redials by itself rings people twice."""

    enabled: Literal[False] = False
    max_retries: int | None = None
    retry_on_statuses: list[str] | None = None
    retry_on_voicemail: bool | None = None
    retry_intervals_minutes: list[int] | None = None


class CallBody(Strict):
    """Fields that may be absent may still not be null."""

    agent_id: Annotated[str, AfterValidator(_is_uuid)]
    recipient_phone_number: E164
    from_phone_number: E164 = DEFAULT_FROM_E164
    scheduled_at: str = ""
    user_data: Json = Field(default_factory=dict)
    agent_data: AgentData = Field(default_factory=lambda: AgentData(voice_id=""))
    retry_config: RetryConfig = Field(default_factory=RetryConfig)
    bypass_call_guardrails: bool = False


@dataclass(frozen=True, slots=True)
class CallOrder:
    agent_id: str
    to_e164: str
    from_e164: str
    user_data: Json | None
    cualify_ref: str | None
    scheduled_at: datetime | None
    bypasses_guardrails: bool = False


@dataclass(frozen=True, slots=True)
class ListQuery:
    earliest: datetime
    latest: datetime
    page_number: int
    page_size: int
    status: str | None
    answered_by_voice_mail: bool | None
    is_empty: bool
    """A filter was given that nothing here can match: we make no inbound calls and no batches."""


def read_object(content_type: str, raw: bytes) -> Json:
    if content_type != "application/json":
        raise Refusal(422, bad_field("body", "Content-Type must be application/json"))
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as problem:
        raise Refusal(422, bad_field("body", "JSON decode error", kind="json_invalid")) from problem
    if not isinstance(body, dict):
        raise Refusal(422, bad_field("body", "Input should be a valid dictionary"))
    return body


def read_call(body: Json, now: datetime) -> CallOrder:
    """Raises `Refusal`, which names the callee and our reference where they can be read."""
    try:
        return _order(_validated(body), gives_user_data="user_data" in body, now=now)
    except Refusal as refusal:
        to_e164 = body.get("recipient_phone_number")
        refusal.to_e164 = to_e164 if isinstance(to_e164, str) else None
        refusal.cualify_ref = _ref_in(body.get("user_data"))
        raise


def read_list_query(query: dict[str, str]) -> ListQuery:
    for name in query.keys() - LIST_PARAMETERS:
        raise Refusal(422, bad_field(name, "Extra inputs are not permitted", place="query"))
    if "from" not in query or "to" not in query:
        raise Refusal(400, error(400, "Both from and to are required"))
    earliest, latest = _utc("from", query["from"]), _utc("to", query["to"])
    if not timedelta(0) <= latest - earliest <= LIST_SPAN:
        raise Refusal(400, error(400, "The range from..to must be between 0 and 7 days"))
    return ListQuery(
        earliest=earliest,
        latest=latest,
        page_number=_whole("page_number", query.get("page_number", "1"), upto=1_000_000),
        page_size=_whole("page_size", query.get("page_size", str(PAGE_SIZE)), upto=PAGE_SIZE_LIMIT),
        status=query.get("status"),
        answered_by_voice_mail=_flag("answered_by_voice_mail", query.get("answered_by_voice_mail")),
        is_empty=_matches_nothing(query),
    )


def _validated(body: Json) -> CallBody:
    for name in ("recipient_phone_number", "agent_id"):
        if name not in body or body[name] in (None, ""):
            raise Refusal(400, malformed(f"{name} is required"))
    try:
        return CallBody.model_validate(body)
    except ValidationError as problem:
        raise _refusal_of(problem) from problem


def _refusal_of(problem: ValidationError) -> Refusal:
    """A bad phone number has Bolna's own shape; everything else the web framework's list."""
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    for one in errors:
        if one["loc"] and one["loc"][-1] in ("recipient_phone_number", "from_phone_number"):
            return Refusal(400, malformed(f"invalid {one['loc'][-1]}"))
    detail = [{"loc": ["body", *one["loc"]], "msg": one["msg"], "type": one["type"]} for one in errors]
    return Refusal(422, {"detail": detail})


def _order(call: CallBody, *, gives_user_data: bool, now: datetime) -> CallOrder:
    if len(orjson.dumps(call.user_data)) > USER_DATA_LIMIT_BYTES:
        raise Refusal(400, malformed("user_data is too large"))
    return CallOrder(
        agent_id=call.agent_id,
        to_e164=call.recipient_phone_number,
        from_e164=call.from_phone_number,
        user_data=call.user_data if gives_user_data else None,
        cualify_ref=_ref_in(call.user_data),
        scheduled_at=_scheduled_at(call.scheduled_at, now) if call.scheduled_at else None,
        bypasses_guardrails=call.bypass_call_guardrails,
    )


def _ref_in(user_data: object) -> str | None:
    ref = user_data.get("cualify_ref") if isinstance(user_data, dict) else None
    return ref if isinstance(ref, str) else None


def _scheduled_at(text: str, now: datetime) -> datetime:
    if text.endswith(("Z", "z")):
        # Documented: a `Z` is answered 500, though nothing was accepted.
        raise Refusal(500, error(500, "Internal server error"))
    if not re.search(r"[+-]\d{2}:\d{2}$", text):
        raise Refusal(400, malformed("scheduled_at must have a numeric offset"))
    try:
        at = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as problem:
        raise Refusal(400, malformed("invalid scheduled_at")) from problem
    if at < now + SCHEDULE_AHEAD:
        raise Refusal(400, malformed("Scheduled time should be atleast 2 minutes in the future"))
    return at


def _utc(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as problem:
        raise Refusal(400, error(400, f"{name} is no ISO 8601 time")) from problem
    if at.utcoffset() != timedelta(0):
        raise Refusal(400, error(400, f"{name} must be in UTC"))
    return at


def _whole(name: str, text: str, *, upto: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= upto:
        raise Refusal(422, bad_field(name, f"Input should be a whole number from 1 to {upto}", place="query"))
    return int(text)


def _flag(name: str, text: str | None) -> bool | None:
    if text not in (None, "true", "false"):
        raise Refusal(422, bad_field(name, "Input should be a valid boolean", place="query"))
    return None if text is None else text == "true"


def _matches_nothing(query: dict[str, str]) -> bool:
    """The provider filter knows no `exotel`, and so finds none of our calls."""
    call_type, provider = query.get("call_type", "outbound"), query.get("provider")
    if call_type not in ("outbound", "inbound"):
        raise Refusal(422, bad_field("call_type", "Input should be 'outbound' or 'inbound'", place="query"))
    if provider not in (None, "plivo", "twilio", "websocket", "web-call"):
        raise Refusal(422, bad_field("provider", "Input is no known provider", place="query"))
    return call_type == "inbound" or provider is not None or "batch_id" in query
