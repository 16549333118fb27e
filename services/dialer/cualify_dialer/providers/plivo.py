"""Plivo: how a call is asked for, looked up and heard of. https://www.plivo.com/docs/voice/api/call

An agent is a path under `PLIVO_ANSWER_URL`. What is given at the creation is a `request_uuid`; a call's own id is its
`CallUUID`, which first comes with a callback or a list, and the two need not be the same. So an attempt keeps the
request's id, and looking it up means to find its call by number and time; from then on it has both ids, and by the
second one no other attempt to that number takes its call for their own. Callbacks are signed (V3), and our reference
stands in their address.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from cualify_dialer.providers import (
    Answer,
    Callback,
    CallbackRequest,
    Forged,
    Found,
    HangUp,
    LookUp,
    Missing,
    NotACall,
    Order,
    Phase,
    Refused,
    Snapshot,
    TooLate,
    Unclear,
)
from cualify_dialer.providers.carrier import (
    CLOCKS_DIFFER_BY,
    LONGEST_SEC,
    PAGES_LIMIT,
    RING_SEC,
    CallbackUrl,
    Carrier,
    first_of,
    may_be_ours,
)
from cualify_dialer.providers.http import JSON, Http
from cualify_dialer.providers.says import fields_in, id_in, instant_in, seconds_in, text_in
from cualify_shared.events.call import E164

PHASES: Mapping[str, Phase] = {
    "queued": Phase.PENDING,
    "ringing": Phase.PENDING,
    "in-progress": Phase.IN_PROGRESS,
    "completed": Phase.COMPLETED,
    "busy": Phase.BUSY,
    "failed": Phase.FAILED,
    "timeout": Phase.NO_ANSWER,
    "no-answer": Phase.NO_ANSWER,
    "cancel": Phase.CANCELED,
    "answer": Phase.COMPLETED,
}
"""`answer` is what lists of ended calls say. Any other status is unheard of."""

PAGE_SIZE = 20


class CreateCall(BaseModel):
    """The body of `POST Call/`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    from_: Annotated[str, Field(serialization_alias="from", pattern=r"^\+?\d{6,15}$")]
    to: E164
    answer_url: CallbackUrl
    answer_method: Literal["POST"] = "POST"
    ring_url: CallbackUrl
    hangup_url: CallbackUrl
    time_limit: Annotated[int, Field(ge=1, le=LONGEST_SEC)]
    ring_timeout: Annotated[int, Field(ge=1, le=120)] = RING_SEC


