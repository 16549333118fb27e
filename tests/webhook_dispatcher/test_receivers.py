"""The receivers that customers may copy: each takes real deliveries and refuses forged ones."""

import asyncio
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import aiohttp
import pytest

from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import sign
from tests.support.webhook_world import free_port
from tests.webhook_dispatcher.conftest import Dispatcher, call_events

FOLDER = Path(__file__).parents[2] / "services/webhook-dispatcher/receivers"
COMMANDS = {
    "receiver.py": ["python3", str(FOLDER / "receiver.py")],
    "receiver.mjs": ["node", str(FOLDER / "receiver.mjs")],
    "receiver.php": ["php", "-S", "127.0.0.1:{port}", str(FOLDER / "receiver.php")],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_receiver_has_fewer_than_20_lines(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) < 20


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_receiver_takes_real_deliveries_and_refuses_forged_ones(dispatcher: Dispatcher, name: str) -> None:
    interpreter = COMMANDS[name][0]
    if shutil.which(interpreter) is None:
        pytest.skip(f"no {interpreter} on PATH")
    port, org_id = free_port(), new_id()
    url = f"http://127.0.0.1:{port}/"
    _, secret = await dispatcher.register(org_id, url)
    process = await asyncio.create_subprocess_exec(
        *(part.format(port=port) for part in COMMANDS[name]),
        env={**os.environ, "CUALIFY_SECRET": secret, "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until_listening(port)
        events = call_events(org_id, 3)
        await dispatcher.arrive(*events)
        await dispatcher.until_state("delivered", *events)
        assert await _status(url, secret, at=int(time.time())) == 204
        assert await _status(url, sign.new_secret(), at=int(time.time())) == 401
        assert await _status(url, secret, at=int(time.time()) - 600) == 401
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def _status(url: str, secret: str, *, at: int) -> int:
    content = b'{"type":"ping"}'
    lines = sign.headers(notification_id="evt_1", content=content, secrets=[secret], at_unix=at)
    headers = dict(line.split(": ", 1) for line in lines)
    async with aiohttp.ClientSession() as http, http.post(url, data=content, headers=headers) as answer:
        return answer.status


async def _until_listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            except OSError:
                await asyncio.sleep(0.02)
            else:
                return
