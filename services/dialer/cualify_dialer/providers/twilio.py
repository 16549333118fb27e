"""Twilio: how a call is asked for, looked up and heard of. https://www.twilio.com/docs/voice/api/call-resource

An agent is an application, by its Sid. 429 was never processed, and may be asked again; after a 5xx a call may ring.
Our reference stands in the callback's address, and callbacks are signed.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from cualify_dialer.providers import (
    Answer,
    Callback,
    CallbackRequest,
    Forged,
    HangUp,
    LookUp,
    NotACall,
    Order,
    Phase,
    Refused,
    Snapshot,
    Unclear,
)
from cualify_dialer.providers.carrier import (
    ACCEPTED_WITHIN,
    CLOCKS_DIFFER_BY,
    LONGEST_SEC,
    RING_SEC,
    CallbackUrl,
    Carrier,
    first_of,
    may_be_ours,
)
from cualify_dialer.providers.http import FORM, Http
from cualify_dialer.providers.says import fields_in, id_in, instant_in, seconds_in, text_in
from cualify_shared.events.call import E164

PHASES: Mapping[str, Phase] = {
    "queued": Phase.PENDING,
    "initiated": Phase.PENDING,
    "ringing": Phase.PENDING,
    "in-progress": Phase.IN_PROGRESS,
    "completed": Phase.COMPLETED,
    "busy": Phase.BUSY,
    "failed": Phase.FAILED,
    "no-answer": Phase.NO_ANSWER,
    "canceled": Phase.CANCELED,
}
"""Any other status is unheard of."""

PAGE_SIZE = 1000


class CreateCall(BaseModel):
    """The form of `POST Calls.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    To: E164
    From: E164
    ApplicationSid: Annotated[str, Field(pattern=r"^AP[0-9a-zA-Z]{1,62}$")]
    StatusCallback: CallbackUrl
    StatusCallbackEvent: tuple[Literal["initiated", "ringing", "answered", "completed"], ...] = (
        "initiated",
        "ringing",
        "answered",
        "completed",
    )
    StatusCallbackMethod: Literal["POST"] = "POST"
    Timeout: Annotated[int, Field(ge=1, le=600)] = RING_SEC
    TimeLimit: Annotated[int, Field(ge=1, le=LONGEST_SEC)]


class Twilio(Carrier):
    """One account at Twilio."""

    name = "twilio"
    ref_prefix = "twil"

    def __init__(
        self, *, url: str, account_sid: str, auth_token: str, authorization: str, caller_id: str, timeout_sec: float
    ) -> None:
        http = Http(self.name, headers={"Authorization": authorization}, timeout_sec=timeout_sec)
        super().__init__(http, url=url, caller_id=caller_id)
        self._auth_token = auth_token
        self._account_url = f"{self._url}/2010-04-01/Accounts/{quote(account_sid, safe='')}"

    async def dial(self, order: Order) -> Answer:
        """Exactly one `POST Calls.json`."""
        try:
            form = CreateCall(
                To=order.to_e164,
                From=order.from_e164 or self._caller_id,
                ApplicationSid=order.agent_id,
                StatusCallback=order.callback_url,
                TimeLimit=min(order.max_duration_sec, LONGEST_SEC),
            )
        except ValueError as error:
            return Refused(f"the request would break Twilio's contract: {type(error).__name__}")
        return await self._http.dial(
            f"{self._account_url}/Calls.json",
            body=urlencode(form.model_dump(), doseq=True).encode(),
            kind=FORM,
            execution_id_in=lambda said: id_in(said, "sid"),
        )

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        """By its Sid, or by number and time."""
        if order.execution_id is not None:
            return await self._read(order.execution_id)
        return await self._find(order, now=now)

    async def hang_up(self, execution_id: str) -> HangUp:
        """`Status=completed` ends a call that waits, rings or is talked on."""
        url = f"{self._account_url}/Calls/{quote(execution_id, safe='')}.json"
        return await self._http.hang_up(url, body=b"Status=completed")

    def parse_callback(self, request: CallbackRequest) -> Callback:
        """A form, signed over the address and the fields."""
        fields = fields_in(request.body, request.headers.get("content-type", ""))
        if fields is None:
            return NotACall()
        if not is_signed(
            request.headers.get("x-twilio-signature", ""), url=request.url, fields=fields, auth_token=self._auth_token
        ):
            return Forged("the signature does not fit")
        return _snapshot(fields, sid="CallSid", status="CallStatus", duration="CallDuration") or NotACall()

    async def _read(self, execution_id: str) -> LookUp:
        url = f"{self._account_url}/Calls/{quote(execution_id, safe='')}.json"
        return await self._shown(url, None, _resource)

    async def _find(self, order: Order, *, now: datetime) -> LookUp:
        """A call that waits may have no start time yet: those are listed apart, and first, as they move on."""
        base = {"To": order.to_e164, "PageSize": str(PAGE_SIZE)}
        since = (order.asked_at - CLOCKS_DIFFER_BY).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found: dict[str, Snapshot] = {}
        for query in ({**base, "Status": "queued"}, {**base, "StartTime>": since}):
            rows = await self._listed(
                f"{self._account_url}/Calls.json",
                query,
                rows="calls",
                next_in=lambda body: body,
                next_name="next_page_uri",
            )
            if isinstance(rows, Unclear):
                return rows
            found.update(
                (one.execution_id, one) for row in rows if self._may_be_ours(row, order) and (one := _resource(row))
            )
        latest = order.asked_at + ACCEPTED_WITHIN
        ours = [
            one
            for one in found.values()
            if one.execution_id not in order.not_ours
            and order.asked_at - CLOCKS_DIFFER_BY <= (one.created_at or order.asked_at) <= latest
        ]
        return first_of(ours, now=now)

    def _may_be_ours(self, row: Any, order: Order) -> bool:
        caller = order.from_e164 or self._caller_id
        return may_be_ours(row, caller=caller, direction_in=("direction",), caller_in=("from",))


def is_signed(signature: str, *, url: str, fields: Mapping[str, Any], auth_token: str) -> bool:
    """Whether `X-Twilio-Signature` fits. Twilio signs the address with its port or without."""
    given = signature.encode("utf-8", "surrogatepass")
    return any(hmac.compare_digest(given, signed(each, fields, auth_token).encode()) for each in _spellings(url))


def signed(url: str, fields: Mapping[str, Any], auth_token: str) -> str:
    """base64(HMAC-SHA1(token, address + each sorted field and its value))."""
    text = url + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    return base64.b64encode(hmac.digest(auth_token.encode(), text.encode("utf-8", "replace"), hashlib.sha1)).decode()


def _spellings(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return urlunsplit(parts._replace(netloc=host)), urlunsplit(parts._replace(netloc=f"{host}:{port}"))


def _resource(body: Any) -> Snapshot | None:
    return _snapshot(body, sid="sid", status="status", duration="duration")


def _snapshot(body: Any, *, sid: str, status: str, duration: str) -> Snapshot | None:
    execution_id, said = id_in(body, sid), text_in(body, status)
    if execution_id is None or said is None:
        return None
    phase = PHASES.get(said.lower(), Phase.UNHEARD_OF)
    answered_by = text_in(body, "answered_by", "AnsweredBy") or ""
    return Snapshot(
        execution_id=execution_id,
        ref=None,
        phase=phase,
        status=said[:64],
        is_waiting=said.lower() == "queued",
        created_at=instant_in(body, "date_created"),
        updated_at=instant_in(body, "end_time", "date_updated", "Timestamp"),
        initiated_at=instant_in(body, "start_time"),
        talked_sec=seconds_in(body, duration) if phase is Phase.COMPLETED else seconds_in(None),
        answered_by="human" if answered_by == "human" else "voicemail" if answered_by.startswith("machine") else None,
    )
