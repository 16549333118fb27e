"""The api and billing side by side, each on its own database; what Kafka would carry is carried by hand."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest_asyncio
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from cualify_billing.razorpay import Razorpay
from cualify_billing.reconcile import differences
from cualify_billing.routes import billing_app
from cualify_local.razorpay import LocalRazorpay
from cualify_shared.database import Pool
from cualify_shared.events import Event, Terms, decode
from cualify_shared.events.call import CallRequested
from tests.api.world import Org, World, running
from tests.billing.conftest import balance, consume, ended
from tests.support.databases import MakeDatabase
from tests.support.serving import serving

PLAN = {"plan": "growth", "rate_paise_per_sec": 10, "pulse_sec": 1}


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The address of an app on a free port."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", ws="none")
    async with serving(config) as url:
        yield url


@dataclass(slots=True)
class Treasury:
    """An api and a billing that know each other."""

    world: World
    books: Pool
    billing_url: str
    api_dsn: str
    gateway: LocalRazorpay = field(default_factory=LocalRazorpay)
    terms: dict[UUID, Terms] = field(default_factory=dict)

    async def org(self, *, paid_paise: int, payment_id: str = "pay_1", **plan: Any) -> Org:
        """An org on a plan that has paid."""
        made = await self.world.bare_org()
        await self.world.admin("PUT", f"/orgs/{made.id}/plan", PLAN | plan)
        credit = {"payment_id": payment_id, "amount_paise": paid_paise}
        await self.world.admin("POST", f"/orgs/{made.id}/credits", credit)
        await self.carry()
        return made

    async def refund(self, org: Org, refund_id: str, amount_paise: int, **more: Any) -> tuple[int, dict[str, Any]]:
        """What an operator is answered."""
        body = {"refund_id": refund_id, "amount_paise": amount_paise, "kind": "correction"} | more
        headers = {"Authorization": "Bearer admin-token"}
        answer = await self.world.ask("POST", f"/admin/v1/orgs/{org.id}/refunds", json=body, headers=headers)
        return answer.status, answer.body

    async def end(self, org: Org, call_id: UUID, *, duration_sec: int = 142, status: str = "completed") -> None:
        """The dialer's last word on a call, to billing."""
        rows = await self.world.pool.fetch("SELECT payload FROM outbox WHERE topic = 'call.requests'")
        for said in (decode(row["payload"]).data for row in rows):
            if isinstance(said, CallRequested):
                self.terms[said.call_id] = said.terms
        seconds = duration_sec if status == "completed" else 0
        event = ended(org.id, duration_sec=seconds, call_id=call_id, status=status, terms=self.terms[call_id])
        await consume(self.books, [event])

    async def carry(self, *, repeat: bool = False) -> None:
        """What billing has said reaches the api, an org's events in order; some of it twice."""
        rows = await self.books.fetch("DELETE FROM outbox RETURNING id, payload")
        for event in _repeated([decode(row["payload"]) for row in sorted(rows, key=lambda row: row["id"])], repeat):
            await self.world.feed("wallet.events", event)

    async def agree(self, org: Org) -> int:
        """At rest both have the same balance, nothing is held, and the ledger is sound; the balance."""
        granted, held = await self.world.wallet(org)
        assert (granted, held) == (await balance(self.books, org.id), 0)
        async with self.books.acquire() as connection:
            assert await differences(connection) == []
        return granted


def _repeated(events: list[Event], repeat: bool) -> list[Event]:
    return [event for event in events for _ in range(random.choice((1, 2)) if repeat else 1)]


@pytest_asyncio.fixture(loop_scope="session")
async def treasury(database: MakeDatabase, pool_for: Callable[[str], Awaitable[Pool]]) -> AsyncIterator[Treasury]:
    """Both, fresh."""
    books, api_dsn = await pool_for(await database("cualify_billing")), await database("cualify_api")
    local = LocalRazorpay()
    await local.start()
    gateway = Razorpay(url=local.url, key_id=local.key_id, key_secret=local.key_secret)
    app = billing_app(
        pool=books,
        committed=lambda: None,
        internal_token="internal-token",
        gateway=gateway,
        webhook_secret=SecretStr(local.webhook_secret),
    )
    async with served(app) as url, running(await pool_for(api_dsn), billing_url=url) as world:
        world.documented = True
        yield Treasury(world, books, url, api_dsn, local)
    await gateway.close()
    await local.stop()
