"""Routes that every service has for those who run it: health, metrics, dead letters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import nan
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cualify_shared import dead_letters, metrics, outbox
from cualify_shared.database import Pool, is_passing
from cualify_shared.health import Health
from cualify_shared.reads import Reader
from cualify_shared.signing import same_secret

MEASURED_WITHIN_SEC = 2.0


def operator_routes(
    *, health: Health, pool: Pool, readers: Mapping[str, Reader], internal_token: str, topic_prefix: str
) -> list[BaseRoute]:
    """`/healthz`, `/readyz`, `/metrics`, and `/internal/dead-letters…` behind the internal token."""

    async def healthz(_: Request) -> Response:
        state = health.alive()
        return json(state, status=200 if state["status"] == "ok" else 503)

    async def readyz(_: Request) -> Response:
        state = await health.ready()
        return json(state, status=200 if state["status"] == "ready" else 503)

    async def show_metrics(_: Request) -> Response:
        await _measure_tables(pool)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def list_letters(request: Request) -> Response:
        status = request.query_params.get("status", "parked")
        if status not in ("parked", "redriven"):
            return problem(400, "invalid_request", "status must be parked or redriven")
        async with pool.acquire() as connection:
            return json({"data": await dead_letters.listed(connection, status=status, limit=200)})

    async def show_letter(request: Request) -> Response:
        async with pool.acquire() as connection:
            letter = await dead_letters.shown(connection, request.path_params["letter_id"])
        return problem(404, "not_found", "no such dead letter") if letter is None else json({"data": letter})

    async def redrive_letter(request: Request) -> Response:
        return await _redrive(request.path_params["letter_id"], pool=pool, readers=readers, topic_prefix=topic_prefix)

    guard = guarded_by(internal_token)
    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
        Route("/internal/dead-letters", guard(list_letters)),
        Route("/internal/dead-letters/{letter_id:int}", guard(show_letter)),
        Route("/internal/dead-letters/{letter_id:int}/redrive", guard(redrive_letter), methods=["POST"]),
    ]


Endpoint = Callable[[Request], Awaitable[Response]]


def guarded_by(token: str) -> Callable[[Endpoint], Endpoint]:
    """Lets a request through that bears the token."""

    def guard(endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            if not same_secret(request.headers.get("authorization", ""), f"Bearer {token}"):
                return problem(401, "unauthorized", "this route takes the operators' bearer token")
            return await endpoint(request)

        return guarded

    return guard


def json(content: Any, *, status: int = 200) -> Response:
    """An answer as JSON; instants, UUIDs and tables' rows included."""
    return Response(orjson.dumps(content, default=str), status_code=status, media_type="application/json")


def problem(
    status: int, code: str, message: str, *, param: str | None = None, details: dict[str, Any] | None = None
) -> Response:
    """An error in the envelope that the public API uses too."""
    more = {name: value for name, value in (("param", param), ("details", details)) if value is not None}
    return json({"error": {"code": code, "message": message, **more}}, status=status)


async def _redrive(letter_id: int, *, pool: Pool, readers: Mapping[str, Reader], topic_prefix: str) -> Response:
    async with pool.acquire() as connection, connection.transaction():
        found = await dead_letters.locked(connection, letter_id)
        if found is None:
            return problem(404, "not_found", "no such dead letter")
        record, status = found
        if status == "redriven":
            return json({"data": {"id": letter_id, "status": "redriven", "error": None}})
        reader = readers.get(record.topic.removeprefix(topic_prefix))
        if reader is None:
            return problem(
                409,
                "conflict",
                f"nothing here reads {record.topic}; an event too large to publish has to be cut by hand",
            )
        try:
            await reader.redrive(record)
        except Exception as error:
            if is_passing(error):
                raise
            await dead_letters.settle(connection, letter_id, status="parked", error=f"{type(error).__name__}: {error}")
            return json({"data": {"id": letter_id, "status": "parked", "error": str(error)}}, status=409)
        await dead_letters.settle(connection, letter_id, status="redriven", error="")
    return json({"data": {"id": letter_id, "status": "redriven", "error": None}})


async def _measure_tables(pool: Pool) -> None:
    """What the database does not tell in time is not a number: all else is shown just then."""
    depth, parked = None, nan
    try:
        async with asyncio.timeout(MEASURED_WITHIN_SEC), pool.acquire() as connection:
            depth = await connection.fetchrow(outbox.DEPTH)
            parked = await connection.fetchval(dead_letters.COUNT_PARKED)
    except Exception as error:
        if not is_passing(error):
            raise
    metrics.OUTBOX_DEPTH.set(depth["events"] if depth else nan)
    metrics.OUTBOX_AGE_SEC.set(depth["oldest_sec"] if depth else nan)
    metrics.PARKED_NOW.set(parked)
