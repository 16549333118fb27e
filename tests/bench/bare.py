"""The peer of every benchmark of the api: a bare FastAPI handler that inserts one call row and one outbox row, no more.

`DATABASE_URL=… PORT=… python -m tests.bench.bare`
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

TABLES = """
CREATE TABLE IF NOT EXISTS bare_calls (id uuid PRIMARY KEY, agent_id text NOT NULL, to_e164 text NOT NULL);
CREATE TABLE IF NOT EXISTS bare_outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL);
"""
INSERT = """
WITH placed AS (INSERT INTO bare_calls (id, agent_id, to_e164) VALUES ($1, $2, $3) RETURNING id)
INSERT INTO bare_outbox (payload) SELECT id::text FROM placed
"""


class Body(BaseModel):
    """What is posted."""

    agent_id: str
    to_e164: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens the pool."""
    app.state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10)
    await app.state.pool.execute(TABLES)
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/calls", status_code=201)
async def place(body: Body) -> dict[str, Any]:
    """One statement, one answer."""
    call_id = uuid4()
    await app.state.pool.execute(INSERT, call_id, body.agent_id, body.to_e164)
    return {"data": {"id": str(call_id), "status": "queued"}}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False, log_level="warning")
