"""The api as customers meet it: its real app behind a real socket, on a real database; events go to its readers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
import uvicorn
from fastapi import FastAPI

from cualify_api.app import make_app, workings
from cualify_api.calls.tell import TellLate
from cualify_api.consume import reads
from cualify_api.settings import ApiSettings
from cualify_api.web.auth import Keys
from cualify_shared.database import Pool
from cualify_shared.events import Event, EventData, Terms
from cualify_shared.events.call import (
    CallCompleted,
    CallDialing,
    CallDisclosurePlayed,
    CallFailed,
    CallInProgress,
    CallIntentDetected,
    CallProviderAccepted,
    CallRecordingReady,
    CallTranscriptReady,
    TranscriptTurn,
)
from cualify_shared.events.wallet import PlanActivated, WalletCredited, WalletDebited
from cualify_shared.http_protocol import BoundedHttp
from cualify_shared.ids import new_id
from tests.api import documented
from tests.support.serving import serving

ADMIN = {"Authorization": "Bearer admin-token"}
NOBODY = "http://127.0.0.1:9"
AT = datetime(2026, 5, 31, 14, 22, 11, tzinfo=UTC)
TABLES = (  # noqa: SIM905
    "orgs org_credit credits_applied org_plans org_numbers agents api_keys calls call_counts call_events"
    " call_transcripts idempotency_keys customer_events outbox dead_letters call_labels ended_call_counts org_feeds"
    " org_notifications reductions contacts contact_consents contact_counts"
).split()


def settings(**more: Any) -> ApiSettings:
    """Settings of an api without neighbours."""
    given = {
        "database_url": "postgresql://unused",
        "kafka_bootstrap_servers": "unused",
        "internal_token": "internal-token",
        "admin_token": "admin-token",
        "key_pepper": "pepper-pepper",
        "callee_token_key": "callee-token-key",
        "billing_url": NOBODY,
        "dialer_url": NOBODY,
        "webhook_dispatcher_url": NOBODY,
    }
    return ApiSettings.model_validate(given | more)


@dataclass(slots=True)
class Org:
    """An org with an agent, a number and a key."""

    id: UUID
    agent_id: str
    key: str
    events: int = 0

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    headers: Any


@dataclass(slots=True)
class World:
    """One running api."""

    pool: Pool
    url: str
    http: aiohttp.ClientSession
    keys: Keys
    late: TellLate
    app: FastAPI
    documented: bool
    """Whether every answer is held against the OpenAPI document; not where a stand-in answers what it likes."""
    handlers: dict[str, Any] = field(default_factory=dict)

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        async with self.http.request(method, self.url + path, **more) as response:
            answer = Answer(response.status, await response.json(), response.headers)
        if self.documented:
            documented.check(method, path, answer.status, answer.body, answer.headers)
        return answer

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.ask(method, f"/admin/v1{path}", json=body, headers=ADMIN)
        assert answer.status < 300, answer
        return answer.body["data"]

    async def org(
        self, *, granted_paise: int = 10_000_000, rate_paise_per_sec: int = 10, per_minute: int = 1_000_000
    ) -> Org:
        """An org that can call."""
        made = await self.bare_org()
        terms = plan(made, rate_paise_per_sec=rate_paise_per_sec, per_minute=per_minute)
        await self.feed("wallet.events", credited(made, granted_paise), terms)
        return made

    async def bare_org(self) -> Org:
        """An org without money or plan."""
        org_id = (await self.admin("POST", "/orgs", {"name": "Asha Clinics"}))["id"]
        agent = {"name": "Booker", "provider_agent_id": "prov-agent", "max_duration_sec": 300}
        agent_id = (await self.admin("POST", f"/orgs/{org_id}/agents", agent))["id"]
        await self.admin("POST", f"/orgs/{org_id}/numbers", {"e164": "+918012345678"})
        key = (await self.admin("POST", f"/orgs/{org_id}/keys", {}))["key"]
        return Org(UUID(org_id), agent_id, key)

    async def place(self, org: Org, *, headers: dict[str, str] | None = None, **body: Any) -> Answer:
        """POST /calls."""
        content = {"agent_id": org.agent_id, "to_e164": "+919812345678"} | body
        return await self.ask("POST", "/api/v1/calls", json=content, headers=org.auth | (headers or {}))

    async def placed(self, org: Org, **body: Any) -> UUID:
        """The id of a call that was accepted."""
        answer = await self.place(org, **body)
        assert answer.status == 201, answer
        return UUID(answer.body["data"]["id"])

    async def feed(self, topic: str, *events: Event) -> None:
        """One batch from Kafka, in the transaction that a reader gives it."""
        async with self.pool.acquire() as connection, connection.transaction():
            after = await self.handlers[topic](connection, list(events))
        if after is not None:
            after()

    async def feed_all(self, events: Sequence[Event]) -> None:
        """Each event on its topic, one by one."""
        for event in events:
            await self.feed(event.type.topic.name, event)

    async def call(self, org: Org, call_id: UUID) -> dict[str, Any]:
        answer = await self.ask("GET", f"/api/v1/calls/{call_id}", headers=org.auth)
        assert answer.status == 200, answer
        shown: dict[str, Any] = answer.body["data"]
        return shown

    async def wallet(self, org: Org) -> tuple[int, int]:
        """(balance, held)"""
        data = (await self.ask("GET", "/api/v1/wallet", headers=org.auth)).body["data"]
        assert data["available_paise"] == data["balance_paise"] - data["held_paise"]
        return data["balance_paise"], data["held_paise"]

    async def told(self, call_id: UUID) -> list[tuple[str, dict[str, Any]]]:
        """What the customer was told of a call, in order."""
        rows = await self.pool.fetch(
            "SELECT type, data, sequence FROM customer_events WHERE subject_id = $1 ORDER BY sequence", call_id
        )
        assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
        return [(row["type"], row["data"]) for row in rows]

    async def dump(self) -> dict[str, list[str]]:
        """Every table, whole."""
        return {
            table: [row[0] for row in await self.pool.fetch(f'SELECT t::text FROM "{table}" AS t ORDER BY 1')]
            for table in TABLES
        }


@asynccontextmanager
async def running(pool: Pool, **more: Any) -> AsyncIterator[World]:
    """The api on a free port."""
    chosen, stop = settings(**more), asyncio.Event()
    inside = workings(chosen, pool, committed=lambda: None, stop=stop)
    inside.streams.most_of_an_org, inside.streams.heartbeat_sec = 3, 0.5
    app = make_app(chosen, pool, inside)
    app.add_api_route("/crash", _crash)
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        http=BoundedHttp,
    )
    loops = [asyncio.ensure_future(loop.run(stop)) for loop in inside.loops(pool)]
    async with (
        serving(config) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as http,
    ):
        yield World(
            pool,
            url,
            http,
            inside.keys,
            TellLate(pool, complete_within_sec=0.001, committed=lambda: None),
            app,
            not more,
            {read.topic.name: read.handler for read in reads(inside.waiting)},
        )
        stop.set()
    await asyncio.gather(*loops)


async def _crash() -> None:
    raise RuntimeError("secret detail +919812345678")


def event(org: Org, data: EventData, *, key: UUID | None = None, sequence: int) -> Event:
    subject = key or org.id
    return Event(data=data, org_id=org.id, key=subject, subject=f"x/{subject}", sequence=sequence, time=AT)


def credited(org: Org, amount_paise: int, *, transfer: str | None = None) -> Event:
    org.events += 1
    data = WalletCredited(
        org_id=org.id,
        transfer=transfer or f"topup:{new_id()}",
        kind="top_up",
        amount_paise=amount_paise,
        balance_paise=amount_paise,
    )
    return event(org, data, sequence=org.events)


def plan(
    org: Org,
    *,
    rate_paise_per_sec: int = 10,
    per_minute: int = 1_000_000,
    at_once: int = 10,
    sequence: int | None = None,
) -> Event:
    org.events += 1
    data = PlanActivated(
        org_id=org.id,
        plan="growth",
        rate_paise_per_sec=rate_paise_per_sec,
        pulse_sec=1,
        rate_limit_per_minute=per_minute,
        max_concurrent_calls=at_once,
        active_from=AT,
    )
    return event(org, data, sequence=sequence or org.events)


def debited(org: Org, call_id: UUID, amount_paise: int) -> Event:
    org.events += 1
    data = WalletDebited(
        org_id=org.id,
        call_id=call_id,
        transfer=f"debit:{call_id}",
        amount_paise=amount_paise,
        balance_paise=0,
        duration_sec=amount_paise // 10,
        billable_sec=amount_paise // 10,
        rate_paise_per_sec=10,
        pulse_sec=1,
    )
    return event(org, data, sequence=org.events)


def life(org: Org, call_id: UUID, *, artifacts: tuple[str, ...] = ("transcript", "recording")) -> list[Event]:
    """All that the dialer says of a call that went well, on `call.events`."""
    carried: dict[str, Any] = {
        "call_id": call_id,
        "org_id": org.id,
        "provider": "bolna",
        "provider_call_id": f"boln_{call_id.hex}",
    }
    ids: dict[str, Any] = {"call_id": call_id, "org_id": org.id}
    facts: list[EventData] = [
        CallDialing(**carried, attempt=1),
        CallProviderAccepted(**carried, attempt=1, provider_execution_id="exec-1"),
        CallInProgress(**carried, attempt=1, started_at=AT, provider_execution_id="exec-1"),
        CallDisclosurePlayed(**ids, at=AT),
        CallIntentDetected(**ids, at=AT, intent="demo_booked"),
        CallCompleted(**end(org, call_id), status="completed", duration_sec=142, artifacts=artifacts),
    ]
    return [event(org, fact, key=call_id, sequence=n) for n, fact in enumerate(facts, 1)]


def failed(org: Org, call_id: UUID, *, status: str = "busy", sequence: int = 2) -> Event:
    data = CallFailed(**(end(org, call_id) | {"ended_reason": status}), status=status, duration_sec=0)
    return event(org, data, key=call_id, sequence=sequence)


def end(org: Org, call_id: UUID) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "org_id": org.id,
        "agent_id": UUID(org.agent_id),
        "callee_token": "hmac:v1:" + "0" * 32,
        "ended_reason": "completed",
        "ended_by": "agent",
        "started_at": AT,
        "ended_at": AT,
        "attempts": 1,
        "provider": "bolna",
        "provider_call_id": f"boln_{call_id.hex}",
        "provider_execution_id": "exec-1",
        "answered_by": "human",
        "terms": Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300),
        "llm_extracted_intent": "demo_booked",
        "llm_sentiment": "positive",
        "llm_outcome": "demo_scheduled_2026_06_03",
    }


def left_behind(org: Org, call_id: UUID) -> list[Event]:
    """`call.artifacts` of a call that went well."""
    said = (
        TranscriptTurn(role="agent", text="Namaste!", at_ms=0),
        TranscriptTurn(role="callee", text="Ji.", at_ms=900),
    )
    return [
        event(org, CallTranscriptReady(call_id=call_id, org_id=org.id, transcript=said), key=call_id, sequence=1),
        event(
            org,
            CallRecordingReady(call_id=call_id, org_id=org.id, recording_url="https://recordings.example/1"),
            key=call_id,
            sequence=2,
        ),
    ]
