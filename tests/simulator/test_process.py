"""The simulator as it is run: a process with an environment, which stops at once when told to."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.simulator.world import PATIENCE_SEC, until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def started(port: int, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cualify_simulator"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PORT": str(port), **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stderr
    return (await asyncio.wait_for(process.stderr.readline(), PATIENCE_SEC)).decode()


async def test_it_serves_by_its_environment_and_stops_at_once_with_calls_under_way() -> None:
    port = free_port()
    environment = {"BOLNA_API_KEY": "bn-mine", "SIMULATOR_MAX_CONCURRENCY": "5", "CLIENT_TIMEOUT_SEC": "60"}
    async with started(port, **environment) as process, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        assert "simulator_started" in await first_line(process)
        headers = {"Authorization": "Bearer bn-mine"}
        async with http.get("/user/me", headers=headers) as response:
            assert (await response.json())["concurrency"]["max"] == 5
        async with http.post("/v2/agent", json={"agent_config": {"agent_name": "x"}}, headers=headers) as response:
            agent_id = (await response.json())["agent_id"]

        body = {"agent_id": agent_id, "recipient_phone_number": "+919990000107"}
        waiting = asyncio.create_task(_post(http, body, headers))
        await until(lambda: _journal(http))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 3) == 0
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], aiohttp.ClientError)


async def test_an_agent_of_its_environment_is_there_again_after_a_restart() -> None:
    port, agent_id = free_port(), "00000000-0000-4000-8000-00000000c0de"
    environment = {"SIMULATOR_AGENT_ID": agent_id, "SIMULATOR_AGENT_WEBHOOK_URL": "http://127.0.0.1:1/callbacks"}
    for _ in range(2):
        async with started(port, **environment) as process, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            assert "simulator_started" in await first_line(process)
            headers = {"Authorization": "Bearer bn-simulator"}
            async with http.get(f"/v2/agent/{agent_id}", headers=headers) as response:
                assert (await response.json())["webhook_url"] == "http://127.0.0.1:1/callbacks"


async def test_an_environment_that_makes_no_sense_is_said_at_once() -> None:
    async with started(free_port(), SIMULATOR_SPEED="0") as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE_SEC) != 0


async def _post(http: aiohttp.ClientSession, body: dict[str, str], headers: dict[str, str]) -> int:
    async with http.post("/call", json=body, headers=headers) as response:
        return response.status


async def _journal(http: aiohttp.ClientSession) -> list[object]:
    async with http.get("/journal") as response:
        return list((await response.json())["entries"])
