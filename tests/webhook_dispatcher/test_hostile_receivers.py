"""Receivers that mean harm or break, under a whole dispatcher: what they hold comes free in time, and nothing grows."""

import asyncio
import gc
import ssl
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import certifi
import psutil
import pytest

from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher.names import Names
from tests.webhook_dispatcher.conftest import Dispatcher, Receive, call_events, make_dispatcher
from tests.webhook_dispatcher.fault_server import (
    HOST,
    Authorities,
    Serve,
    authorities,
    dripping,
    endless_headers,
    fifty_megabytes,
    gzip_bomb,
    issued,
    never,
    resets,
    serving,
    status,
)
from tests.webhook_dispatcher.receiver import answer_ok

DEADLINE_SEC = 1.5
EVENTS = 40
HOSTILE: dict[str, tuple[str | None, Callable[[], Serve]]] = {
    "a byte a second": ("timeout_body", lambda: dripping(1.0)),
    "no answer": ("timeout_headers", lambda: never),
    "50 MB": (None, lambda: fifty_megabytes),
    "endless headers": ("connection_closed", lambda: endless_headers),
    "a gzip bomb": (None, gzip_bomb),
    "a redirect": ("redirect", lambda: status(302, "Connection: close", "Location: http://127.0.0.1:1/")),
    "an expired certificate": ("tls_certificate", lambda: status(204)),
    "a reset": ("connection_closed", lambda: resets),
}


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return authorities(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("name", HOSTILE)
async def test_its_slots_come_free_in_time_memory_is_flat_and_others_are_served(
    name: str, pool: Pool, receive: Receive, trusted: Authorities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certifi, "where", lambda: str(trusted.bundle))
    code, serve = HOSTILE[name]
    expired = trusted.context(tmp_path, issued("old", by=trusted.between, days=-1)) if "expired" in name else None
    made = make_dispatcher(pool, timeout_sec=DEADLINE_SEC, max_in_flight=200)
    made.sender.names = Names(look_up=lambda host: ["127.0.0.1"])
    good, org_id, other_org = await receive(answer_ok), new_id(), new_id()
    try:
        async with serving(serve(), tls=expired) as port:
            hostile_id, _ = await made.register(org_id, url_of(expired, port))
            await made.register(other_org, good.url)
            made.start()
            await made.deliver.look_again()
            gc.collect()
            memory = psutil.Process().memory_info().rss
            await made.arrive(*(event for _ in range(EVENTS) for event in call_events(org_id)))
            healthy = [event for _ in range(EVENTS) for event in call_events(other_org)]
            began = monotonic()
            await made.arrive(*healthy)
            await made.until_state("delivered", *healthy, seconds=DEADLINE_SEC)
            await made.until(
                "count(*) > 0 FROM attempts WHERE endpoint_id = $1 AND failure_code IS NOT DISTINCT FROM $2",
                hostile_id,
                code,
                seconds=DEADLINE_SEC + 2,
            )
            await until_free(made, seconds=began + 2 * DEADLINE_SEC + 4 - monotonic())
            tried = await pool.fetch(
                "SELECT failure_code, duration_ms FROM attempts WHERE endpoint_id = $1", hostile_id
            )
            assert {row["failure_code"] for row in tried} == {code}
            assert max(row["duration_ms"] for row in tried) < DEADLINE_SEC * 1000 + 300
            gc.collect()
            assert psutil.Process().memory_info().rss - memory < 40_000_000
    finally:
        await made.end()


def url_of(tls: ssl.SSLContext | None, port: int) -> str:
    return f"http://127.0.0.1:{port}/hook" if tls is None else f"https://{HOST}:{port}/hook"


async def until_free(made: Dispatcher, *, seconds: float) -> None:
    """No slot is held, nothing is claimed any more: it was delivered, given up, or waits for its endpoint."""
    async with asyncio.timeout(seconds):
        while sum(made.deliver._lanes.under_way) or made.deliver.held:
            await asyncio.sleep(0.01)
