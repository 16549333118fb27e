"""Internal HTTP: credits, plans, and what a wallet holds. An answer is given after the COMMIT that it speaks of."""

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self, assert_never
from uuid import UUID

import structlog
from fastapi import FastAPI, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.responses import Response

from cualify_billing import bills, ledger, plans, queries, thresholds
from cualify_billing.ledger import Contradicted, Credit, Credited, CreditKind
from cualify_billing.plans import Activation, Plan, Scheduled, Terms
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused, internal_app
from cualify_shared.operator_routes import json
from cualify_shared.reads import AfterCommit

log = structlog.get_logger(__name__)

MOST_PAISE_AT_ONCE = 1_000_000_000_000
"""₹10,00,00,00,000: more is a slip of somebody's fingers."""
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]+$"


class CreditRequest(BaseModel):
    """Money that came in, by the payer's name for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payment_id: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_CONTROL_CHARACTERS)]
    amount_paise: Annotated[int, Field(strict=True, gt=0, le=MOST_PAISE_AT_ONCE)]
    kind: CreditKind = "top_up"


class PlanRequest(BaseModel):
    """The terms an org is put on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL_CHARACTERS)]
    rate_paise_per_sec: Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
    pulse_sec: Annotated[int, Field(strict=True, ge=1, le=3600)] = 1
    rate_limit_per_minute: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 120
    max_concurrent_calls: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 10
    min_billable_sec: Annotated[int, Field(strict=True, ge=0, le=3600)] = 0
    renews_monthly: bool = False
    active_until: AwareDatetime | None = None
    starts: Literal["now", "next_month"] = "now"

    @field_validator("active_until")
    @classmethod
    def _lies_ahead(cls, until: AwareDatetime | None) -> AwareDatetime | None:
        if until is not None and until <= now():
            raise ValueError("must lie in the future")
        return until

    @model_validator(mode="after")
    def _ends_in_one_way(self) -> Self:
        if self.active_until is not None and (self.renews_monthly or self.starts == "next_month"):
            raise ValueError("active_until goes with a plan that starts now and does not renew")
        return self

    def terms(self) -> Terms:
        """What is agreed to, whenever it starts."""
        return Terms(**self.model_dump(exclude={"starts"}))


class ThresholdRequest(BaseModel):
    """The balance below which the org is warned; null for never."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold_paise: Annotated[int, Field(strict=True, gt=0, le=MOST_PAISE_AT_ONCE)] | None


def billing_app(*, pool: Pool, committed: AfterCommit, internal_token: str) -> FastAPI:
    """All routes of billing but the operators', which every service has. `committed` wakes the outbox."""
    app = internal_app(internal_token=internal_token)

    @app.post("/internal/orgs/{org_id}/credits")
    async def credit(org_id: UUID, body: CreditRequest) -> Response:
        given = Credit(
            payment_id=body.payment_id, org_id=org_id, kind=body.kind, amount_paise=body.amount_paise, paid_at=now()
        )
        async with pool.acquire() as connection, connection.transaction():
            outcome = await ledger.credit(connection, given)
        match outcome:
            case Credited():
                _tell_credited(given, outcome, committed)
                return _credited(outcome)
            case Contradicted():
                raise Refused(
                    409, f"{outcome.transfer} was credited before, to another org or with another amount or kind"
                )
            case _:
                assert_never(outcome)

    @app.put("/internal/orgs/{org_id}/plan")
    async def put_plan(org_id: UUID, body: PlanRequest) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            if body.starts == "next_month":
                scheduled = await plans.schedule(connection, org_id=org_id, terms=body.terms(), at=now())
                return json({"data": _shown_scheduled(scheduled)})
            activation = await plans.activate(connection, org_id=org_id, terms=body.terms())
        _tell_activated(activation, committed)
        return json({"data": _shown_plan(activation.plan)})

    @app.get("/internal/orgs/{org_id}/plan")
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

    @app.delete("/internal/orgs/{org_id}/plan/scheduled")
    async def forget_scheduled(org_id: UUID) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            if not await plans.forget_scheduled(connection, org_id):
                raise Refused(404, "no change is scheduled")
        return json({"data": {"org_id": org_id, "scheduled": None}})

    @app.put("/internal/orgs/{org_id}/low-balance-threshold")
    async def put_threshold(org_id: UUID, body: ThresholdRequest) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            threshold = await thresholds.set_threshold(connection, org_id=org_id, **body.model_dump())
        return json({"data": asdict(threshold)})

    @app.get("/internal/orgs/{org_id}/wallet")
    async def show_wallet(org_id: UUID) -> Response:
        async with pool.acquire() as connection:
            return json({"data": {"balance_paise": await queries.balance_paise(connection, org_id)}})

    @app.get("/internal/orgs/{org_id}/ledger")
    async def show_ledger(
        org_id: UUID,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    ) -> Response:
        async with pool.acquire() as connection:
            lines = await queries.history(connection, org_id=org_id, before=before, limit=limit + 1)
        page = lines[:limit]
        more = str(page[-1].id) if len(lines) > limit else None
        return json({"data": [_shown_line(line) for line in page], "next": more})

    @app.get("/internal/orgs/{org_id}/bills/{call_id}")
    async def show_bill(org_id: UUID, call_id: UUID) -> Response:
        async with pool.acquire() as connection:
            settled = await bills.settled_call(connection, org_id=org_id, call_id=call_id)
            beyond = await bills.discrepancies(connection, org_id=org_id, call_id=call_id)
        if settled is None:
            raise Refused(404, "this call has not been settled, or is not this org's")
        return json({"data": bills.shown(settled, beyond)})

    return app


def _credited(outcome: Credited) -> Response:
    shown = {name: getattr(outcome, name) for name in ("transfer", "amount_paise", "balance_paise")}
    return json({"data": shown}, status=200 if outcome.repeated else 201)


def _tell_credited(given: Credit, outcome: Credited, committed: AfterCommit) -> None:
    if outcome.repeated:
        return
    committed()
    ledger.TRANSFERS.labels(given.kind).inc()
    log.info(
        "wallet_credited",
        org_id=str(given.org_id),
        kind=given.kind,
        amount_paise=outcome.amount_paise,
        balance_paise=outcome.balance_paise,
    )


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


def _shown_line(line: queries.Line) -> dict[str, Any]:
    return {**asdict(line), "id": str(line.id), "at": rfc3339(line.at)}
