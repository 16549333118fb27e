"""Plans over HTTP: put on now or at the month's turn, shown, and a scheduled change taken back."""

from dataclasses import asdict
from datetime import UTC
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import structlog
from fastapi import APIRouter
from pydantic import AwareDatetime, Field, StrictBool, field_validator, model_validator
from starlette.responses import Response

from cualify_billing import plans
from cualify_billing.plans import Activation, Plan, Scheduled, Terms
from cualify_billing.web.fields import Body, Name
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool
from cualify_shared.events.call import MOST_CONCURRENT_CALLS
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json
from cualify_shared.reads import AfterCommit

log = structlog.get_logger(__name__)


class PlanRequest(Body):
    """The terms an org is put on."""

    plan: Annotated[Name, Field(max_length=64)]
    rate_paise_per_sec: Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
    pulse_sec: Annotated[int, Field(strict=True, ge=1, le=3600)] = 1
    rate_limit_per_minute: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 120
    max_concurrent_calls: Annotated[int, Field(strict=True, ge=1, le=MOST_CONCURRENT_CALLS)] = 10
    min_billable_sec: Annotated[int, Field(strict=True, ge=0, le=3600)] = 0
    renews_monthly: StrictBool = False
    active_until: AwareDatetime | None = None
    starts: Literal["now", "next_month"] = "now"

    @field_validator("active_until")
    @classmethod
    def _lies_ahead(cls, until: AwareDatetime | None) -> AwareDatetime | None:
        if until is None:
            return None
        if until <= now():
            raise ValueError("must lie in the future")
        try:
            return until.astimezone(UTC)
        except OverflowError:
            raise ValueError("must lie before the year 10000, in UTC") from None

    @model_validator(mode="after")
    def _ends_in_one_way(self) -> Self:
        if self.active_until is not None and (self.renews_monthly or self.starts == "next_month"):
            raise ValueError("active_until goes with a plan that starts now and does not renew")
        return self

    def terms(self) -> Terms:
        """What is agreed to, whenever it starts."""
        return Terms(**self.model_dump(exclude={"starts"}))


def plan_routes(*, pool: Pool, committed: AfterCommit) -> APIRouter:
    """`/internal/orgs/{org_id}/plan…`."""
    routes = APIRouter()

    @routes.put("/internal/orgs/{org_id}/plan")
    async def put_plan(org_id: UUID, body: PlanRequest) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            if body.starts == "next_month":
                scheduled = await plans.schedule(connection, org_id=org_id, terms=body.terms(), at=now())
                return json({"data": _shown_scheduled(scheduled)})
            activation = await plans.activate(connection, org_id=org_id, terms=body.terms())
        _tell_activated(activation, committed)
        return json({"data": _shown_plan(activation.plan)})

    @routes.get("/internal/orgs/{org_id}/plan")
    async def show_plan(org_id: UUID) -> Response:
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            plan = await plans.latest_plan(connection, org_id)
            scheduled = await plans.scheduled_plan(connection, org_id)
        if plan is None and scheduled is None:
            raise Refused(404, "this org has never had a plan")
        return json(
            {
                "data": {
                    **(_shown_plan(plan) if plan else {"org_id": org_id, "plan": None}),
                    "active": plan is not None and plan.is_active(now()),
                    "scheduled": _shown_scheduled(scheduled) if scheduled else None,
                }
            }
        )

    @routes.delete("/internal/orgs/{org_id}/plan/scheduled")
    async def forget_scheduled(org_id: UUID) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            if not await plans.forget_scheduled(connection, org_id):
                raise Refused(404, "no change is scheduled")
        return json({"data": {"org_id": org_id, "scheduled": None}})

    return routes


def _tell_activated(activation: Activation, committed: AfterCommit) -> None:
    if activation.repeated:
        return
    committed()
    plan = activation.plan
    log.info("plan_activated", org_id=str(plan.org_id), plan=plan.terms.plan, version=plan.version)


def _shown_plan(plan: Plan) -> dict[str, Any]:
    until = plan.terms.active_until
    return {
        "org_id": plan.org_id,
        **asdict(plan.terms),
        "version": plan.version,
        "active_from": rfc3339(plan.active_from),
        "active_until": None if until is None else rfc3339(until),
    }


def _shown_scheduled(scheduled: Scheduled) -> dict[str, Any]:
    return {**asdict(scheduled.terms), "starts_at": rfc3339(scheduled.starts_at)}
