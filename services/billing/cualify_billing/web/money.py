"""Money over HTTP: credits and refunds, the low-balance threshold, and what a wallet holds."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, assert_never
from uuid import UUID

import structlog
from fastapi import APIRouter, Query
from pydantic import Field, model_validator
from starlette.responses import Response

from cualify_billing import bills, ledger, queries, refunds, thresholds
from cualify_billing.ledger import Contradicted, Credit, Credited, Reduction, ReductionKind
from cualify_billing.refunds import NotRefunded, OtherRefund, Refunded
from cualify_billing.web.fields import Amount, Body, Name
from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json, problem
from cualify_shared.reads import AfterCommit

log = structlog.get_logger(__name__)


class CreditRequest(Body):
    """Money that came in, by the payer's name for it."""

    payment_id: Name
    amount_paise: Amount
    kind: Literal["top_up", "promotion", "adjustment"] = "top_up"


class RefundRequest(Body):
    """Money that is to leave a wallet; the api has set it aside under `refund_id`."""

    refund_id: Name
    kind: ReductionKind = "refund"
    amount_paise: Amount
    payment_id: Name | None = None
    reason: Annotated[Name, Field(max_length=500)] | None = None

    @model_validator(mode="after")
    def _a_refund_is_of_a_payment(self) -> Self:
        if self.kind == "refund" and self.payment_id is None:
            raise ValueError("a refund says which payment it is of: payment_id")
        return self


class ThresholdRequest(Body):
    """The balance below which the org is warned; null for never."""

    threshold_paise: Amount | None


def money_routes(*, pool: Pool, committed: AfterCommit, refund_within: timedelta) -> APIRouter:
    """Credits, refunds, thresholds, wallets, histories and bills under `/internal/orgs/{org_id}`."""
    routes = APIRouter()
    routes.include_router(_looking_routes(pool))

    @routes.post("/internal/orgs/{org_id}/credits")
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

    @routes.post("/internal/orgs/{org_id}/refunds")
    async def refund(org_id: UUID, body: RefundRequest) -> Response:
        wanted = Reduction(org_id=org_id, at=now(), **body.model_dump(exclude={"reason"}))
        async with pool.acquire() as connection, connection.transaction():
            outcome = await refunds.decide(connection, wanted, reason=body.reason, within=refund_within)
        match outcome:
            case Refunded():
                _tell_refunded(wanted, outcome, committed)
                return json({"data": _shown_refund(outcome)}, status=200 if outcome.repeated else 201)
            case NotRefunded(reason):
                log.warning("refund_refused", org_id=str(org_id), refund_id=wanted.refund_id, reason=reason)
                details = {"outcome": "refused", "reason": reason}
                return problem(409, "conflict", f"refund:{wanted.refund_id} is refused: {reason}", details=details)
            case OtherRefund():
                raise Refused(409, f"refund:{wanted.refund_id} was decided before, with another body")
            case _:
                assert_never(outcome)

    return routes


def _looking_routes(pool: Pool) -> APIRouter:
    """What moves nothing: the threshold of warnings, the balance, the history, a call's bill."""
    routes = APIRouter()

    @routes.put("/internal/orgs/{org_id}/low-balance-threshold")
    async def put_threshold(org_id: UUID, body: ThresholdRequest) -> Response:
        async with pool.acquire() as connection, connection.transaction():
            threshold = await thresholds.set_threshold(connection, org_id=org_id, **body.model_dump())
        return json({"data": asdict(threshold)})

    @routes.get("/internal/orgs/{org_id}/low-balance-threshold")
    async def show_threshold(org_id: UUID) -> Response:
        async with pool.acquire() as connection:
            return json({"data": asdict(await thresholds.threshold(connection, org_id))})

    @routes.get("/internal/orgs/{org_id}/wallet")
    async def show_wallet(org_id: UUID) -> Response:
        async with pool.acquire() as connection:
            return json({"data": {"balance_paise": await queries.balance_paise(connection, org_id)}})

    @routes.get("/internal/orgs/{org_id}/ledger")
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

    @routes.get("/internal/orgs/{org_id}/bills/{call_id}")
    async def show_bill(org_id: UUID, call_id: UUID) -> Response:
        async with pool.acquire() as connection:
            settled = await bills.settled_call(connection, org_id=org_id, call_id=call_id)
            beyond = await bills.discrepancies(connection, org_id=org_id, call_id=call_id)
        if settled is None:
            raise Refused(404, "this call has not been settled, or is not this org's")
        return json({"data": bills.shown(settled, beyond)})

    return routes


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


def _shown_refund(outcome: Refunded) -> dict[str, Any]:
    shown = {name: getattr(outcome, name) for name in ("transfer", "amount_paise", "balance_paise")}
    return {**shown, "outcome": "posted"}


def _tell_refunded(wanted: Reduction, outcome: Refunded, committed: AfterCommit) -> None:
    if outcome.repeated:
        return
    committed()
    ledger.TRANSFERS.labels(wanted.kind).inc()
    log.info(
        "wallet_refunded",
        org_id=str(wanted.org_id),
        refund_id=wanted.refund_id,
        kind=wanted.kind,
        amount_paise=outcome.amount_paise,
        balance_paise=outcome.balance_paise,
    )


def _shown_line(line: queries.Line) -> dict[str, Any]:
    return {**asdict(line), "id": str(line.id), "at": rfc3339(line.at)}
