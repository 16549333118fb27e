"""The contract with Bolna: what each answer means, and how a lost one is found."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cualify_dialer.providers import (
    Accepted,
    Found,
    HangUp,
    Missing,
    NotSent,
    Order,
    Phase,
    Ready,
    Refused,
    Stopped,
    Throttled,
    TooLate,
    Unclear,
    Unfit,
    Unknown,
    Unreadable,
)
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.providers.bolna_says import PHASES, snapshot_in, turns_in
from cualify_shared.clock import now as utc_now
from cualify_shared.events.call import CallTranscriptReady
from cualify_shared.ids import new_id
from cualify_shared.outbox import MAX_RECORD_BYTES
from tests.dialer.support import AGENT_ID

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class FakeBolna:
    """Answers what the test puts into it, and keeps what it was asked."""

    reply: Reply | None = None
    pages: list[Any] = field(default_factory=list)
    executions: dict[str, Any] = field(default_factory=dict)
    bodies: list[Any] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    agent: Any = field(default_factory=dict)
    agent_reads: int = 0
    stop_status: int = 200
    url: str = ""

    async def read_agent(self, request: web.Request) -> web.StreamResponse:
        self.agent_reads += 1
        return web.json_response(self.agent) if isinstance(self.agent, dict) else web.Response(status=self.agent)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=self.stop_status)

    async def create(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        assert self.reply is not None
        return await self.reply(request)

    async def listing(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        page = self.pages[int(request.query["page_number"]) - 1]
        return web.json_response(page) if isinstance(page, dict) else web.Response(status=page)

    async def read(self, request: web.Request) -> web.StreamResponse:
        found = self.executions.get(request.match_info["id"], 404)
        return web.json_response(found) if isinstance(found, dict) else web.Response(status=found)


@pytest.fixture
async def fake() -> AsyncIterator[FakeBolna]:
    fake, app = FakeBolna(), web.Application()
    app.router.add_post("/call", fake.create)
    app.router.add_post("/call/{id}/stop", fake.stop)
    app.router.add_get(f"/v2/agent/{AGENT_ID}/executions", fake.listing)
    app.router.add_get("/executions/{id}", fake.read)
    app.router.add_get(f"/v2/agent/{AGENT_ID}", fake.read_agent)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("/"))
        yield fake


@pytest.fixture
async def bolna(fake: FakeBolna) -> AsyncIterator[Bolna]:
    bolna = Bolna(url=fake.url, api_key="bn-test", timeout_sec=0.3)
    async with bolna.open():
        yield bolna


def an_order() -> Order:
    return Order(
        ref="boln_1",
        agent_id=AGENT_ID,
        to_e164="+919990000142",
        from_e164=None,
        asked_at=utc_now(),
        max_duration_sec=300,
    )


def answering(status: int, body: str = "{}", **headers: str) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers)

    return reply


async def dropping(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hanging(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.5)
    return web.json_response({"execution_id": "late"})


async def breaking_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"execution_id": "ex')
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answering(200, '{"message":"done","status":"queued","execution_id":"ex-1"}'), Accepted("ex-1")),
        (answering(201, '{"id":"ex-1"}'), Accepted("ex-1")),
        (answering(400, '{"error":1001,"message":"blocked"}'), Refused("400: blocked")),
        (answering(401, '{"error":401,"message":"Access denied"}'), Refused("401: Access denied")),
        (answering(403, '{"detail":"Unrecognized access token"}'), Refused("403: Unrecognized access token")),
        (answering(404, "nothing"), Refused("404: no reason given")),
        (answering(422, '{"detail":[{"msg":"field required"}]}'), Refused("422: field required")),
        (answering(429), Throttled(None)),
        (answering(429, "{}", **{"Retry-After": "7"}), Throttled(7.0)),
        (answering(429, "{}", **{"Retry-After": "soon"}), Throttled(None)),
        (answering(200, "done"), Unknown("200 without an id")),
        (answering(200, "{}"), Unknown("200 without an id")),
        (answering(302, "{}", Location="/call"), Unknown("answered 302")),
        (answering(409, "{}"), Unknown("answered 409")),
        (answering(500, "{}"), Unknown("answered 500")),
        (answering(504, "{}"), Unknown("answered 504")),
        (dropping, Unknown("ServerDisconnectedError")),
        (breaking_off, Unknown("ClientPayloadError")),
        (hanging, Unknown("TimeoutError")),
    ],
)
async def test_each_answer_is_what_it_proves_and_the_request_is_sent_once(
    fake: FakeBolna, bolna: Bolna, reply: Reply, expected: object
) -> None:
    fake.reply = reply
    assert await bolna.dial(an_order()) == expected
    assert fake.bodies == [
        {
            "agent_id": AGENT_ID,
            "recipient_phone_number": "+919990000142",
            "user_data": {"cualify_ref": "boln_1"},
        }
    ]


async def test_where_nobody_listens_nothing_was_sent() -> None:
    bolna = Bolna(url="http://127.0.0.1:9", api_key="bn-test", timeout_sec=1)
    async with bolna.open():
        assert await bolna.dial(an_order()) == NotSent("ClientConnectorError")


def an_execution(execution_id: str, *, ref: str = "boln_1", **more: object) -> dict[str, object]:
    return {"id": execution_id, "status": "queued", "context_details": {"recipient_data": {"cualify_ref": ref}}, **more}


def a_page(*rows: Mapping[str, object], has_more: bool = False) -> dict[str, object]:
    return {"data": list(rows), "has_more": has_more}


async def test_a_lost_execution_is_found_on_any_page_among_rows_that_may_be_ours(fake: FakeBolna, bolna: Bolna) -> None:
    other = {"id": "other", "status": "ringing", "telephony_data": {"to_number": "+919990000101"}}
    fake.pages = [
        a_page(other, {"id": "stranger", "status": "queued", "telephony_data": None}, has_more=True),
        a_page({"id": "ours", "status": "ringing", "telephony_data": {"to_number": "09990000142"}}),
    ]
    fake.executions = {"stranger": an_execution("stranger", ref="boln_2"), "ours": an_execution("ours"), "other": 500}
    order = an_order()
    look = await bolna.look_up(order, now=order.asked_at + timedelta(hours=1))
    assert isinstance(look, Found)
    assert (look.snapshot.execution_id, look.others) == ("ours", ())
    assert fake.queries[0].keys() == {"from", "to", "call_type", "page_number", "page_size"}
    assert fake.queries[0]["to"] < (order.asked_at + timedelta(minutes=16)).isoformat()


async def test_two_executions_of_one_reference_are_both_told(fake: FakeBolna, bolna: Bolna) -> None:
    fake.pages = [a_page({"id": "late"}, {"id": "early"})]
    fake.executions = {
        "late": an_execution("late", created_at="2026-11-23T10:00:09"),
        "early": an_execution("early", created_at="2026-11-23T10:00:01+00:00"),
    }
    look = await bolna.look_up(an_order(), now=utc_now())
    assert isinstance(look, Found)
    assert (look.snapshot.execution_id, look.others) == ("early", ("late",))
    fake.executions["late"] = an_execution("late", status="ringing", created_at="2026-11-23T10:00:09")
    look = await bolna.look_up(an_order(), now=utc_now())
    assert isinstance(look, Found)
    assert (look.snapshot.execution_id, look.others) == ("late", ("early",)), "the one that waits can be stopped"


@pytest.mark.parametrize(
    ("pages", "executions", "expected"),
    [
        ([a_page()], {}, Missing()),
        ([a_page({"id": "gone"})], {}, Missing()),
        ([a_page({"id": "ill"})], {"ill": 500}, Unclear("answered 500")),
        ([a_page(has_more=True), 503], {}, Unclear("the list answered 503")),
        ([{"data": "?"}], {}, Unclear("the list answered 200")),
    ],
)
async def test_only_a_complete_look_counts_as_empty(
    fake: FakeBolna, bolna: Bolna, pages: list[Any], executions: dict[str, Any], expected: object
) -> None:
    fake.pages, fake.executions = pages, executions
    assert await bolna.look_up(an_order(), now=utc_now()) == expected


async def test_an_execution_is_read_missing_or_unclear(fake: FakeBolna, bolna: Bolna) -> None:
    fake.executions = {"there": an_execution("there"), "ill": 503}
    assert isinstance(await bolna.look_up(replace(an_order(), execution_id="there"), now=utc_now()), Found)
    assert await bolna.look_up(replace(an_order(), execution_id="nowhere"), now=utc_now()) == Missing()
    assert await bolna.look_up(replace(an_order(), execution_id="ill"), now=utc_now()) == Unclear("answered 503")


def test_every_documented_status_has_a_phase_and_any_other_means_nothing() -> None:
    assert len(PHASES) == 17, "sixteen, and `cancelled`"
    seen = snapshot_in({"id": "ex-1", "status": "quantum-leap"})
    assert seen is not None
    assert (seen.phase, seen.status, seen.is_last) == (Phase.UNHEARD_OF, "quantum-leap", False)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"id": "x"}, {"status": "busy"}, {"id": {}, "status": []}])
def test_what_is_no_execution_is_none(body: object) -> None:
    assert snapshot_in(body) is None


def test_names_that_drift_nulls_and_numbers_as_text_are_read() -> None:
    seen = snapshot_in(
        {
            "id": 7,
            "status": "Completed",
            "conversation_duration": None,
            "conversation_time": "61.5",
            "created_at": "2025-11-19T08:48:27.193399",
            "updated_at": "nonsense",
            "telephony_data": None,
            "context_details": {"recipient_data": None},
            "extracted_data": [],
            "tool_call_logs": None,
            "answered_by_voice_mail": None,
            "transcript": None,
        }
    )
    assert seen is not None
    assert (seen.execution_id, seen.phase, seen.talked_sec) == ("7", Phase.COMPLETED, Decimal("61.5"))
    assert seen.created_at is not None
    assert seen.created_at.isoformat() == "2025-11-19T08:48:27.193399+00:00"
    assert (seen.updated_at, seen.ref, seen.answered_by, seen.facts) == (None, None, None, ())


def test_a_transcript_of_any_length_fits_into_an_event() -> None:
    for said in ("assistant: नमस्ते\n" * 400_000, 'user: "\x01"\n' * 200_000, "user: " + "अ" * 900_000):
        turns = turns_in(said)
        assert turns
        event = CallTranscriptReady(call_id=new_id(), org_id=new_id(), transcript=turns)
        assert len(event.model_dump_json()) < MAX_RECORD_BYTES - 2000


def test_a_recording_is_an_address_of_the_web() -> None:
    def recorded(url: object) -> object:
        seen = snapshot_in({"id": "x", "status": "completed", "telephony_data": {"recording_url": url}})
        return seen and seen.recording_url

    assert recorded("https://api.bolna.ai/recordings/call/x") == "https://api.bolna.ai/recordings/call/x"
    assert [recorded(url) for url in ("javascript:alert(1)", "recordings/x", "", None, 7)] == [None] * 5


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Stopped()),
        (400, TooLate()),
        *((status, Unclear(f"answered {status}")) for status in (401, 403, 404, 429, 503)),
    ],
)
async def test_only_an_answer_about_the_call_says_that_it_can_not_be_stopped(
    fake: FakeBolna, bolna: Bolna, status: int, expected: HangUp
) -> None:
    fake.stop_status = status
    assert await bolna.hang_up("ex-1") == expected


def test_a_transcript_becomes_turns() -> None:
    turns = turns_in("assistant: Namaste!\nHow are you?\nuser: fine\nassistant:\nuser: user: again")
    assert [(turn.role, turn.text) for turn in turns] == [
        ("agent", "Namaste!\nHow are you?"),
        ("callee", "fine"),
        ("callee", "user: again"),
    ]


@pytest.mark.parametrize(
    "agent",
    [
        {"tasks": [{"task_config": {"auto_reschedule": True}}]},
        {"task_config": {"auto_reschedule": "yes"}},
        {"retry_config": {"enabled": True, "max_retries": 1}},
        {"agent_config": {"retry_config": {"enabled": 1}}},
        {"calling_guardrails": {"call_start_hour": 9, "call_end_hour": 21}},
        {"calling_guardrails": {"call_start_hour": 0}},
    ],
)
async def test_an_agent_with_a_switch_on_that_redials_is_refused(
    fake: FakeBolna, bolna: Bolna, agent: dict[str, Any]
) -> None:
    fake.agent = agent
    await bolna.find_out(AGENT_ID)
    verdict = bolna.readiness(AGENT_ID)
    assert isinstance(verdict, Unfit)
    assert verdict.ended_reason == "provider_misconfigured"
    assert fake.bodies == []


@pytest.mark.parametrize(
    "agent",
    [
        {},
        {"tasks": [{"task_config": {"auto_reschedule": False}}], "retry_config": {"enabled": False}},
        {"calling_guardrails": None, "retry_config": None, "auto_reschedule": None},
        {"calling_guardrails": {"call_start_hour": None, "call_end_hour": None}},
    ],
)
async def test_an_agent_with_its_switches_off_may_be_used(fake: FakeBolna, bolna: Bolna, agent: dict[str, Any]) -> None:
    fake.agent = agent
    assert bolna.readiness(AGENT_ID) is None
    await bolna.find_out(AGENT_ID)
    assert bolna.readiness(AGENT_ID) == Ready()
    assert fake.agent_reads == 1


@pytest.mark.parametrize(("status", "expected"), [(500, Unreadable), (403, Unreadable), (404, Unfit)])
async def test_an_agent_that_can_not_be_read_back_is_not_dialed_with(
    fake: FakeBolna, bolna: Bolna, status: int, expected: type[object]
) -> None:
    fake.agent = status
    await bolna.find_out(AGENT_ID)
    assert isinstance(bolna.readiness(AGENT_ID), expected)


@pytest.mark.parametrize(
    ("said", "cents"),
    [
        (12.5, 12.5),
        ("12.5", 12.5),
        (0, 0.0),
        (None, None),
        (True, None),
        ("dear", None),
        (-1, None),
        ("nan", None),
        ("inf", None),
        (1e9, None),
    ],
)
def test_a_cost_is_read_where_it_can_be_true(said: object, cents: float | None) -> None:
    seen = snapshot_in({"id": "ex-1", "status": "completed", "total_cost": said})
    assert seen is not None
    assert seen.cost_cents == cents
