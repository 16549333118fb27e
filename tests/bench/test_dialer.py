"""How fast the dialer dials, hears and is fair, beside bare peers of the same run. Numbers are printed, not asserted.

The callbacks go straight through ASGI: no client's and no server's cost is in either of the two numbers.
"""

import asyncio
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import orjson
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Message

from cualify_dialer.apply import apply
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.callbacks import Callbacks
from cualify_dialer.consume import call_requests
from cualify_dialer.dial import Capacity, Dialing, Lines
from cualify_dialer.model import Answered, Begun, Noted, Pace
from cualify_dialer.providers import Accepted
from cualify_dialer.providers.bolna import Bolna
from cualify_local.children import free_ports
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.events.call import CallRequested
from cualify_shared.ids import new_id
from tests.dialer.support import TOKEN, a_request, an_event

DIALS, AT_ONCE, CALLBACKS, QUEUED = 1500, 200, 3000, 50_000

PROVIDER = """
import asyncio, sys
from aiohttp import web
async def agent(_): return web.json_response({})
async def call(_):
    await asyncio.sleep(0.05)
    call.n += 1
    return web.json_response({"message": "done", "status": "queued", "execution_id": f"ex-{call.n}"})
call.n = 0
app = web.Application()
app.add_routes([web.post("/call", call), web.get("/v2/agent/{id}", agent)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


def report(what: str, **numbers: float) -> None:
    cores = f"{os.cpu_count()} shared cores, {platform.machine()}, Python {platform.python_version()}"
    print(
        f"\n{what} [{cores}]: "
        + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
    )


@pytest.fixture
async def provider_url() -> AsyncIterator[str]:
    """A provider in another process that answers after 50 ms."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROVIDER, str(port))
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http, asyncio.timeout(20):
        while True:
            try:
                async with http.get(f"{url}/v2/agent/x"):
                    break
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
    yield url
    process.kill()
    await process.wait()


@pytest.fixture
async def pool(database: Any, pool_for: Any) -> Pool:
    made: Pool = await pool_for(await database("cualify_dialer"))
    return made


async def put(pool: Pool, requests: list[CallRequested], wake: Callable[[], None] = lambda: None) -> None:
    read = call_requests(pace=Pace(), changed=wake)
    for start in range(0, len(requests), 1000):
        async with pool.acquire() as connection, connection.transaction():
            after = await read.handler(connection, [an_event(one) for one in requests[start : start + 1000]])
        if after is not None:
            after()


@asynccontextmanager
async def dialing(pool: Pool, url: str, *, lines: int) -> AsyncIterator[Dialing]:
    bolna = Bolna(url=url, api_key="k", timeout_sec=10)
    loop = Dialing(
        pool=pool,
        providers={"bolna": bolna},
        pace=Pace(),
        lines=Lines(providers={"bolna": Capacity(lines=lines, calls_per_sec=100_000)}, org_lines=10_000),
        urls=CallbackUrls(public_url="http://127.0.0.1:9", token=TOKEN),
        committed=lambda: None,
        changed=lambda: None,
        drain_sec=10,
    )
    stop = asyncio.Event()
    async with bolna.open(), asyncio.TaskGroup() as group:
        group.create_task(loop.run(stop))
        yield loop
        stop.set()


async def bare_posts(url: str) -> None:
    """The peer: the same number of POSTs, each on a connection of its own, and nothing else."""
    body, left = b'{"agent_id":"a","recipient_phone_number":"+919990000142"}', iter(range(DIALS))

    async def post(http: aiohttp.ClientSession) -> None:
        for _ in left:
            async with http.post(f"{url}/call", data=body, headers={"Content-Type": "application/json"}) as answer:
                orjson.loads(await answer.read())

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        await asyncio.gather(*(post(http) for _ in range(AT_ONCE)))


async def timed(work: Awaitable[Any]) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - wall, time.process_time() - cpu


@pytest.mark.bench
async def test_dials_a_second_beside_a_bare_loop_of_posts(pool: Pool, provider_url: str) -> None:
    await put(pool, [a_request(org_id=new_id(), to_e164=f"+9198{n:08d}") for n in range(DIALS)])

    async def all_accepted() -> None:
        async with dialing(pool, provider_url, lines=10_000), asyncio.timeout(120):
            while await pool.fetchval("SELECT count(*) FROM attempts WHERE state = 'accepted'") < DIALS:
                await asyncio.sleep(0.05)

    wall, cpu = await timed(all_accepted())
    bare_wall, bare_cpu = await timed(bare_posts(provider_url))
    report(
        "dials",
        per_sec=DIALS / wall,
        cpu_ms=1000 * cpu / DIALS,
        bare_per_sec=DIALS / bare_wall,
        bare_cpu_ms=1000 * bare_cpu / DIALS,
        cpu_ratio=cpu / bare_cpu,
    )


