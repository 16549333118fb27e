"""What Exotel, Twilio and Plivo have in common: each takes a call in, answers as its life has it, and tells by itself.

The same table of numbers decides a call's life; each of the three shows it in its own words. What is sent is taken in
strictly: a field that is not known or not there, a wrong content type, is refused and noted.
"""

import asyncio
import base64
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

from aiohttp import web

from cualify_simulator.agents import Agent
from cualify_simulator.bolna import answer
from cualify_simulator.book import Book, shown_until
from cualify_simulator.callbacks import Letter, mailbox_for
from cualify_simulator.clock import Clock
from cualify_simulator.exchange import Exchange
from cualify_simulator.execution import Execution, ToldFact
from cualify_simulator.faults import Faults
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.refusals import Refusal
from cualify_simulator.script import Answer, NeverDialed
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
    redials: int = 0


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
            redials_left=wanted.redials,
        )
        self._exchange.take_on(execution, self)
        return execution, life.answer

    async def answered(self, request: web.Request, how: Answer, body: Json, *, status: int) -> web.Response:
        """The call exists and will ring, however badly this goes."""
        match how:
            case Answer.SERVER_ERROR:
                return answer({"message": "Internal server error"}, status=500)
            case Answer.GATEWAY_TIMEOUT:
                return web.Response(status=504, text="<html>504 Gateway Time-out</html>", content_type="text/html")
            case Answer.DROPPED:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case Answer.NOT_JSON:
                return web.Response(text="<ok/>", content_type="text/xml", status=status)
            case Answer.LATE:
                await asyncio.sleep(self._settings.client_timeout_sec * LATE_FACTOR)
        return answer(body, status=status)

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


def signed_form(execution: Execution, fields: Fields, headers: tuple[tuple[str, str], ...]) -> Letter:
    return Letter(
        execution.callback_url or "",
        execution.status,
        urlencode(fields).encode(),
        content_type="application/x-www-form-urlencoded; charset=utf-8",
        headers=headers,
    )


def multipart(fields: Fields) -> tuple[str, bytes]:
    boundary = uuid4().hex
    parts = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return f"multipart/form-data; boundary={boundary}", f"{parts}--{boundary}--\r\n".encode()


async def read_form(request: web.Request, carrier: Carrier) -> Fields:
    if request.content_type != "application/x-www-form-urlencoded":
        raise carrier.refusal(400, "Content-Type must be application/x-www-form-urlencoded")
    try:
        return dict(parse_qsl((await request.read()).decode(), keep_blank_values=True, strict_parsing=True))
    except ValueError as problem:
        raise carrier.refusal(400, "no form") from problem


def demand(carrier: Carrier, given: Mapping[str, Any], *, must: frozenset[str], may: frozenset[str]) -> None:
    if missing := must - given.keys():
        raise carrier.refusal(400, f"missing: {sorted(missing)}")
    if unknown := given.keys() - may:
        raise carrier.refusal(400, f"unknown: {sorted(unknown)}")


def whole(carrier: Carrier, form: Fields, name: str, *, most: int) -> int:
    text = form.get(name, str(most))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise carrier.refusal(400, f"{name} must be 1 to {most}")
    return int(text)


def refusal(status: int, body: Json, wanted: Wanted | None, headers: Fields) -> Refusal:
    return Refusal(
        status,
        body,
        headers=headers,
        to_e164=wanted.to_e164 if wanted else None,
        cualify_ref=wanted.ref if wanted else None,
    )


def last_of(url: str) -> str | None:
    """The last part of a path: what a client puts there comes back to it."""
    return urlsplit(url).path.rpartition("/")[2] or None


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def ist(at: datetime | None) -> str | None:
    return at.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S") if at else None


def rfc2822(at: datetime | None) -> str | None:
    return at.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000") if at else None
