"""The receivers that customers may copy: each takes real deliveries and refuses forged ones."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import orjson
import pytest

from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import sign
from tests.support.webhook_world import free_port
from tests.webhook_dispatcher.conftest import Dispatcher, Receive, call_events
from tests.webhook_dispatcher.receiver import answer_ok

FOLDER = Path(__file__).parents[2] / "services/webhook-dispatcher/receivers"
NPM_VERSION = "1.1.1"
COMMANDS = {
    "receiver.py": ["python3", str(FOLDER / "receiver.py")],
    "receiver.mjs": ["node", str(FOLDER / "receiver.mjs")],
    "receiver.php": ["php", "-S", "127.0.0.1:{port}", str(FOLDER / "receiver.php")],
}


VERIFY = """
import { readFileSync } from 'node:fs'
import { Webhook } from 'standardwebhooks'
const { secret, body, headers } = JSON.parse(readFileSync(0, 'utf8'))
for (const one of [secret, 'whsec_' + secret]) console.log(new Webhook(one).verify(body, headers).type)
try {
  new Webhook(secret).verify(body + ' ', headers)
} catch (error) {
  console.log(error.constructor.name)
}
"""


def must_be_there(tool: str) -> None:
    """Customers copy these: a machine that can't run them proves nothing, and says so."""
    assert shutil.which(tool), f"{tool} is needed on PATH for this test: Debian's packages are php-cli, nodejs and npm"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_receiver_has_fewer_than_20_lines(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) < 20


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_receiver_takes_real_deliveries_and_refuses_forged_ones(dispatcher: Dispatcher, name: str) -> None:
    must_be_there(COMMANDS[name][0])
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


@pytest.fixture(scope="session")
def official_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the `standardwebhooks` of npm."""
    must_be_there("node")
    must_be_there("npm")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (folder / "verify.mjs").write_text(VERIFY)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"standardwebhooks@{NPM_VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"npm could not install standardwebhooks {NPM_VERSION}: {done.stderr[-500:]}"
    return folder


async def test_the_official_library_of_npm_verifies_real_deliveries(
    dispatcher: Dispatcher, receive: Receive, official_library: Path
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    _, secret = await dispatcher.register(org_id, receiver.url)
    await dispatcher.arrive(*call_events(org_id))
    (got,) = await receiver.until(1)
    told = {
        "secret": secret,
        "body": got.content.decode(),
        "headers": {f"{name}": value for name, value in got.headers.items()},
    }
    process = await asyncio.create_subprocess_exec(
        "node",
        "verify.mjs",
        cwd=official_library,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(process.communicate(orjson.dumps(told)), 30)
    assert said.decode().split() == ["call.completed", "call.completed", "WebhookVerificationError"], wrong.decode()


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
