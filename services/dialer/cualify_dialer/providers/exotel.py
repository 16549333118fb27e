"""Exotel: how a call is asked for, looked up and heard of. https://developer.exotel.com

The create request is synchronous: it is answered only after the callee's leg was handed to an operator, so its time
limit is long. `MaxRetries=0` always: by default Exotel would ring up to three times more. There is no reference of ours
in anything that can be looked up: the reference stands in the callback's address, and a lost answer is found by number
and time, among calls that belong to none of our other attempts.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field

from cualify_dialer.providers import (
    Answer,
    Callback,
    CallbackRequest,
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
    "ringing": Phase.PENDING,
    "in-progress": Phase.PENDING,
    "completed": Phase.COMPLETED,
    "failed": Phase.FAILED,
    "busy": Phase.BUSY,
    "no-answer": Phase.NO_ANSWER,
    "canceled": Phase.CANCELED,
}
"""`in-progress` is said from the moment of dialing on, and so proves no answer. Any other status is unheard of."""

PAGE_SIZE = 100


class Connect(BaseModel):
    """The form of `Calls/connect`, for a call to a flow: the callee is `From`, and there is no `To`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    From: E164
    CallerId: Annotated[str, Field(pattern=r"^\+?\d{6,15}$")]
    Url: Annotated[str, Field(pattern=r"^https?://")]
    CallType: Literal["trans"] = "trans"
    TimeLimit: Annotated[int, Field(ge=1, le=LONGEST_SEC)]
    TimeOut: Annotated[int, Field(ge=1, le=120)] = RING_SEC
    MaxRetries: Literal[0] = 0
    CustomField: Annotated[str, Field(min_length=1, max_length=128)]
    StatusCallback: CallbackUrl
    StatusCallbackContentType: Literal["application/json"] = "application/json"


class Exotel(Carrier):
    """One account at Exotel. An agent is a flow, by its app id."""

    name = "exotel"
    ref_prefix = "exo"

    def __init__(
        self,
        *,
        url: str,
        account_sid: str,
        authorization: str,
        app_url: str,
        caller_id: str,
        timeout_sec: float,
        dial_timeout_sec: float,
        utc_offset_min: int,
    ) -> None:
        self._account_url = f"{url.rstrip('/')}/v1/Accounts/{quote(account_sid, safe='')}"
        self._app_url = f"{app_url.rstrip('/')}/{quote(account_sid, safe='')}/exoml/start_voice"
        self._utc_offset_min = utc_offset_min
        http = Http(
            self.name,
            headers={"Authorization": authorization},
            timeout_sec=timeout_sec,
            dial_timeout_sec=dial_timeout_sec,
        )
        super().__init__(http, url=url, caller_id=caller_id)

    async def dial(self, order: Order) -> Answer:
        """Exactly one `POST Calls/connect.json`."""
        try:
            form = Connect(
                From=order.to_e164,
                CallerId=order.from_e164 or self._caller_id,
                Url=f"{self._app_url}/{quote(order.agent_id, safe='')}",
                TimeLimit=min(order.max_duration_sec, LONGEST_SEC),
                CustomField=order.ref,
                StatusCallback=order.callback_url,
            )
        except ValueError as error:
            return Refused(f"the request would break Exotel's contract: {type(error).__name__}")
        body = urlencode(form.model_dump()).encode()
        url = f"{self._account_url}/Calls/connect.json"
        return await self._http.dial(url, body=body, kind=FORM, execution_id_in=lambda said: id_in(_call(said), "Sid"))

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        """By its Sid, or by number and time."""
        if order.execution_id is not None:
            return await self._read(order.execution_id)
        return await self._find(order, now=now)

    async def hang_up(self, execution_id: str) -> HangUp:
        """`Status=completed`, which ends a call in any state."""
        url = f"{self._account_url}/Calls/{quote(execution_id, safe='')}.json"
        return await self._http.hang_up(url, body=b"Status=completed")

    def parse_callback(self, request: CallbackRequest) -> Callback:
        """JSON as asked for, but also the multipart form that is its default. Unsigned."""
        fields = fields_in(request.body, request.headers.get("content-type", ""))
        return self._snapshot(fields, sid="CallSid") or NotACall()

    async def _read(self, execution_id: str) -> LookUp:
        url = f"{self._account_url}/Calls/{quote(execution_id, safe='')}.json"
        return await self._shown(url, {"details": "true"}, lambda body: self._snapshot(_call(body), sid="Sid"))

    async def _find(self, order: Order, *, now: datetime) -> LookUp:
        rows = await self._listed(
            f"{self._account_url}/Calls.json",
            self._window(order, now=now),
            rows="Calls",
            next_in=lambda body: body.get("Metadata"),
            next_name="NextPageUri",
        )
        if isinstance(rows, Unclear):
            return rows
        found = {
            one.execution_id: one
            for row in rows
            if self._may_be_ours(row, order) and (one := self._snapshot(row, sid="Sid"))
        }
        return first_of((one for key, one in found.items() if key not in order.not_ours), now=now)

    def _may_be_ours(self, row: Any, order: Order) -> bool:
        """The callee is `From` in the calls that they make to us, too: those are inbound."""
        return may_be_ours(
            row,
            caller=order.from_e164 or self._caller_id,
            direction_in=("Direction",),
            caller_in=("PhoneNumberSid", "PhoneNumber"),
        )

    def _window(self, order: Order, *, now: datetime) -> dict[str, str]:
        latest = max(order.asked_at, min(now, order.asked_at + ACCEPTED_WITHIN))
        since, until = self._local(order.asked_at - CLOCKS_DIFFER_BY), self._local(latest + CLOCKS_DIFFER_BY)
        return {"From": order.to_e164, "DateCreated": f"gte:{since};lte:{until}", "PageSize": str(PAGE_SIZE)}

    def _local(self, at: datetime) -> str:
        zone = timezone(timedelta(minutes=self._utc_offset_min))
        return at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")

    def _snapshot(self, body: Any, *, sid: str) -> Snapshot | None:
        execution_id, status = id_in(body, sid), text_in(body, "Status")
        if execution_id is None or status is None:
            return None
        phase = PHASES.get(status.lower().replace("_", "-"), Phase.UNHEARD_OF)
        details = body.get("Details") if isinstance(body.get("Details"), dict) else {}
        offset = self._utc_offset_min
        return Snapshot(
            execution_id=execution_id,
            ref=None,
            phase=phase,
            status=status[:64],
            is_waiting=status.lower() == "queued",
            created_at=instant_in(body, "DateCreated", utc_offset_min=offset),
            updated_at=instant_in(body, "EndTime", "DateUpdated", utc_offset_min=offset),
            initiated_at=instant_in(body, "StartTime", utc_offset_min=offset),
            talked_sec=seconds_in({**body, **details}, "ConversationDuration", "Duration")
            if phase is Phase.COMPLETED
            else seconds_in(None),
            recording_url=_recording_url(body),
        )


def _call(body: Any) -> Any:
    return body.get("Call") if isinstance(body, dict) else None


def _recording_url(body: Any) -> str | None:
    url = text_in(body, "RecordingUrl")
    return url if url is not None and len(url) <= 2048 and url.startswith("http") else None