@pytest.mark.bench
async def test_a_single_call_beside_fifty_thousand_of_another_org(pool: Pool, provider_url: str) -> None:
    long_ago, flood = utc_now() - timedelta(minutes=5), new_id()
    await put(pool, [a_request(org_id=flood, to_e164=f"+9197{n:08d}", requested_at=long_ago) for n in range(QUEUED)])
    await pool.execute("ANALYZE dial_jobs")
    waits: list[float] = []
    async with dialing(pool, provider_url, lines=20_000) as loop:
        await asyncio.sleep(1)
        for n in range(20):
            single = a_request(to_e164=f"+9196{n:08d}")
            begun = time.perf_counter()
            await put(pool, [single], loop.wake)
            async with asyncio.timeout(30):
                while not await pool.fetchval(
                    "SELECT count(*) FROM attempts WHERE call_id = $1 AND state <> 'asking'", single.call_id
                ):
                    await asyncio.sleep(0.01)
            waits.append(time.perf_counter() - begun)
    waits.sort()
    report("request to provider's answer beside 50,000", p50_ms=1000 * waits[10], worst_ms=1000 * waits[-1])


class Heard(BaseModel):
    id: str
    status: str


@pytest.mark.bench
async def test_a_callback_beside_a_bare_validated_post(pool: Pool) -> None:
    requests = [a_request(org_id=new_id(), to_e164=f"+9198{n:08d}") for n in range(CALLBACKS // 6)]
    refs = [request.provider_call_id for request in requests]
    words = ("queued", "initiated", "ringing", "in-progress", "call-disconnected", "completed")
    bodies = [
        orjson.dumps(
            {
                "id": f"ex-{ref}",
                "status": word,
                "context_details": {"recipient_data": {"cualify_ref": ref}},
                "transcript": "x" * 500,
            }
        )
        for word in words
        for ref in refs
    ]
    callbacks = Callbacks(
        pool=pool,
        providers={"bolna": Bolna(url="http://127.0.0.1:9", api_key="k", timeout_sec=1)},
        urls=CallbackUrls(public_url="http://127.0.0.1:9", token=TOKEN),
        guards={},
        pace=Pace(),
        committed=lambda: None,
        hinted=lambda: None,
    )
    app, bare = (FastAPI(openapi_url=None) for _ in range(2))
    callbacks.serve(app)

    @bare.post("/callbacks/{provider}/{token}")
    async def post(provider: str, token: str, body: Heard) -> dict[str, str]:
        return {"status": body.status}

    await put(pool, requests)
    await begin(pool, requests)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(callbacks.run(stop))
        _, cpu = await timed(all_of(app, bodies))
        _, bare_cpu = await timed(all_of(bare, bodies))
        stop.set()
    assert await pool.fetchval("SELECT count(*) FROM provider_events") == len(bodies)
    report(
        "callbacks", cpu_ms=1000 * cpu / len(bodies), bare_cpu_ms=1000 * bare_cpu / len(bodies), ratio=cpu / bare_cpu
    )


async def begin(pool: Pool, requests: list[CallRequested]) -> None:
    """An attempt of each call is out, and the provider has accepted it: what callbacks are about."""
    now = utc_now()
    until = now + timedelta(minutes=1)
    for start in range(0, len(requests), 500):
        noted = [
            Noted(one.call_id, learnt)
            for one in requests[start : start + 500]
            for learnt in (
                Begun(ref=one.provider_call_id, asked_at=now, asking_until=until),
                Answered(1, Accepted(f"ex-{one.provider_call_id}")),
            )
        ]
        async with pool.acquire() as connection, connection.transaction():
            await apply(connection, noted, now=now, pace=Pace())


async def all_of(app: FastAPI, bodies: list[bytes]) -> None:
    """Every body, 64 at a time, straight through ASGI: no client's and no server's cost in it."""
    left = iter(bodies)

    async def some() -> None:
        for body in left:
            await through(app, body)

    await asyncio.gather(*(some() for _ in range(64)))


async def through(app: FastAPI, body: bytes) -> None:
    path = f"/callbacks/bolna/{TOKEN}"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200

    await app(scope, receive, send)
