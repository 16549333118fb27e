"""Twilio: create, look-up, list, hang-up, and signed callbacks."""

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Final

from aiohttp import web

from cualify_simulator.bolna import answer
from cualify_simulator.callbacks import Letter
from cualify_simulator.carriers import (
    E164,
    Carrier,
    Json,
    Wanted,
    basic,
    demand,
    last_of,
    read_form,
    refusal,
    rfc2822,
    signed_form,
    whole,
)
from cualify_simulator.execution import Execution
from cualify_simulator.refusals import Refusal


class Twilio(Carrier):
    name = "twilio"

    STATUSES: Final = {"initiated": "initiated", "call-disconnected": "in-progress"}
    EVENTS: Final = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}
    CREATE: Final = frozenset({"To", "From", "ApplicationSid", "StatusCallback"})
    MAY_CREATE: Final = CREATE | {"StatusCallbackEvent", "StatusCallbackMethod", "Timeout", "TimeLimit"}

    @property
    def account(self) -> str:  # type: ignore[override]
        return self._settings.twilio_account_sid

    @property
    def authorization(self) -> str:  # type: ignore[override]
        return basic(self._settings.twilio_account_sid, self._settings.twilio_auth_token)

    def routes(self) -> list[web.RouteDef]:
        calls = "/2010-04-01/Accounts/{account}/Calls"
        return [
            web.post(f"{calls}.json", self.guarded(self.create)),
            web.get(f"{calls}.json", self.guarded(self.list)),
            web.get(f"{calls}/{{id}}.json", self.guarded(self.get)),
            web.post(f"{calls}/{{id}}.json", self.guarded(self.end)),
        ]

    async def create(self, request: web.Request) -> web.Response:
        form = await read_form(request, self)
        demand(self, form, must=self.CREATE, may=self.MAY_CREATE)
        if not E164.fullmatch(form["To"]) or not form["ApplicationSid"].startswith("AP"):
            raise self.refusal(400, "To or ApplicationSid is malformed")
        wanted = Wanted(
            to_e164=form["To"],
            from_number=form["From"],
            app=form["ApplicationSid"],
            callback_url=form["StatusCallback"],
            ref=last_of(form["StatusCallback"]),
            time_limit_sec=float(whole(self, form, "TimeLimit", most=14_400)),
        )
        execution, how = await self.take_on(request, wanted)
        return await self.answered(request, how, self.render(execution), status=201)

    async def get(self, request: web.Request) -> web.Response:
        return answer(self.render(self.found(request)))

    async def end(self, request: web.Request) -> web.Response:
        if dict(await read_form(request, self)) != {"Status": "completed"}:
            raise self.refusal(400, "Status must be completed")
        execution = self.found(request)
        if not self._exchange.hang_up(execution):
            raise self.refusal(400, "the call is over")
        return answer(self.render(execution))

    async def list(self, request: web.Request) -> web.Response:
        if extra := set(request.query) - {"To", "From", "StartTime>", "Status", "PageSize", "Page"}:
            raise self.refusal(400, f"unknown parameters: {sorted(extra)}")
        found = self.of_callee(request.query.get("To", ""))
        if since := request.query.get("StartTime>"):
            at = datetime.fromisoformat(since)
            found = [one for one in found if one.initiated_at is not None and one.initiated_at >= at]
        if status := request.query.get("Status"):
            found = [one for one in found if self.render(one)["status"] == status]
        return answer({"calls": [self.render(one) for one in found], "next_page_uri": None})

    def render(self, execution: Execution) -> Json:
        return {
            "sid": execution.id,
            "account_sid": self.account,
            "to": execution.to_e164,
            "from": execution.from_e164,
            "status": self.STATUSES.get(execution.status, execution.status),
            "date_created": rfc2822(execution.created_at),
            "date_updated": rfc2822(execution.updated_at),
            "start_time": rfc2822(execution.initiated_at),
            "end_time": rfc2822(execution.updated_at) if execution.is_over else None,
            "duration": str(int(execution.duration_sec)) if execution.is_over else None,
            "price": None,
            "direction": "outbound-api",
            "answered_by": None,
        }

    def status(self, execution: Execution) -> Letter | None:
        if not execution.callback_url or not (execution.is_over or execution.status in self.EVENTS):
            return None
        shown = self.render(execution)
        fields = {
            "CallSid": execution.id,
            "AccountSid": self.account,
            "From": execution.from_e164,
            "To": execution.to_e164,
            "CallStatus": shown["status"],
            "CallbackSource": "call-progress-events",
            "Timestamp": shown["date_updated"],
            **({"CallDuration": shown["duration"]} if shown["duration"] else {}),
        }
        text = execution.callback_url + "".join(f"{name}{fields[name]}" for name in sorted(fields))
        token = self._settings.twilio_auth_token.encode()
        signature = base64.b64encode(hmac.digest(token, text.encode(), hashlib.sha1)).decode()
        return signed_form(execution, fields, (("X-Twilio-Signature", signature),))

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        body = {"code": 20_000 + status, "message": message, "more_info": "", "status": status}
        return refusal(status, body, wanted, headers)
