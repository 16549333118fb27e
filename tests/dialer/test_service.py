"""The dialer's parts together, against the simulator over HTTP: the route, the loops, the public table of numbers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import pytest
import uvicorn
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.requests import Request

from cualify_dialer import consume
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.callbacks import Guard
from cualify_dialer.main import parts
from cualify_dialer.model import Pace
from cualify_dialer.settings import DialerSettings, networks
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.events import decode
from cualify_shared.events.call import CallRequested
from cualify_shared.service import Context
from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings
from tests.dialer.support import TOKEN, a_request, an_event

ENDS = {
    "142": ("completed", "completed", 142, 1),
    "101": ("busy", "busy", 0, 1),
    "104": ("failed", "provider_refused", 0, 1),
    "105": ("completed", "completed", 60, 1),
    "106": ("completed", "completed", 60, 1),
    "107": ("completed", "completed", 60, 1),
    "108": ("completed", "completed", 60, 1),
    "109": ("completed", "completed", 60, 1),
    "110": ("completed", "completed", 5, 1),
    "112": ("completed", "completed", 90, 1),
    "114": ("completed", "completed", 60, 1),
    "116": ("failed", "balance_low", 0, 1),
    "117": ("completed", "completed", 60, 1),
}


@dataclass(slots=True)
class Running:
    """The service's parts, its address, and the simulator's."""

    pool: Pool
    url: str
    simulator_url: str
    agent_id: str
    http: aiohttp.ClientSession

    async def request(self, *requests: CallRequested) -> None:
        read = consume.call_requests(pace=Pace(), changed=lambda: None)
        async with self.pool.acquire() as connection, connection.transaction():
            await read.handler(connection, [an_event(request) for request in requests])

    async def all_ended(self) -> None:
        async with asyncio.timeout(20):
            while await self.pool.fetchval("SELECT count(*) FROM dial_jobs WHERE state <> 'ended'"):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical"))
    task = asyncio.ensure_future(server._serve())  # without its signal handlers
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def running(pool: Pool) -> AsyncIterator[Running]:
    settings = Settings(port=0, simulator_speed=200, client_timeout_sec=0.4)
    simulator = build_app(settings)
    stop = asyncio.Event()
    async with TestServer(simulator) as server, aiohttp.ClientSession() as http:
        simulator_url = str(server.make_url("")).rstrip("/")
        made = parts(Context(_settings(simulator_url), pool, lambda: None, stop))
        async with serving(made.app) as url, asyncio.TaskGroup() as group:
            for loop in made.loops:
                group.create_task(loop.run(stop))  # type: ignore[arg-type]
            agent_id = await _agent(http, simulator_url, webhook_url=f"{url}/callbacks/bolna/{TOKEN}")
            yield Running(pool, url, simulator_url, agent_id, http)
            stop.set()


def _settings(simulator_url: str) -> DialerSettings:
    return DialerSettings(
        database_url=SecretStr("unused"),
        kafka_bootstrap_servers="unused",
        internal_token=SecretStr("unused"),
        bolna_url=simulator_url,
        bolna_api_key=SecretStr("bn-simulator"),
        callback_token=SecretStr(TOKEN),
        provider_timeout_sec=0.4,
        look_up_every_sec=0.5,
    )


async def _agent(http: aiohttp.ClientSession, url: str, *, webhook_url: str) -> str:
    body = {"agent_config": {"agent_name": "Asha", "webhook_url": webhook_url}}
    async with http.post(f"{url}/v2/agent", json=body, headers={"Authorization": "Bearer bn-simulator"}) as answer:
        agent_id: str = (await answer.json())["agent_id"]
        return agent_id


async def test_every_number_of_the_table_ends_as_it_says_and_rings_once(running: Running) -> None:
    requests = {
        number: a_request(to_e164=f"+919990000{number}", latest_at=utc_now() + timedelta(minutes=5)).model_copy(
            update={"provider_agent_id": running.agent_id}
        )
        for number in ENDS
    }
    await running.request(*requests.values())
    await running.all_ended()
    rows = await running.pool.fetch("SELECT key, payload FROM outbox ORDER BY id")
    told = [decode(row["payload"]) for row in rows]
    ends = {event.key: event.data for event in told if event.type.name in ("call.completed", "call.failed")}
    for number, request in requests.items():
        end = ends[request.call_id].model_dump()
        assert (end["status"], end["ended_reason"], end["duration_sec"], end["attempts"]) == ENDS[number], number
    assert ends[requests["110"].call_id].model_dump()["answered_by"] == "voicemail"
    names = [event.type.name for event in told if event.key == requests["142"].call_id]
    assert [name for name in names if name.startswith(("call.disc", "call.intent"))] == [
        "call.disclosure_played",
        "call.intent_detected",
    ]
    for key in ends:
        assert [e.sequence for e in told if e.key == key and e.type.topic.name == "call.events"] == list(
            range(1, 1 + sum(e.key == key and e.type.topic.name == "call.events" for e in told))
        )
    async with running.http.get(f"{running.simulator_url}/journal?after=0") as answer:
        entries = (await answer.json())["entries"]
    rings = Counter(entry["to_e164"] for entry in entries if entry["kind"] == "ring")
    assert set(rings.values()) == {1}
    assert len(rings) == len(ENDS) - 2, "the refused one and the one without balance never ring"


async def test_a_wrong_token_or_provider_is_told_nothing_and_a_body_has_a_limit(running: Running) -> None:
    for path, body, status in [
        (f"bolna/{TOKEN}", b"{}", 200),
        (f"bolna/{TOKEN}x", b"{}", 404),
        (f"exotel/{TOKEN}", b"{}", 404),
        (f"bolna/{TOKEN}", b"x" * ((1 << 20) + 1), 413),
    ]:
        async with running.http.post(f"{running.url}/callbacks/{path}", data=body) as answer:
            assert answer.status == status
    assert await running.pool.fetchval("SELECT count(*) FROM provider_events") == 1


async def test_only_a_post_is_a_callback_and_everything_else_goes_to_the_router(running: Running) -> None:
    async with running.http.get(f"{running.url}/callbacks/bolna/{TOKEN}") as answer:
        assert answer.status == 405
    for path in ("/callbacks", "/callbacks/", f"/callbacks/bolna/{TOKEN}/boln_1/more", "/elsewhere"):
        async with running.http.post(f"{running.url}{path}", data=b"{}") as answer:
            assert answer.status == 404, path
    assert await running.pool.fetchval("SELECT count(*) FROM provider_events") == 0


async def test_an_attempts_own_address_lets_only_that_attempt_speak(running: Running) -> None:
    urls = CallbackUrls(public_url=running.url, token=TOKEN)
    good = urls.of("bolna", "boln_1")
    for url, status in [
        (good, 200),
        (good.replace("boln_1", "boln_2"), 404),
        (good.replace("bolna", "exotel", 1), 404),
    ]:
        async with running.http.post(url, data=b"{}") as answer:
            assert answer.status == status
    async with running.http.post(f"{running.url}/callbacks/bolna/{TOKEN}/boln_1", data=b"{}") as answer:
        assert answer.status == 404, "the account's token is not an attempt's"


def a_request_from(address: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "client": (address, 1), "headers": raw})


@pytest.mark.parametrize(
    ("address", "secret", "passes"),
    [
        ("13.203.39.153", "s3cret", True),
        ("13.203.39.153", "s3cre", False),
        ("13.203.39.153", None, False),
        ("13.203.39.154", "s3cret", False),
        ("::ffff:13.203.39.153", "s3cret", True),
        ("::ffff:13.203.39.154", "s3cret", False),
        ("testclient", "s3cret", False),
    ],
)
def test_a_callback_comes_from_the_providers_addresses_with_the_header_that_was_agreed_on(
    address: str, secret: str | None, passes: bool
) -> None:
    guard = Guard(networks("13.203.39.153, 10.0.0.0/8"), ("X-Cualify", "s3cret"))
    headers = {"x_cualify": secret} if secret else {}
    assert guard.lets_pass(a_request_from(address, **headers)) is passes
    assert Guard().lets_pass(a_request_from("anywhere"))