class Plivo(Carrier):
    """One account at Plivo."""

    name = "plivo"
    ref_prefix = "plvo"

    def __init__(
        self,
        *,
        url: str,
        auth_id: str,
        auth_token: str,
        authorization: str,
        answer_url: str,
        caller_id: str,
        timeout_sec: float,
    ) -> None:
        self._calls_url = f"{url.rstrip('/')}/v1/Account/{quote(auth_id, safe='')}/Call"
        self._auth_token, self._answer_url = auth_token, answer_url.rstrip("/")
        http = Http(self.name, headers={"Authorization": authorization}, timeout_sec=timeout_sec)
        super().__init__(http, url=url, caller_id=caller_id)

    async def dial(self, order: Order) -> Answer:
        """Exactly one `POST Call/`."""
        try:
            body = CreateCall(
                from_=order.from_e164 or self._caller_id,
                to=order.to_e164,
                answer_url=f"{self._answer_url}/{quote(order.agent_id, safe='')}",
                ring_url=order.callback_url,
                hangup_url=order.callback_url,
                time_limit=min(order.max_duration_sec, LONGEST_SEC),
            )
        except ValueError as error:
            return Refused(f"the request would break Plivo's contract: {type(error).__name__}")
        return await self._http.dial(
            f"{self._calls_url}/",
            body=body.model_dump_json(by_alias=True).encode(),
            kind=JSON,
            execution_id_in=lambda said: id_in(said, "request_uuid"),
        )

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        """By the call's own id once that is known, by the request's where the two are one, else by number and time."""
        for call_id in (order.carrier_id, order.execution_id):
            look = await self._read(call_id) if call_id is not None else Missing()
            if not isinstance(look, Missing):
                return _named(look, order.execution_id)
        return await self._find(order, now=now) if order.carrier_id is None else Missing()

    async def hang_up(self, execution_id: str) -> HangUp:
        """`DELETE Call/{id}/` where the id is the call's too, else `DELETE Request/{id}/`."""
        path = f"{quote(execution_id, safe='')}/"
        hang_up = await self._http.hang_up(f"{self._calls_url}/{path}", method="DELETE")
        if not isinstance(hang_up, TooLate):
            return hang_up
        requests_url = self._calls_url.removesuffix("/Call") + "/Request"
        return await self._http.hang_up(f"{requests_url}/{path}", method="DELETE")

    def parse_callback(self, request: CallbackRequest) -> Callback:
        """A form, signed over the address, the fields and a nonce."""
        fields = fields_in(request.body, request.headers.get("content-type", ""))
        if fields is None:
            return NotACall()
        if not is_signed(
            request.headers.get("x-plivo-signature-v3", ""),
            nonce=request.headers.get("x-plivo-signature-v3-nonce", ""),
            url=request.url,
            fields=fields,
            auth_token=self._auth_token,
        ):
            return Forged("the signature does not fit")
        snapshot, call_id = _snapshot(fields, "RequestUUID", "CallUUID"), id_in(fields, "CallUUID")
        if snapshot is None:
            return NotACall()
        return snapshot if call_id in (None, snapshot.execution_id) else replace(snapshot, carrier_id=call_id)

    async def _read(self, call_id: str) -> LookUp:
        """Waiting, live and ended calls are asked for apart; in this order none slips through as it moves on."""
        for query in ({"status": "queued"}, {"status": "live"}, {}):
            url = f"{self._calls_url}/{quote(call_id, safe='')}/"
            look = await self._shown(url, query, lambda body: _snapshot(body, "call_uuid"))
            if not isinstance(look, Missing):
                return look
        return Missing()

    async def _find(self, order: Order, *, now: datetime) -> LookUp:
        under_way = await self._under_way(order)
        if isinstance(under_way, Unclear):
            return under_way
        ended = await self._ended(order)
        if isinstance(ended, Unclear):
            return ended
        found = {one.execution_id: one for one in (*ended, *under_way) if one.execution_id not in order.not_ours}
        return _named(first_of(found.values(), now=now), order.execution_id)

    async def _ended(self, order: Order) -> Sequence[Snapshot] | Unclear:
        since = (order.asked_at - CLOCKS_DIFFER_BY).astimezone(UTC)
        found: list[Snapshot] = []
        for page in range(PAGES_LIMIT):
            query = {
                "to_number": order.to_e164.removeprefix("+"),
                "call_direction": "outbound",
                "end_time__gte": since.strftime("%Y-%m-%d %H:%M:%S"),
                "limit": str(PAGE_SIZE),
                "offset": str(page * PAGE_SIZE),
            }
            status, body = await self._http.get(f"{self._calls_url}/", query)
            rows = body.get("objects") if status == 200 and isinstance(body, dict) else None
            if not isinstance(rows, list):
                return Unclear(f"the list answered {status}" if status else str(body))
            found += [
                one
                for row in rows
                if self._may_be_ours(row, order)
                and (one := _snapshot(row, "call_uuid"))
                and (one.created_at or since) >= since
            ]
            if len(rows) < PAGE_SIZE:
                return found
        return Unclear(f"the list has more than {PAGES_LIMIT} pages")

    async def _under_way(self, order: Order) -> Sequence[Snapshot] | Unclear:
        """Lists of ids only, of the whole account: each is read, and compared by its number."""
        found: list[Snapshot] = []
        for state in ("queued", "live"):
            status, body = await self._http.get(f"{self._calls_url}/", {"status": state})
            ids = body.get("calls") if status == 200 and isinstance(body, dict) else None
            if not isinstance(ids, list):
                return Unclear(f"the list of {state} calls answered {status}" if status else str(body))
            for call_id in map(str, ids):
                status, body = await self._http.get(f"{self._calls_url}/{quote(call_id, safe='')}/", {"status": state})
                if status not in (200, 404):
                    return Unclear(f"a {state} call answered {status}" if status else str(body))
                snapshot = _snapshot(body, "call_uuid") if status == 200 else None
                is_callee = (text_in(body, "to") or "").removeprefix("+") == order.to_e164.removeprefix("+")
                if snapshot and is_callee and self._may_be_ours(body, order):
                    found.append(snapshot)
        return found

    def _may_be_ours(self, row: Any, order: Order) -> bool:
        caller = order.from_e164 or self._caller_id
        return may_be_ours(
            row, caller=caller, direction_in=("call_direction", "direction"), caller_in=("from", "from_number")
        )


def is_signed(signatures: str, *, nonce: str, url: str, fields: Mapping[str, Any], auth_token: str) -> bool:
    """Whether one of `X-Plivo-Signature-V3`, a comma list while tokens change, fits."""
    expected = signed(url, fields, nonce, auth_token).encode()
    given = [one.strip().encode("utf-8", "surrogatepass") for one in signatures.split(",")[:10]]
    return bool(nonce) and any(hmac.compare_digest(one, expected) for one in given)


def signed(url: str, fields: Mapping[str, Any], nonce: str, auth_token: str) -> str:
    """base64(HMAC-SHA256(token, address?sorted query.sorted fields and values.nonce))."""
    parts = urlsplit(url)
    query = "&".join(f"{name}={value}" for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True)))
    text = f"{urlunsplit(parts._replace(query='', fragment=''))}?{query}" if query or fields else url
    if fields:
        text += ("." if query else "") + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    digest = hmac.digest(auth_token.encode(), f"{text}.{nonce}".encode("utf-8", "replace"), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _named(look: LookUp, execution_id: str | None) -> LookUp:
    """Under the id that the attempt has; its own one is kept beside that."""
    if not isinstance(look, Found) or execution_id in (None, look.snapshot.execution_id):
        return look
    named = replace(look.snapshot, execution_id=execution_id, carrier_id=look.snapshot.execution_id)
    return replace(look, snapshot=named)


def _snapshot(body: Any, *id_names: str) -> Snapshot | None:
    execution_id = id_in(body, *id_names)
    said = text_in(body, "CallStatus", "call_status", "call_state")
    if execution_id is None or said is None:
        return None
    phase = PHASES.get(said.lower().replace("_", "-"), Phase.UNHEARD_OF)
    return Snapshot(
        execution_id=execution_id,
        ref=None,
        phase=phase,
        status=said[:64],
        is_waiting=said.lower() == "queued",
        created_at=instant_in(body, "initiation_time"),
        updated_at=instant_in(body, "end_time", "EndTime"),
        initiated_at=instant_in(body, "initiation_time"),
        talked_sec=seconds_in(body, "call_duration", "Duration", "bill_duration", "BillDuration")
        if phase is Phase.COMPLETED
        else seconds_in(None),
    )
