"""The two servers of `test_accept.py`, each a process of its own: `python -m tests.bench.accept_servers ours PORT`.

`ours` is the api's app as it stands, logging included, without Kafka on either side. `bare` is what one would write in
ten minutes: FastAPI, a pydantic body, one statement that inserts a call and an outbox row; no key, no limit, no money.
"""

import asyncio
import os
import sys
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel, Field

from cualify_api.app import make_app, workings
from cualify_shared.clock import now
from cualify_shared.database import Pool, create_pool
from cualify_shared.http_protocol import BoundedHttp
from cualify_shared.ids import new_id
from cualify_shared.logs import set_up_logs
from tests.api.world import settings

INSERT = """
WITH call AS (
    INSERT INTO calls (
        id, org_id, agent_id, status, to_e164, language, metadata, key_prefix, request_id, created_at, latest_at,
        rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, provider, provider_call_id
    )
    VALUES ($1, $2, $3, 'queued', $4, 'hi-IN', $5, 'abc12345', 'r', $6, $7, 10, 1, 300, 3000, 'bolna', $8)
    RETURNING id
)
INSERT INTO outbox (event_id, topic, key, payload, occurred_at)
SELECT $9, 'call.requests', id::text, $10, $6 FROM call
"""


class Body(BaseModel):
    """What the bare server takes."""

    agent_id: UUID
    to_e164: str = Field(pattern=r"^\+[1-9][0-9]{6,14}$")
    from_e164: str | None = None
    language: str | None = None
    max_duration_sec: int | None = Field(default=None, ge=1, le=3600)
    metadata: dict[str, object] = Field(default_factory=dict)


class Placed(BaseModel):
    """What it answers."""

    id: UUID
    status: str
    agent_id: UUID
    to_e164: str
    provider: str
    provider_call_id: str
    created_at: datetime


class Answer(BaseModel):
    """In its envelope."""

    data: Placed


def bare_app(pool: Pool, org_id: UUID) -> FastAPI:
    """The obvious handler."""
    app = FastAPI()

    @app.post("/api/v1/calls", status_code=201)
    async def place(body: Body) -> Answer:
        call_id, at = new_id(), now()
        placed = Placed(
            id=call_id,
            status="queued",
            agent_id=body.agent_id,
            to_e164=body.to_e164,
            provider="bolna",
            provider_call_id=f"boln_{call_id.hex}",
            created_at=at,
        )
        async with pool.acquire() as connection:
            await connection.execute(
                INSERT,
                call_id,
                org_id,
                body.agent_id,
                body.to_e164,
                body.metadata,
                at,
                at + timedelta(minutes=15),
                placed.provider_call_id,
                new_id(),
                placed.model_dump_json().encode(),
            )
        return Answer(data=placed)

    return app


async def serve(kind: str, port: int) -> None:
    """Until killed."""
    dsn = os.environ["DATABASE_URL"]
    if kind == "ours":
        pool = await create_pool(dsn, application_name="api", size=10)
        inside = workings(settings(), pool, committed=lambda: None)
        app = make_app(settings(), pool, inside)
        running = [asyncio.ensure_future(loop.run(asyncio.Event())) for loop in inside.loops(pool)]
        set_up_logs(service="api", level="INFO")
        http: Any = BoundedHttp
    else:
        pool = await create_pool(dsn, application_name="bare", size=10)
        app, running, http = bare_app(pool, UUID(os.environ["ORG_ID"])), [], "httptools"
    config = uvicorn.Config(
        app,
        port=port,
        http=http,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
    )
    await uvicorn.Server(config).serve()
    for task in running:
        task.cancel()


if __name__ == "__main__":
    if os.environ.get("PROFILE"):
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
        try:
            uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
        finally:
            profile.disable()
            profile.dump_stats(os.environ["PROFILE"])
    else:
        uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
