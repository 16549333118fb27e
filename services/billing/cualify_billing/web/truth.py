"""Reconciling on command, and what the last run found."""

from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import Response

from cualify_billing import reconcile
from cualify_billing.reconcile import Elsewhere
from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json


def truth_routes(*, pool: Pool, elsewhere: Elsewhere) -> APIRouter:
    """`/internal/reconcile…`."""
    routes = APIRouter()

    @routes.post("/internal/reconcile")
    async def run() -> Response:
        if not await reconcile.reconcile(pool, elsewhere):
            raise Refused(409, "a reconciliation is under way")
        return await show()

    @routes.get("/internal/reconcile/latest")
    async def show() -> Response:
        async with pool.acquire() as connection:
            latest = await reconcile.latest(connection)
        if latest is None:
            raise Refused(404, "the ledger has not been reconciled yet")
        return json({"data": asdict(latest)})

    return routes
