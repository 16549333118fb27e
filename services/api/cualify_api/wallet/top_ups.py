"""`POST /api/v1/wallet/top-ups`: an order that is paid at Razorpay's checkout; billing credits what was paid."""

import hashlib
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem
from cualify_api.web.idempotency import idempotency_key
from cualify_api.web.once import Once
from cualify_api.web.upstream import Upstream
from cualify_shared.ids import new_id

ROUTE: Final = "POST /api/v1/wallet/top-ups"
LEAST_PAISE: Final = 100
MOST_PAISE: Final = 1_000_000_000
LONGEST_NAME: Final = 100


class TopUp(BaseModel):
    """The body: ₹1 to ₹1,00,00,000."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    amount_paise: Annotated[StrictInt, Field(ge=LEAST_PAISE, le=MOST_PAISE)]


def top_up_routes(billing: Upstream, once: Once) -> APIRouter:
    """The route by which customers pay."""
    router = APIRouter()

    @router.post("/api/v1/wallet/top-ups")
    async def top_up(request: Request) -> Response:
        content = await json_body(request)
        body = checked(TopUp, content)
        if caller(request).test:
            reason = "a test key moves no money"
            raise Problem("forbidden", reason, details={"reason": reason})

        async def ask() -> tuple[int, dict[str, Any]]:
            return await _order(billing, caller(request).org_id, _name_of(request), body.amount_paise)

        return await once.answer(request, ROUTE, content, ask)

    return router


async def _order(billing: Upstream, org_id: UUID, name: str, amount_paise: int) -> tuple[int, dict[str, Any]]:
    """What the checkout needs. The same name is the same order, also where the first answer was lost."""
    body = {"request_id": name, "amount_paise": amount_paise}
    status, content = await billing.ask("POST", f"/internal/orgs/{org_id}/orders", body=body)
    shown = ("order_id", "amount_paise", "currency", "key_id", "paid")
    return status, {"data": {field: content["data"].get(field) for field in shown}}


def _name_of(request: Request) -> str:
    """The order's name at billing: the Idempotency-Key, shortened where it is too long to be one."""
    key = idempotency_key(dict(request.scope["headers"]))
    if key is None:
        return str(new_id())
    return key if len(key) <= LONGEST_NAME else hashlib.sha256(key.encode()).hexdigest()
