"""Exotel: a synchronous create, look-up, list by number and time, hang-up, and one callback at the end."""

import asyncio
import re
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

import orjson
from aiohttp import web

from cualify_simulator.bolna import answer
from cualify_simulator.callbacks import Letter
from cualify_simulator.carriers import (
    E164,
    IST,
    URL,
    Carrier,
    Fields,
    Json,
    Wanted,
    basic,
    demand,
    ist,
    last_of,
    multipart,
    read_form,
    refusal,
    whole,
)
from cualify_simulator.execution import Execution
from cualify_simulator.refusals import Refusal
from cualify_simulator.script import QUEUED_SEC, ROUTING_SEC, Answer


class Exotel(Carrier):
    name = "exotel"

    STATUSES: Final = {
        "completed": "completed",
        "busy": "busy",
        "no-answer": "no-answer",
        "failed": "failed",
        "canceled": "canceled",
        "quantum-leap": "quantum-leap",
    }
    REDIALS: Final = "3"
    """Its `MaxRetries` where the request does not name one."""
    CONNECT: Final = frozenset({"From", "CallerId", "Url", "StatusCallback"})
    MAY_CONNECT: Final = CONNECT | {
        "MaxRetries",
        "CallType",
        "TimeLimit",
        "TimeOut",
        "WaitUrl",
        "Record",
        "RecordingChannels",
        "RecordingFormat",
        "CustomField",
        "StatusCallbackEvents[]",
        "StatusCallbackContentType",
        "To",
    }

    @property
    def account(self) -> str:  # type: ignore[override]
        return self._settings.exotel_account_sid

    @property
    def authorization(self) -> str:  # type: ignore[override]
        return basic(self._settings.exotel_api_key, self._settings.exotel_api_token)

    def routes(self) -> list[web.RouteDef]:
        calls = "/v1/Accounts/{account}/Calls"
        return [
            web.post(f"{calls}/connect", self.guarded(self.as_xml)),
            web.post(f"{calls}/connect.json", self.guarded(self.connect)),
            web.get(f"{calls}.json", self.guarded(self.list)),
            web.get(f"{calls}/{{id}}.json", self.guarded(self.get)),
            web.post(f"{calls}/{{id}}.json", self.guarded(self.end)),
        ]

    async def as_xml(self, request: web.Request) -> web.Response:
        """Without `.json` the answer is XML: a call is made all the same."""
        await self.connect(request)
        return web.Response(text="<TwilioResponse><Call/></TwilioResponse>", content_type="application/xml")

    async def connect(self, request: web.Request) -> web.Response:
        form = await read_form(request, self)
        wanted = self._wanted(form)
        execution, how = await self.take_on(request, wanted)
        if how is Answer.ACCEPTED:
            await asyncio.sleep(self._clock.real_sec(QUEUED_SEC + ROUTING_SEC))
        return await self.answered(request, how, {"Call": self.render(execution)}, status=200)

    async def get(self, request: web.Request) -> web.Response:
        return answer({"Call": self.render(self.found(request), details=request.query.get("details") == "true")})

    async def end(self, request: web.Request) -> web.Response:
        form = await read_form(request, self)
        if dict(form) != {"Status": "completed"}:
            raise self.refusal(400, "Status must be completed")
        execution = self.found(request)
        if not self._exchange.hang_up(execution):
            raise self.refusal(400, "the call is over")
        return answer({"Call": self.render(execution)})

    async def list(self, request: web.Request) -> web.Response:
        known = {"From", "DateCreated", "PageSize", "PhoneNumber", "SortBy", "Before", "After"}
        if extra := set(request.query) - known:
            raise self.refusal(400, f"unknown parameters: {sorted(extra)}")
        window = re.fullmatch(r"gte:(.{19});lte:(.{19})", request.query.get("DateCreated", ""))
        size = int(request.query.get("PageSize", "50"))
        if window is None or not 1 <= size <= 100:
            raise self.refusal(400, "DateCreated must be gte:…;lte:…, and PageSize 1 to 100")
        since, until = (datetime.strptime(part, "%Y-%m-%d %H:%M:%S").replace(tzinfo=IST) for part in window.groups())
        found = [one for one in self.of_callee(request.query.get("From", "")) if since <= one.created_at <= until]
        start = int(request.query.get("After", "0"))
        page = found[start : start + size]
        following = None
        if start + size < len(found):
            query = {**request.query, "After": str(start + size)}
            following = f"{request.path}?{urlencode(query)}"
        return answer(
            {
                "Metadata": {"Total": len(found), "PageSize": size, "PrevPageUri": None, "NextPageUri": following},
                "Calls": [self.render(execution) for execution in page],
            }
        )

    def render(self, execution: Execution, *, details: bool = False) -> Json:
        finished = execution.status == "completed"
        shown = {
            "Sid": execution.id,
            "ParentCallSid": None,
            "DateCreated": ist(execution.created_at),
            "DateUpdated": ist(execution.updated_at),
            "AccountSid": self.account,
            "To": execution.from_e164,
            "From": "0" + execution.to_e164[-10:],
            "PhoneNumberSid": execution.from_e164,
            "Status": self.STATUSES.get(execution.status, "in-progress"),
            "StartTime": ist(execution.initiated_at),
            "EndTime": ist(execution.updated_at) if execution.is_over else None,
            "Duration": int(execution.duration_sec) if finished else None,
            "Price": None,
            "Direction": "outbound-api",
            "AnsweredBy": None,
            "Uri": f"/v1/Accounts/{self.account}/Calls/{execution.id}",
            "RecordingUrl": f"{execution.recordings_url}/{execution.id}" if finished else None,
        }
        return {**shown, "Details": {"ConversationDuration": int(execution.duration_sec)}} if details else shown

    def status(self, execution: Execution) -> Letter | None:
        """A call to a flow is told of once, at its end, with four fields."""
        if not execution.is_over or not execution.callback_url:
            return None
        shown = self.render(execution)
        told = {"CallSid": execution.id, "Status": shown["Status"], "DateUpdated": shown["DateUpdated"]}
        if shown["RecordingUrl"]:
            told["RecordingUrl"] = shown["RecordingUrl"]
        if int(execution.to_e164[-1]) % 2:
            # The default, whatever was asked for: both have to be understood.
            content_type, body = multipart(told)
            return Letter(execution.callback_url, execution.status, body, content_type=content_type)
        return Letter(execution.callback_url, execution.status, orjson.dumps(told))

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        body = {"RestException": {"Status": status, "Message": message}, "message": message}
        return refusal(status, body, wanted, headers)

    def _wanted(self, form: Fields) -> Wanted:
        demand(self, form, must=self.CONNECT, may=self.MAY_CONNECT)
        if "To" in form:
            raise self.refusal(400, "Url and To exclude each other (34001)")
        redials = form.get("MaxRetries", self.REDIALS)
        if redials not in ("0", "1", "2", "3"):
            raise self.refusal(400, "MaxRetries must be 0 to 3")
        app = re.fullmatch(rf"https?://[^/]+/{re.escape(self.account)}/exoml/start_voice/([^/]+)", form["Url"])
        if app is None or not E164.fullmatch(form["From"]) or not URL.fullmatch(form["StatusCallback"]):
            raise self.refusal(400, "From, Url or StatusCallback is malformed")
        return Wanted(
            to_e164=form["From"],
            from_number=form["CallerId"],
            app=app[1],
            callback_url=form["StatusCallback"],
            ref=form.get("CustomField") or last_of(form["StatusCallback"]),
            time_limit_sec=float(whole(self, form, "TimeLimit", most=14_400)),
            redials=int(redials),
        )
