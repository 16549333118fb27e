"""The Bolna routes, as documented; every one demands the bearer key."""

import asyncio
from datetime import datetime
from typing import Any, Final

import orjson
from aiohttp import web

from cualify_simulator.agents import Agent, Agents, opening_of, render_agent
from cualify_simulator.book import Book, shown_until
from cualify_simulator.callbacks import first_tried
from cualify_simulator.clock import Clock
from cualify_simulator.exchange import Exchange
from cualify_simulator.execution import Execution, render, render_log, render_row
from cualify_simulator.faults import Faults
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.refusals import Refusal, error, malformed, not_found
from cualify_simulator.requests import CallOrder, ListQuery, read_call, read_list_query, read_object
from cualify_simulator.script import Answer, Callbacks, Life
from cualify_simulator.settings import Settings
from cualify_simulator.throttle import Throttle

LATE_FACTOR: Final = 1.5
EARLY_CALLBACK_WITHIN_SEC: Final = 2.0


class Bolna:
    def __init__(
        self, settings: Settings, clock: Clock, journal: Journal, book: Book, exchange: Exchange, faults: Faults
    ) -> None:
        self._faults = faults
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._book = book
        self._exchange = exchange
        self._agents = Agents()
        self._throttle = Throttle()
        if settings.simulator_agent_id is not None:
            config = {"agent_name": "front desk", "webhook_url": settings.simulator_agent_webhook_url or None}
            self._agents.create({"agent_config": config}, clock.now(), agent_id=settings.simulator_agent_id)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/call", self.place_call),
            web.post("/call/{execution_id}/stop", self.stop_call),
            web.get("/executions/{execution_id}", self.get_execution),
            web.get("/executions/{execution_id}/log", self.get_log),
            web.get("/agent/{agent_id}/execution/{execution_id}", self.get_execution),
            web.get("/v2/agent/{agent_id}/executions", self.list_executions),
            web.post("/v2/agent", self.create_agent),
            web.get("/v2/agent/{agent_id}", self.get_agent),
            web.patch("/v2/agent/{agent_id}", self.patch_agent),
            web.get("/user/me", self.get_account),
        ]

    async def place_call(self, request: web.Request) -> web.Response:
        body = read_object(request.content_type, await request.read())
        order = read_call(body, self._clock.now())
        execution = self.taken_on(request, order)
        told = {"message": "done", "status": "queued", "execution_id": execution.id}
        return await self.answered(request, execution, told)

    def now(self) -> datetime:
        return self._clock.now()

    def taken_on(self, request: web.Request, order: CallOrder) -> Execution:
        """Lets a call in, or raises `Refusal`: then nothing will ring."""
        agent = self._agents.get(order.agent_id)
        if agent is None:
            raise _refused(404, error(404, "Agent not found"), order)
        life = self._faults.life_of(order.to_e164)
        self._admit(order, life)
        opens_at = None if order.bypasses_guardrails else opening_of(agent, self._clock.now())
        return self._exchange.place(order, agent, life, recordings_url=_recordings_url(request), opens_at=opens_at)

    async def stop_call(self, request: web.Request) -> web.Response:
        execution = self._execution(request)
        if not self._exchange.stop(execution):
            raise Refusal(400, error(400, f"Call is {execution.status} and cannot be stopped"), noted=False)
        return answer({"message": "done", "status": "stopped", "execution_id": execution.id})

    async def get_execution(self, request: web.Request) -> web.Response:
        return answer(render(self._execution(request)))

    async def get_log(self, request: web.Request) -> web.Response:
        return answer(render_log(self._execution(request)))

    async def list_executions(self, request: web.Request) -> web.Response:
        agent = self._agent(request)
        query = read_list_query(dict(request.query))
        found = [] if query.is_empty else self._found(agent, query)
        start = (query.page_number - 1) * query.page_size
        page = found[start : start + query.page_size]
        return answer(
            {
                "page_number": query.page_number,
                "page_size": query.page_size,
                "total": len(found),
                "has_more": start + len(page) < len(found),
                "data": [render_row(execution) for execution in page],
            }
        )

    async def create_agent(self, request: web.Request) -> web.Response:
        body = read_object(request.content_type, await request.read())
        agent = self._agents.create(body, self._clock.now())
        return answer({"agent_id": agent.id, "state": "created"}, status=201)

    async def get_agent(self, request: web.Request) -> web.Response:
        return answer(render_agent(self._agent(request)))

    async def patch_agent(self, request: web.Request) -> web.Response:
        agent = self._agent(request)
        body = read_object(request.content_type, await request.read())
        self._agents.patch(agent, body, self._clock.now())
        return answer({"message": "success", "state": "updated"})

    async def get_account(self, request: web.Request) -> web.Response:
        return answer(
            {
                "id": "00000000-0000-4000-8000-000000000001",
                "name": "Simulator",
                "email": "simulator@example.com",
                "wallet": 100_000.0,
                "concurrency": {"max": self._exchange.lines, "current": self._exchange.lines_in_use},
            }
        )

    def _admit(self, order: CallOrder, life: Life) -> None:
        """Lets the call in, or refuses it without an execution: nothing will ring."""
        if life.answer is Answer.REFUSED:
            raise _refused(400, malformed("recipient_phone_number is blocked"), order)
        if self._exchange.is_full:
            raise self._throttled(order, headers={"Retry-After": "1"})
        if life.answer is Answer.THROTTLED_TWICE:
            count = self._throttle.refusals_so_far(order.to_e164, order.cualify_ref)
            if count is not None:
                raise self._throttled(order, headers={"Retry-After": "1"} if count == 1 else {})

    def _throttled(self, order: CallOrder, *, headers: dict[str, str]) -> Refusal:
        self._journal.note(Kind.THROTTLED, to_e164=order.to_e164, cualify_ref=order.cualify_ref, answer="429")
        return Refusal(429, error(429, "Rate limit exceeded"), noted=False, headers=headers)

    async def answered(self, request: web.Request, execution: Execution, told: dict[str, Any]) -> web.Response:
        """The execution exists and will ring, however badly this goes."""
        if execution.life.callbacks is Callbacks.TWICE_REORDERED:
            await first_tried(execution.mailbox, within_sec=EARLY_CALLBACK_WITHIN_SEC)
        match execution.life.answer:
            case Answer.SERVER_ERROR:
                return answer(error(500, "Internal server error"), status=500)
            case Answer.GATEWAY_TIMEOUT:
                return web.Response(status=504, text="<html>504 Gateway Time-out</html>", content_type="text/html")
            case Answer.DROPPED:
                return _drop_connection(request)
            case Answer.NOT_JSON:
                return web.Response(text="done", content_type="text/plain")
            case Answer.LATE:
                await asyncio.sleep(self._settings.client_timeout_sec * LATE_FACTOR)
        return answer(told)

    def _found(self, agent: Agent, query: ListQuery) -> list[Execution]:
        """By what happened last, newest first: rows move between pages as calls come in and go on."""
        lag_sec = self._clock.real_sec(self._settings.simulator_list_lag_sec)
        found = self._book.of_agent(
            agent.id,
            earliest=query.earliest,
            latest=query.latest,
            made_before=shown_until(self._clock.now(), lag_sec),
        )
        if query.status is not None:
            found = [execution for execution in found if execution.status == query.status]
        if query.answered_by_voice_mail is not None:
            found = [one for one in found if one.by_voicemail is query.answered_by_voice_mail]
        found.reverse()
        found.sort(key=lambda one: one.updated_at, reverse=True)
        return found

    def _execution(self, request: web.Request) -> Execution:
        execution = self._book.get(request.match_info["execution_id"])
        if execution is None or request.match_info.get("agent_id", execution.agent.id) != execution.agent.id:
            raise not_found("Execution")
        return execution

    def _agent(self, request: web.Request) -> Agent:
        agent = self._agents.get(request.match_info["agent_id"])
        if agent is None:
            raise not_found("Agent")
        return agent


def answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def _refused(status: int, body: dict[str, Any], order: CallOrder) -> Refusal:
    return Refusal(status, body, to_e164=order.to_e164, cualify_ref=order.cualify_ref)


def _recordings_url(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}/recordings/call"


def _drop_connection(request: web.Request) -> web.Response:
    """A reset, and not one byte of an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
