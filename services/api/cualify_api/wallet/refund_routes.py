"""`/admin/v1/orgs/{org_id}/refunds`: operators lower a wallet. The money is set aside here, then asked of billing."""

from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.orgs.routes import OrgOf
from cualify_api.wallet import reductions
from cualify_api.wallet.reduce import Reduce
from cualify_api.wallet.reductions import Kind, Reduction, TooLittle, Wanted
from cualify_api.web.answers import row_view
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import page
from cualify_shared.database import Pool, Row

MOST_PAISE: int = 1_000_000_000_000

Name = Annotated[StrictStr, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f/]+$")]


class MakeRefund(BaseModel):
    """The body. The same `refund_id` is the same refund."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refund_id: Name
    kind: Kind = "refund"
    amount_paise: Annotated[StrictInt, Field(gt=0, le=MOST_PAISE)]
    payment_id: Name | None = None
    reason: Annotated[StrictStr, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None

    @model_validator(mode="after")
    def _a_refund_is_of_a_payment(self) -> Self:
        if self.kind == "refund" and self.payment_id is None:
            raise ValueError("a refund says which payment it is of: payment_id")
        return self

    def of(self, org_id: UUID) -> Wanted:
        """As it is set aside."""
        return Wanted(
            id=self.refund_id,
            org_id=org_id,
            kind=self.kind,
            amount_paise=self.amount_paise,
            payment_id=self.payment_id,
            reason=self.reason,
        )


def refund_routes(pool: Pool, org_of: OrgOf, reduce: Reduce) -> APIRouter:
    """The operators' routes of refunds, chargebacks and corrections."""
    router = APIRouter()

    @router.post("/admin/v1/orgs/{org_id}/refunds")
    async def make_refund(request: Request, org_id: str) -> Response:
        body, org = checked(MakeRefund, await json_body(request)), await org_of(org_id)
        wanted = body.of(org)
        async with pool.acquire() as connection, connection.transaction():
            outcome = await reductions.set_aside(connection, wanted)
        if isinstance(outcome, TooLittle):
            raise _too_little(outcome, wanted)
        if not outcome.is_of(wanted):
            raise Problem("conflict", "this refund_id was used before with another body", param="refund_id")
        if outcome.status == "set_aside":
            await reduce.settle(outcome)
        return _answer(await reductions.find(pool, wanted.id))

    @router.get("/admin/v1/orgs/{org_id}/refunds")
    async def list_refunds(request: Request, org_id: str) -> Response:
        wanted, org = page(request), await org_of(org_id)
        rows, total = await reductions.listed(pool, org, limit=wanted.limit, offset=wanted.offset)
        return json(wanted.of([_shown(row) for row in rows], total=total))

    @router.get("/admin/v1/orgs/{org_id}/refunds/{refund_id}")
    async def get_refund(request: Request, org_id: str, refund_id: str) -> Response:
        org, row = await org_of(org_id), await reductions.find(pool, refund_id)
        if row is None or row["org_id"] != org:
            raise Problem("not_found", "there is no such refund")
        return json({"data": _shown(row)})

    @router.delete("/admin/v1/orgs/{org_id}/refunds/{refund_id}")
    async def withdraw(org_id: str, refund_id: str) -> Response:
        org = await org_of(org_id)
        async with pool.acquire() as connection, connection.transaction():
            found = await reductions.withdraw(connection, org, refund_id)
        if found is None:
            raise Problem("not_found", "there is no such refund")
        if found.refused_why != "withdrawn":
            reason = f"it is {found.status}: only a chargeback that waits can be withdrawn"
            raise Problem("conflict", reason, details={"status": found.status})
        return json({"data": _shown(await reductions.find(pool, refund_id))})

    return router


def _answer(row: Row | None) -> Response:
    """201 with what became of it by now; a refusal of billing's is one of ours."""
    assert row is not None, "it was set aside"
    found = Reduction(**row)
    if found.status == "refused":
        details = {"outcome": "refused", "reason": found.refused_why}
        raise Problem("conflict", f"the refund is refused: {found.refused_why}", details=details)
    return json({"data": _shown(row)}, status=201)


def _too_little(outcome: TooLittle, wanted: Wanted) -> Problem:
    credit = outcome.credit
    return Problem(
        "insufficient_credits",
        "a chargeback waits for what this wallet holds" if credit.frozen else "calls under way hold what is asked for",
        details={
            "balance_paise": credit.granted,
            "held_paise": credit.held,
            "needed_paise": wanted.amount_paise,
            "frozen": credit.frozen,
        },
    )


def _shown(row: Row | None) -> dict[str, object]:
    assert row is not None, "no reduction is ever deleted"
    shown = row_view(row)
    return {"refund_id": shown.pop("id"), **shown}
