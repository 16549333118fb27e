"""A process that dies: what was committed is found again, and nothing else was ever there."""

import asyncio
import os
import signal
import sys

import aiohttp
import pytest

from cualify_api import consume
from cualify_api.calls import queries, terms
from cualify_local import children
from cualify_shared import outbox
from cualify_shared.events import Event
from tests.api.world import World, debited, life, settings


async def test_a_crash_after_the_commit_is_answered_by_the_key(world: World) -> None:
    """The api is killed between COMMIT and answer; the repeat under the same key finds the one call."""
    org = await world.org()
    port = children.free_port()
    dsn = await _dsn(world)
    body = {"agent_id": org.agent_id, "to_e164": "+919812345678"}
    async with aiohttp.ClientSession(headers=org.auth | {"Idempotency-Key": "once"}) as http:
        process = await _start(dsn, port, FAULTS="api.place.committed")
        await _up(http, port, process)
        with pytest.raises(aiohttp.ClientError):
            await http.post(f"http://127.0.0.1:{port}/api/v1/calls", json=body)
        assert await process.wait() == -signal.SIGKILL
    again = await world.place(org, headers={"Idempotency-Key": "once"})
    assert (again.status, again.headers.get("Idempotency-Replayed")) == (201, "true")
    assert await world.pool.fetchval("SELECT count(*) FROM calls") == 1
    assert await world.pool.fetchval("SELECT count(*) FROM outbox") == 1
    assert await world.wallet(org) == (10_000_000, 3000)


async def test_what_dies_before_the_commit_was_never_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    org = await world.org()

    async def die(*_: object) -> None:
        raise RuntimeError("died before the event was written")

    before = await world.dump()
    monkeypatch.setattr(outbox, "put", die)
    assert (await world.place(org, headers={"Idempotency-Key": "k"})).status == 500
    assert await world.dump() == before
    monkeypatch.undo()
    assert (await world.place(org, headers={"Idempotency-Key": "k"})).status == 201


@pytest.mark.parametrize("dies_in", ["change_credit", "change", "tell"])
async def test_a_fold_that_dies_halfway_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed_all(life(org, call_id, artifacts=()))
    before, debit = await world.dump(), debited(org, call_id, 1420)

    async def die(*_: object, **__: object) -> None:
        raise RuntimeError("died")

    module = {"change_credit": terms, "change": queries, "tell": consume}[dies_in]
    monkeypatch.setattr(module, dies_in, die)
    with pytest.raises(RuntimeError):
        await world.feed("wallet.events", debit)
    assert await world.dump() == before
    monkeypatch.undo()
    await _twice(world, debit)
    assert await world.wallet(org) == (10_000_000 - 1420, 0)
    assert (await world.told(call_id))[-1][0] == "call.completed"


async def _twice(world: World, event: Event) -> None:
    for _ in range(2):
        await world.feed(event.type.topic.name, event)


async def _dsn(world: World) -> str:
    """The address of the database that the world is on."""
    async with world.pool.acquire() as connection:
        name = await connection.fetchval("SELECT current_database()")
        parameters, (host, port) = connection._con._params, connection._con._addr  # type: ignore[attr-defined]
        return f"postgresql://{parameters.user}:{parameters.password}@{host}:{port}/{name}"


async def _start(dsn: str, port: int, **more: str) -> asyncio.subprocess.Process:
    chosen = settings(port=port)
    environment = {
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "INTERNAL_TOKEN": "internal-token",
        "ADMIN_TOKEN": "admin-token",
        "KEY_PEPPER": chosen.key_pepper.get_secret_value(),
        "CALLEE_TOKEN_KEY": chosen.callee_token_key.get_secret_value(),
        "BILLING_URL": chosen.billing_url,
        "DIALER_URL": chosen.dialer_url,
        "WEBHOOK_DISPATCHER_URL": chosen.webhook_dispatcher_url,
        "PORT": str(port),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cualify_api.main", env=os.environ | environment | more, stdout=asyncio.subprocess.DEVNULL
    )


async def _up(http: aiohttp.ClientSession, port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None
            try:
                async with http.get(f"http://127.0.0.1:{port}/healthz"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
