"""Several processes of the webhook-dispatcher: they share the load, and what one is told holds for all."""

import asyncio
import re
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from cualify_local.environment import DISPATCHER
from cualify_local.kafka.broker import Kafka
from cualify_local.postgres import Postgres
from cualify_local.settings import StackSettings
from cualify_local.stack import Stack, StackFailed
from tests.support.platform import Platform, platform, until
from tests.webhook_dispatcher.receiver import Receiver

CALLS = 60
DELIVERED = re.compile(r'^cualify_deliveries_total\{outcome="delivered"\} ([0-9.e+]+)$', re.MULTILINE)


async def test_three_dispatchers_share_the_load_and_a_delete_through_one_stops_all(
    postgres: Postgres, kafka: Kafka, tmp_path: Path
) -> None:
    if kafka.kind == "embedded":
        await one_alone_with_the_embedded_broker(postgres, kafka, tmp_path / "stack")
        return
    async with platform(postgres, kafka, tmp_path / "stack", dispatchers=3) as cualify:
        names = [DISPATCHER, f"{DISPATCHER}-2", f"{DISPATCHER}-3"]
        assert set(names) < cualify.stack.running.keys()
        await place_many(cualify)
        await until(lambda: all_told(cualify), "every call's end was told")
        shares = await asyncio.gather(*(delivered(cualify, name) for name in names))
        assert min(shares) > 0, shares
        await deleted_through_one(cualify, names)


async def deleted_through_one(cualify: Platform, names: list[str]) -> None:
    """Each has more to send to an endpoint than it can; the api asks the first, the DELETE goes to the last."""

    async def slow(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.Response()

    receiver = Receiver(slow)
    await receiver.start()
    try:
        wanted = {"url": receiver.url, "events": ["*"]}
        status, made = await cualify.post("/api/v1/webhooks", wanted)
        assert status == 201
        endpoint_id = UUID(made["data"]["id"])
        await place_many(cualify)
        await receiver.until(30, seconds=30)
        waiting = await cualify.query(
            DISPATCHER, "SELECT count(*) FROM deliveries WHERE endpoint_id = $1 AND finished_at IS NULL", endpoint_id
        )
        assert waiting[0][0] > 0
        path = f"/internal/orgs/{cualify.seeded.org_id}/endpoints/{endpoint_id}"
        assert await ask(cualify, names[-1], "DELETE", path) == 200
        await asyncio.sleep(0.05)  # What was on the wire when it was cut off has arrived.
        sent = len(receiver.got)
        await asyncio.sleep(1.5)
        assert len(receiver.got) == sent
        for name in names:
            assert await ask(cualify, name, "DELETE", path) == 404
    finally:
        await receiver.stop()


async def one_alone_with_the_embedded_broker(postgres: Postgres, kafka: Kafka, folder: Path) -> None:
    with pytest.raises(StackFailed, match="embedded"):
        async with Stack(StackSettings(dispatchers=3), folder, print, postgres=postgres, kafka=kafka):
            pass


async def place_many(cualify: Platform) -> None:
    await asyncio.gather(*(cualify.place(f"+9199930000{n:02d}") for n in range(CALLS)))


async def all_told(cualify: Platform) -> bool:
    return len({got.call_id for got in cualify.receiver.received if got.type == "call.completed"}) >= CALLS


async def delivered(cualify: Platform, name: str) -> float:
    async with cualify.http.get(f"{cualify.stack.addresses.url(name)}/metrics") as answer:
        found = DELIVERED.search(await answer.text())
    return float(found[1]) if found else 0.0


async def ask(cualify: Platform, name: str, method: str, path: str) -> int:
    headers = {"Authorization": f"Bearer {cualify.stack.secret.internal_token}"}
    url = cualify.stack.addresses.url(name) + path
    async with aiohttp.ClientSession(headers=headers) as http, http.request(method, url) as answer:
        return answer.status
