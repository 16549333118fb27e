"""Tax documents over HTTP: the org's profile, the list, one document as JSON or PDF, and credit notes."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import field_validator, model_validator
from starlette.responses import Response

from cualify_billing import documents, gst, paper, queries
from cualify_billing.tax_profiles import Seller, TaxProfile, set_tax_profile, tax_profile
from cualify_billing.web.fields import Amount, Body, Lines, Name
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json, problem
from cualify_shared.reads import AfterCommit


class TaxProfileRequest(Body):
    """The name and address on the org's registration. Letters are Latin there, and on the documents."""

    name: Name
    address: Lines
    state_code: str
    gstin: str | None = None

    @field_validator("name", "address")
    @classmethod
    def _can_be_printed(cls, text: str) -> str:
        try:
            text.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError("must be in Latin letters, as on the registration") from None
        return text

    @field_validator("gstin")
    @classmethod
    def _is_a_gstin(cls, gstin: str | None) -> str | None:
        if gstin is not None and not gst.is_gstin(gstin):
            raise ValueError("is no GSTIN: its form, state or check digit is wrong")
        return gstin

    @model_validator(mode="after")
    def _lies_in_its_state(self) -> Self:
        if self.state_code not in gst.STATES:
            raise ValueError("state_code must be one of the GST state codes: 01 to 38, 97")
        if self.gstin is not None and self.gstin[:2] != self.state_code:
            raise ValueError("state_code must be the one that the GSTIN begins with")
        return self


class CreditNoteRequest(Body):
    """Part of an invoice that is taken back: the money returns to the wallet."""

    credit_note_id: Name
    invoice_number: Name
    amount_paise: Amount
    reason: Name

    @field_validator("reason")
    @classmethod
    def _can_be_printed(cls, text: str) -> str:
        return TaxProfileRequest._can_be_printed(text)


def document_routes(*, pool: Pool, committed: AfterCommit, seller: Seller | None) -> APIRouter:
    """`tax-profile`, `documents…` and `credit-notes` under `/internal/orgs/{org_id}`."""
    routes = APIRouter()

    @routes.put("/internal/orgs/{org_id}/tax-profile")
    async def put_profile(org_id: UUID, body: TaxProfileRequest) -> Response:
        async with pool.acquire() as connection:
            await set_tax_profile(connection, org_id, TaxProfile(**body.model_dump()))
        return json({"data": {"org_id": org_id, **body.model_dump()}})

    @routes.get("/internal/orgs/{org_id}/tax-profile")
    async def show_profile(org_id: UUID) -> Response:
        async with pool.acquire() as connection:
            profile = await tax_profile(connection, org_id)
        if profile is None:
            raise Refused(404, "this org has no tax profile")
        return json({"data": {"org_id": org_id, **_fields(profile)}})

    @routes.get("/internal/orgs/{org_id}/documents")
    async def list_documents(
        org_id: UUID,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> Response:
        async with pool.acquire() as connection:
            listed = await queries.documents(connection, org_id=org_id, limit=limit + 1, offset=offset)
        return json({"data": listed[:limit], "has_more": len(listed) > limit})

    @routes.get("/internal/orgs/{org_id}/documents/{series}/{year}/{serial}")
    async def show_document(
        org_id: UUID, series: str, year: str, serial: str, format: Literal["json", "pdf"] = "json"
    ) -> Response:
        number = f"{series}/{year}/{serial}"
        body = None
        if number.isascii() and number.isprintable():
            async with pool.acquire() as connection:
                body = await queries.document(connection, org_id=org_id, number=number)
        if body is None:
            raise Refused(404, "this org has no such document")
        if format == "json":
            return json({"data": body})
        named = {"Content-Disposition": f'attachment; filename="{number.replace("/", "-")}.pdf"'}
        return Response(paper.pdf(body), media_type="application/pdf", headers=named)

    @routes.post("/internal/orgs/{org_id}/credit-notes")
    async def put_credit_note(org_id: UUID, body: CreditNoteRequest) -> Response:
        if seller is None:
            return problem(501, "not_configured", "no seller is configured: SELLER_NAME, SELLER_ADDRESS, SELLER_GSTIN")
        async with pool.acquire() as connection, connection.transaction():
            number = await documents.credit_note(
                connection,
                seller,
                org_id=org_id,
                note_id=body.credit_note_id,
                invoice_number=body.invoice_number,
                paise=body.amount_paise,
                reason=body.reason,
                at=now(),
            )
        if number is None:
            raise Refused(409, "no such invoice of this org, less is left of it, or the id was used for another note")
        committed()
        return json({"data": {"number": number, "transfer": f"credit_note:{body.credit_note_id}"}}, status=201)

    return routes


def _fields(profile: TaxProfile) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in ("name", "address", "state_code", "gstin")}
