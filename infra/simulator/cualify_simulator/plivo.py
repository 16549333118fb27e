"""Plivo: create under a request id, ended, live and queued calls apart, hang-up, and signed callbacks."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import orjson
from aiohttp import web

from cualify_simulator.bolna import answer
from cualify_simulator.callbacks import Letter
from cualify_simulator.carriers import (
    E164,
    IST,
    URL,
    Carrier,
    Json,
    Wanted,
    basic,
    demand,
    last_of,
    refusal,
    signed_form,
    whole,
)
from cualify_simulator.execution import Execution
from cualify_simulator.refusals import Refusal


class Plivo(Carrier):
    name = "plivo"

    STATUSES: Final = {"call-disconnected": "in-progress", "canceled": "cancel", "initiated": "ringing"}
    CREATE: Final = frozenset({"from", "to", "answer_url", "ring_url", "hangup_url"})
    MAY_CREATE: Final = CREATE | {"answer_method", "time_limit", "ring_timeout", "hangup_on_ring", "machine_detection"}

    @property
    def account(self) -> str:  # type: ignore[override]
        return self._settings.plivo_auth_id

    @property
    def authorization(self) -> str:  # type: ignore[override]
        return basic(self._settings.plivo_auth_id, self._settings.plivo_auth_token)

    def routes(self) -> list[web.RouteDef]:
        account = "/v1/Account/{account}"
        return [
            web.post(f"{account}/Call/", self.guarded(self.create)),
            web.get(f"{account}/Call/", self.guarded(self.list)),
            web.get(f"{account}/Call/{{id}}/", self.guarded(self.get)),
            web.delete(f"{account}/Call/{{id}}/", self.guarded(self.end)),
            web.delete(f"{account}/Request/{{id}}/", self.guarded(self.end_request)),
        ]

    async def create(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise self.refusal(400, "Content-Type must be application/json")
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as problem:
            raise self.refusal(400, "no JSON") from problem
        if not isinstance(body, dict):
            raise self.refusal(400, "an object is expected")
        demand(self, body, must=self.CREATE, may=self.MAY_CREATE)
        if not E164.fullmatch(str(body["to"])) or not all(
            URL.fullmatch(str(body[name])) for name in ("answer_url", "ring_url", "hangup_url")
        ):
            raise self.refusal(400, "to or an address is malformed")
        wanted = Wanted(
            to_e164=body["to"],
            from_number=str(body["from"]),
            app=body["answer_url"].rpartition("/")[2],
            callback_url=body["hangup_url"],
            ref=last_of(body["hangup_url"]),
            time_limit_sec=float(
                whole(self, {"time_limit": str(body.get("time_limit", 14_400))}, "time_limit", most=14_400)
            ),
        )
        execution, how = await self.take_on(request, wanted)
        said = {"message": "call fired", "request_uuid": _request_uuid(execution), "api_id": str(uuid4())}
        return await self.answered(request, how, said, status=201)

    async def get(self, request: web.Request) -> web.Response:
        """Ended, live and queued calls are three different things to ask for."""
        execution = self.found(request)
        if self._state(execution) != request.query.get("status", "ended"):
            raise self.missing()
        return answer(self.render(execution))

    async def end(self, request: web.Request) -> web.Response:
        if not self._exchange.hang_up(self.found(request)):
            raise self.missing()
        return web.Response(status=204)

    async def end_request(self, request: web.Request) -> web.Response:
        execution = self._book.get(_execution_id(request.match_info["id"]))
        if execution is None or not self._exchange.hang_up(execution):
            raise self.missing()
        return web.Response(status=204)

    async def list(self, request: web.Request) -> web.Response:
        query = request.query
        if state := query.get("status"):
            alive = [one.id for one in self._book.all_alive() if one.agent.id.startswith(self.name)]
            return answer({"calls": [one for one in alive if self._state(self._book.get(one)) == state]})
        if extra := set(query) - {"to_number", "call_direction", "end_time__gte", "limit", "offset"}:
            raise self.refusal(400, f"unknown parameters: {sorted(extra)}")
        limit, offset = int(query.get("limit", "20")), int(query.get("offset", "0"))
        since = datetime.fromisoformat(query["end_time__gte"]).replace(tzinfo=UTC)
        found = [
            one for one in self.of_callee("+" + query.get("to_number", "")) if one.is_over and one.updated_at >= since
        ]
        return answer(
            {"objects": [self.render(one) for one in found[offset : offset + limit]], "meta": {"limit": limit}}
        )

    def render(self, execution: Execution) -> Json:
        return {
            "call_uuid": execution.id,
            "call_status": self.STATUSES.get(execution.status, execution.status),
            "from": execution.from_e164,
            "to": execution.to_e164.removeprefix("+"),
            "to_number": execution.to_e164.removeprefix("+"),
            "initiation_time": execution.created_at.astimezone(IST).isoformat(sep=" ", timespec="seconds"),
            "end_time": execution.updated_at.astimezone(IST).isoformat(sep=" ", timespec="seconds"),
            "call_duration": int(execution.duration_sec),
        }

    def status(self, execution: Execution) -> Letter | None:
        """`ring_url` once it rings, `hangup_url` at the end: here one address."""
        if not execution.callback_url or not (execution.is_over or execution.status == "ringing"):
            return None
        fields = {
            "CallUUID": execution.id,
            "RequestUUID": _request_uuid(execution),
            "From": execution.from_e164,
            "To": execution.to_e164.removeprefix("+"),
            "CallStatus": self.STATUSES.get(execution.status, execution.status),
            "Direction": "outbound",
            **({"Duration": str(int(execution.duration_sec))} if execution.is_over else {}),
        }
        nonce = uuid4().hex
        text = f"{execution.callback_url}?{''.join(f'{name}{fields[name]}' for name in sorted(fields))}.{nonce}"
        token = self._settings.plivo_auth_token.encode()
        signature = base64.b64encode(hmac.digest(token, text.encode(), hashlib.sha256)).decode()
        headers = (("X-Plivo-Signature-V3", signature), ("X-Plivo-Signature-V3-Nonce", nonce))
        return signed_form(execution, fields, headers)

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        return refusal(status, {"error": message, "message": message, "api_id": str(uuid4())}, wanted, headers)

    @staticmethod
    def _state(execution: Execution | None) -> str:
        if execution is None or execution.is_over:
            return "ended"
        return "queued" if execution.status == "queued" else "live"


def _request_uuid(execution: Execution) -> str:
    """Not the call's own id: nobody may rely on that."""
    return f"r-{execution.id}"


def _execution_id(request_uuid: str) -> str:
    return request_uuid.removeprefix("r-")
