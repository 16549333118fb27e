"""Calls that reach their limit at the simulator, without any callback: each one ends by what is read back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from cualify_dialer.model import CallState, Pace
from cualify_dialer.providers.bolna import Bolna
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool
from cualify_shared.events import Terms
from cualify_shared.events.call import CallCompleted, CallRequested
from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings
from tests.dialer.support import Dialer, a_request

SPEED = 100
PACE = Pace(look_up_every_sec=0.1, look_up_soon_sec=0.1, overtime_sec=2, hang_up_early_sec=1, last_look_early_sec=0.5)
A_SECOND = Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=10, max_duration_sec=1)

FIVE_MINUTES = A_SECOND.model_copy(update={"max_duration_sec": 300})


@dataclass(slots=True)
class Limited:
    """A dialer, the simulator, and an agent there that calls nobody back."""

    dialer: Dialer
    agent_id: str
    url: str

    async def call(self, number: str, terms: Terms = A_SECOND, latest_at: datetime | None = None) -> CallRequested:
        request = a_request(to_e164=f"+919990000{number}", provider_agent_id=self.agent_id, latest_at=latest_at)
        request = request.model_copy(update={"terms": terms})
        await self.dialer.consume(request)
        async with asyncio.timeout(10):
            while not await self.dialer.dial():
                await asyncio.sleep(0.02)
        return request

    async def rung(self) -> list[str]:
        """The numbers that were rung, by the simulator's journal."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/journal?after=0") as answer:
            return [entry["to_e164"] for entry in (await answer.json())["entries"] if entry["kind"] == "ring"]

    async def until(self, request: CallRequested, holds: Callable[[Any], bool]) -> Any:
        """Looks up what is due, until this is so of the call."""
        async with asyncio.timeout(20):
            while True:
                await self.dialer.recover()
                call = await self.dialer.call(request.call_id)
                if holds(call):
                    return call
                await asyncio.sleep(0.02)


@pytest.fixture
async def limited(pool: Pool) -> AsyncIterator[Limited]:
    async with limited_by(pool) as limited:
        yield limited


@asynccontextmanager
async def limited_by(pool: Pool, **more: Any) -> AsyncIterator[Limited]:
    async with TestServer(build_app(Settings(port=0, simulator_speed=SPEED, **more))) as server:
        url, key = str(server.make_url("")).rstrip("/"), "bn-simulator"
        config = {"agent_name": "Asha", "tasks": [{"task_config": {"call_terminate": 800}}]}
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/v2/agent", json={"agent_config": config}, headers=headers) as answer,
        ):
            agent_id = (await answer.json())["agent_id"]
        bolna = Bolna(url=url, api_key=key, timeout_sec=5)
        async with bolna.open():
            yield Limited(Dialer(pool, bolna, pace=PACE), agent_id, url)


def has_ended(call: Any) -> bool:
    return call.state is CallState.ENDED


async def test_without_callbacks_a_call_ends_when_the_provider_shows_its_end(limited: Limited) -> None:
    request = await limited.call("108", FIVE_MINUTES)
    call = await limited.until(request, has_ended)
    assert (call.status, call.ended_reason, call.holds_its_number) == ("completed", "completed", False)
    end = await limited.dialer.end(request.call_id)
    assert isinstance(end, CallCompleted)
    assert end.duration_sec == 60


async def test_who_talks_for_ever_is_ended_at_max_duration_sec_and_its_line_stays_taken(limited: Limited) -> None:
    request = await limited.call("111")
    call = await limited.until(request, has_ended)
    end = await limited.dialer.end(request.call_id)
    assert isinstance(end, CallCompleted)
    assert (end.ended_reason, end.ended_by, end.duration_sec) == ("time_limit", "platform", 1)
    assert call.holds_its_number, "the provider has it live, and can not hang up"
    again = a_request(to_e164=request.to_e164, provider_agent_id=limited.agent_id)
    await limited.dialer.consume(again)
    assert await limited.dialer.dial() == [], "nobody rings a phone that is talked on"
    await limited.until(request, lambda call: not call.holds_its_number)
    assert [one.call_id for one in await limited.dialer.dial()] == [again.call_id]
    assert (await limited.dialer.names(request.call_id)).count("call.completed") == 1


async def test_a_call_beyond_the_providers_lines_never_rings_after_its_latest_at(pool: Pool) -> None:
    """The provider takes it on and would ring it whenever a line is free."""
    async with limited_by(pool, simulator_max_concurrency=1) as limited:
        talks = await limited.call("111")
        await limited.until(talks, lambda call: call.attempts[0].started_at)
        request = await limited.call("130", FIVE_MINUTES, latest_at=utc_now() + timedelta(seconds=1))
        call = await limited.until(request, has_ended)
        assert (call.status, call.ended_reason, call.attempts[0].provider_status) == ("failed", "expired", "stopped")
        assert not call.holds_its_number
        await limited.until(talks, lambda call: not call.holds_its_number)
        assert await limited.rung() == [talks.to_e164]


async def test_a_line_that_dropped_is_not_waited_for_beyond_the_limit_and_its_artifacts_follow(
    limited: Limited,
) -> None:
    request = await limited.call("115")
    call = await limited.until(request, has_ended)
    end = await limited.dialer.end(request.call_id)
    assert isinstance(end, CallCompleted)
    assert (end.status, end.ended_reason, end.artifacts) == ("completed", "completed", ())
    assert call.holds_its_number, "the provider still works on what was said"
    await limited.until(request, lambda call: not call.holds_its_number)
    names = await limited.dialer.names(request.call_id)
    assert names == [
        "call.dialing",
        "call.provider_accepted",
        "call.in_progress",
        "call.completed",
        "call.transcript_ready",
        "call.recording_ready",
    ]
