"""Exotel, Twilio and Plivo: create, look-up, list, hang-up and callbacks, as far as each documents them.

The same table of numbers decides a call's life; each of the three shows it in its own words. What is sent is taken in
strictly: a field that is not known or not there, a wrong content type, a redial that is on, is refused and noted.
"""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import orjson
from aiohttp import web

from cualify_simulator.agents import Agent
from cualify_simulator.book import Book, shown_until
from cualify_simulator.callbacks import Letter, mailbox_for
from cualify_simulator.clock import Clock
from cualify_simulator.exchange import Exchange
from cualify_simulator.execution import Execution, ToldFact
from cualify_simulator.faults import Faults
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.refusals import Refusal
from cualify_simulator.script import QUEUED_SEC, ROUTING_SEC, Answer, NeverDialed
from cualify_simulator.settings import Settings
from cualify_simulator.throttle import Throttle

LATE_FACTOR: Final = 1.5
IST: Final = timezone(timedelta(hours=5, minutes=30))
E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")
URL: Final = re.compile(r"https?://\S{1,2000}")

Json = dict[str, Any]
Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call as one of the three was asked for it."""

    to_e164: str
    from_number: str
    app: str
    callback_url: str
    ref: str | None
    time_limit_sec: float


class Carrier:
    """What the three have in common. A subclass says how it reads, answers and tells."""

    name: str
    account: str
    authorization: str

    def __init__(
        self, settings: Settings, clock: Clock, journal: Journal, book: Book, exchange: Exchange, faults: Faults
    ) -> None:
        self._settings, self._clock, self._journal, self._book = settings, clock, journal, book
        self._exchange, self._faults = exchange, faults
        self._throttle = Throttle()
        self._agents: dict[str, Agent] = {}

    def status(self, execution: Execution) -> Letter | None:
        raise NotImplementedError

    def fact(self, execution: Execution, told: ToldFact) -> Letter | None:
        """Agents of these providers tell nothing by this way."""
        return None

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        raise NotImplementedError

    def guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[..., Awaitable[web.Response]]:
        """Demands the account's key, and that the path is the account's."""

        async def guard(request: web.Request) -> web.Response:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self.authorization.encode()):
                raise self.refusal(401, "Authenticate")
            if request.match_info["account"] != self.account:
                raise self.refusal(404, "no such account")
            return await handler(request)

        return guard

    async def take_on(self, request: web.Request, wanted: Wanted) -> tuple[Execution, Answer]:
        """Lets the call in, or refuses it without an execution."""
        life = self._faults.life_of(wanted.to_e164)
        if life.answer is Answer.REFUSED:
            raise self.refusal(400, "the number is blocked", wanted)
        if isinstance(life.end, NeverDialed):
            raise self.refusal(402, life.end.error_message, wanted)
        count = None
        if life.answer is Answer.THROTTLED_TWICE:
            count = self._throttle.refusals_so_far(wanted.to_e164, wanted.ref)
        if count is not None or self._exchange.is_full:
            self._journal.note(Kind.THROTTLED, to_e164=wanted.to_e164, cualify_ref=wanted.ref, answer="429")
            refusal = self.refusal(429, "Too many requests", wanted, **({"Retry-After": "1"} if count == 1 else {}))
            refusal.noted = False
            raise refusal
        execution_id = str(uuid4())
        execution = Execution(
            id=execution_id,
            agent=self._agent(wanted),
            life=life,
            to_e164=wanted.to_e164,
            from_e164=wanted.from_number,
            user_data=None,
            cualify_ref=wanted.ref,
            recordings_url=f"{request.scheme}://{request.host}/recordings/call",
            created_at=self._book.next_created_at(self._clock.now()),
            status="queued",
            mailbox=mailbox_for(life.callbacks, execution_id, to_e164=wanted.to_e164, cualify_ref=wanted.ref),
            call_terminate_sec=wanted.time_limit_sec,
            callback_url=wanted.callback_url,
        )
        self._exchange.take_on(execution, self)
        return execution, life.answer

    async def answered(self, request: web.Request, how: Answer, body: Json, *, status: int) -> web.Response:
        """The call exists and will ring, however badly this goes."""
        match how:
            case Answer.SERVER_ERROR:
                return _json({"message": "Internal server error"}, status=500)
            case Answer.DROPPED:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case Answer.NOT_JSON:
                return web.Response(text="<ok/>", content_type="text/xml", status=status)
            case Answer.LATE:
                await asyncio.sleep(self._settings.client_timeout_sec * LATE_FACTOR)
        return _json(body, status=status)

    def found(self, request: web.Request) -> Execution:
        execution = self._book.get(request.match_info["id"])
        if execution is None or not execution.agent.id.startswith(self.name):
            raise self.missing()
        return execution

    def missing(self) -> Refusal:
        refusal = self.refusal(404, "not found")
        refusal.noted = False
        return refusal

    def of_callee(self, to_e164: str) -> list[Execution]:
        """Newest first, as far as they are shown already."""
        lag_sec = self._clock.real_sec(self._settings.simulator_list_lag_sec)
        shown = shown_until(self._clock.now(), lag_sec)
        calls = [one for one in self._book.of_callee(to_e164) if one.agent.id.startswith(self.name)]
        return [one for one in reversed(calls) if one.created_at <= shown]

    def _agent(self, wanted: Wanted) -> Agent:
        agent_id = f"{self.name}:{wanted.app}"
        if agent_id not in self._agents:
            now = self._clock.now()
            self._agents[agent_id] = Agent(
                id=agent_id, created_at=now, updated_at=now, body={}, webhook_url=None, call_terminate_sec=300.0
            )
        return self._agents[agent_id]


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
    CONNECT: Final = frozenset({"From", "CallerId", "Url", "MaxRetries", "StatusCallback"})
    MAY_CONNECT: Final = CONNECT | {
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
        return _basic(self._settings.exotel_api_key, self._settings.exotel_api_token)

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
        form = await _form(request, self)
        wanted = self._wanted(form)
        execution, how = await self.take_on(request, wanted)
        if how is Answer.ACCEPTED:
            await asyncio.sleep(self._clock.real_sec(QUEUED_SEC + ROUTING_SEC))
        return await self.answered(request, how, {"Call": self.render(execution)}, status=200)

    async def get(self, request: web.Request) -> web.Response:
        return _json({"Call": self.render(self.found(request), details=request.query.get("details") == "true")})

    async def end(self, request: web.Request) -> web.Response:
        form = await _form(request, self)
        if dict(form) != {"Status": "completed"}:
            raise self.refusal(400, "Status must be completed")
        execution = self.found(request)
        if not self._exchange.hang_up(execution):
            raise self.refusal(400, "the call is over")
        return _json({"Call": self.render(execution)})

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
        return _json(
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
            "DateCreated": _ist(execution.created_at),
            "DateUpdated": _ist(execution.updated_at),
            "AccountSid": self.account,
            "To": execution.from_e164,
            "From": "0" + execution.to_e164[-10:],
            "PhoneNumberSid": execution.from_e164,
            "Status": self.STATUSES.get(execution.status, "in-progress"),
            "StartTime": _ist(execution.initiated_at),
            "EndTime": _ist(execution.updated_at) if execution.is_over else None,
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
            content_type, body = _multipart(told)
            return Letter(execution.callback_url, execution.status, body, content_type=content_type)
        return Letter(execution.callback_url, execution.status, orjson.dumps(told))

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        body = {"RestException": {"Status": status, "Message": message}, "message": message}
        return _refusal(status, body, wanted, headers)

    def _wanted(self, form: Fields) -> Wanted:
        _demand(self, form, must=self.CONNECT, may=self.MAY_CONNECT)
        if "To" in form:
            raise self.refusal(400, "Url and To exclude each other (34001)")
        if form["MaxRetries"] != "0":
            raise self.refusal(400, "MaxRetries must be 0: a provider that redials rings people twice")
        app = re.fullmatch(rf"https?://[^/]+/{re.escape(self.account)}/exoml/start_voice/([^/]+)", form["Url"])
        if app is None or not E164.fullmatch(form["From"]) or not URL.fullmatch(form["StatusCallback"]):
            raise self.refusal(400, "From, Url or StatusCallback is malformed")
        return Wanted(
            to_e164=form["From"],
            from_number=form["CallerId"],
            app=app[1],
            callback_url=form["StatusCallback"],
            ref=form.get("CustomField") or _last_of(form["StatusCallback"]),
            time_limit_sec=float(_whole(self, form, "TimeLimit", most=14_400)),
        )


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
        return _basic(self._settings.twilio_account_sid, self._settings.twilio_auth_token)

    def routes(self) -> list[web.RouteDef]:
        calls = "/2010-04-01/Accounts/{account}/Calls"
        return [
            web.post(f"{calls}.json", self.guarded(self.create)),
            web.get(f"{calls}.json", self.guarded(self.list)),
            web.get(f"{calls}/{{id}}.json", self.guarded(self.get)),
            web.post(f"{calls}/{{id}}.json", self.guarded(self.end)),
        ]

    async def create(self, request: web.Request) -> web.Response:
        form = await _form(request, self)
        _demand(self, form, must=self.CREATE, may=self.MAY_CREATE)
        if not E164.fullmatch(form["To"]) or not form["ApplicationSid"].startswith("AP"):
            raise self.refusal(400, "To or ApplicationSid is malformed")
        wanted = Wanted(
            to_e164=form["To"],
            from_number=form["From"],
            app=form["ApplicationSid"],
            callback_url=form["StatusCallback"],
            ref=_last_of(form["StatusCallback"]),
            time_limit_sec=float(_whole(self, form, "TimeLimit", most=14_400)),
        )
        execution, how = await self.take_on(request, wanted)
        return await self.answered(request, how, self.render(execution), status=201)

    async def get(self, request: web.Request) -> web.Response:
        return _json(self.render(self.found(request)))

    async def end(self, request: web.Request) -> web.Response:
        if dict(await _form(request, self)) != {"Status": "completed"}:
            raise self.refusal(400, "Status must be completed")
        execution = self.found(request)
        if not self._exchange.hang_up(execution):
            raise self.refusal(400, "the call is over")
        return _json(self.render(execution))

    async def list(self, request: web.Request) -> web.Response:
        if extra := set(request.query) - {"To", "From", "StartTime>", "Status", "PageSize", "Page"}:
            raise self.refusal(400, f"unknown parameters: {sorted(extra)}")
        found = self.of_callee(request.query.get("To", ""))
        if since := request.query.get("StartTime>"):
            at = datetime.fromisoformat(since)
            found = [one for one in found if one.initiated_at is not None and one.initiated_at >= at]
        if status := request.query.get("Status"):
            found = [one for one in found if self.render(one)["status"] == status]
        return _json({"calls": [self.render(one) for one in found], "next_page_uri": None})

    def render(self, execution: Execution) -> Json:
        return {
            "sid": execution.id,
            "account_sid": self.account,
            "to": execution.to_e164,
            "from": execution.from_e164,
            "status": self.STATUSES.get(execution.status, execution.status),
            "date_created": _rfc2822(execution.created_at),
            "date_updated": _rfc2822(execution.updated_at),
            "start_time": _rfc2822(execution.initiated_at),
            "end_time": _rfc2822(execution.updated_at) if execution.is_over else None,
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
        return _signed_form(execution, fields, (("X-Twilio-Signature", signature),))

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        body = {"code": 20_000 + status, "message": message, "more_info": "", "status": status}
        return _refusal(status, body, wanted, headers)


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
        return _basic(self._settings.plivo_auth_id, self._settings.plivo_auth_token)

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
        _demand(self, body, must=self.CREATE, may=self.MAY_CREATE)
        if not E164.fullmatch(str(body["to"])) or not all(
            URL.fullmatch(str(body[name])) for name in ("answer_url", "ring_url", "hangup_url")
        ):
            raise self.refusal(400, "to or an address is malformed")
        wanted = Wanted(
            to_e164=body["to"],
            from_number=str(body["from"]),
            app=body["answer_url"].rpartition("/")[2],
            callback_url=body["hangup_url"],
            ref=_last_of(body["hangup_url"]),
            time_limit_sec=float(
                _whole(self, {"time_limit": str(body.get("time_limit", 14_400))}, "time_limit", most=14_400)
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
        return _json(self.render(execution))

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
            return _json({"calls": [one for one in alive if self._state(self._book.get(one)) == state]})
        if extra := set(query) - {"to_number", "call_direction", "end_time__gte", "limit", "offset"}:
            raise self.refusal(400, f"unknown parameters: {sorted(extra)}")
        limit, offset = int(query.get("limit", "20")), int(query.get("offset", "0"))
        since = datetime.fromisoformat(query["end_time__gte"]).replace(tzinfo=UTC)
        found = [
            one for one in self.of_callee("+" + query.get("to_number", "")) if one.is_over and one.updated_at >= since
        ]
        return _json(
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
        return _signed_form(execution, fields, headers)

    def refusal(self, status: int, message: str, wanted: Wanted | None = None, **headers: str) -> Refusal:
        return _refusal(status, {"error": message, "message": message, "api_id": str(uuid4())}, wanted, headers)

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


def _signed_form(execution: Execution, fields: Fields, headers: tuple[tuple[str, str], ...]) -> Letter:
    return Letter(
        execution.callback_url or "",
        execution.status,
        urlencode(fields).encode(),
        content_type="application/x-www-form-urlencoded; charset=utf-8",
        headers=headers,
    )


def _multipart(fields: Fields) -> tuple[str, bytes]:
    boundary = uuid4().hex
    parts = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return f"multipart/form-data; boundary={boundary}", f"{parts}--{boundary}--\r\n".encode()


async def _form(request: web.Request, carrier: Carrier) -> Fields:
    if request.content_type != "application/x-www-form-urlencoded":
        raise carrier.refusal(400, "Content-Type must be application/x-www-form-urlencoded")
    try:
        return dict(parse_qsl((await request.read()).decode(), keep_blank_values=True, strict_parsing=True))
    except ValueError as problem:
        raise carrier.refusal(400, "no form") from problem


def _demand(carrier: Carrier, given: Mapping[str, Any], *, must: frozenset[str], may: frozenset[str]) -> None:
    if missing := must - given.keys():
        raise carrier.refusal(400, f"missing: {sorted(missing)}")
    if unknown := given.keys() - may:
        raise carrier.refusal(400, f"unknown: {sorted(unknown)}")


def _whole(carrier: Carrier, form: Fields, name: str, *, most: int) -> int:
    text = form.get(name, str(most))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise carrier.refusal(400, f"{name} must be 1 to {most}")
    return int(text)


def _refusal(status: int, body: Json, wanted: Wanted | None, headers: Fields) -> Refusal:
    return Refusal(
        status,
        body,
        headers=headers,
        to_e164=wanted.to_e164 if wanted else None,
        cualify_ref=wanted.ref if wanted else None,
    )


def _last_of(url: str) -> str | None:
    """The last part of a path: what a client puts there comes back to it."""
    return urlsplit(url).path.rpartition("/")[2] or None


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _ist(at: datetime | None) -> str | None:
    return at.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S") if at else None


def _rfc2822(at: datetime | None) -> str | None:
    return at.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000") if at else None


def _json(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
