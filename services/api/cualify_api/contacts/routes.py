"""`/api/v1/contacts`: upsert, list, see and erase contacts."""

from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.calls.routes import as_id
from cualify_api.contacts import queries
from cualify_api.contacts.contact import CONSENTS, view
from cualify_api.contacts.queries import Wanted
from cualify_api.contacts.schemas import UpsertContact
from cualify_api.contacts.upsert import upsert
from cualify_api.web.auth import caller
from cualify_api.web.body import checked, json_body
from cualify_api.web.errors import Problem, json, request_id
from cualify_api.web.filters import e164_number, instant, one_of
from cualify_api.web.once import Once
from cualify_api.web.paging import Cursor, keyset_page
from cualify_shared.clock import rfc3339
from cualify_shared.database import Pool

ROUTE: Final = "POST /api/v1/contacts"
BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)


def contact_routes(pool: Pool, once: Once) -> APIRouter:
    """The routes of contacts."""
    router = APIRouter()

    @router.post("/api/v1/contacts")
    async def upsert_contact(request: Request) -> Response:
        content = await json_body(request)
        given = checked(UpsertContact, content).given()

        async def ask() -> tuple[int, dict[str, Any]]:
            async with pool.acquire() as connection, connection.transaction():
                contact = await upsert(connection, caller(request), given, request_id=request_id(request))
            return 200, {"data": view(contact)}

        return await once.answer(request, ROUTE, content, ask)

    @router.get("/api/v1/contacts")
    async def list_contacts(request: Request) -> Response:
        wanted, page, org_id = _wanted(request), keyset_page(request), caller(request).org_id
        counted = wanted.phone_e164 is not None or wanted.updated_after > BEGINNING
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            total = await queries.total(connection, org_id, wanted, counted=counted)
            found = await queries.listed(
                connection, org_id, wanted, start=page.start, limit=page.limit + 1, offset=page.offset
            )
        return json(page.of(found, view, total=total, cursor=lambda last: Cursor(last.created_at, last.id)))

    @router.get("/api/v1/contacts/{contact_id}")
    async def get_contact(request: Request, contact_id: str) -> Response:
        org_id, named = caller(request).org_id, as_id(contact_id, "contact")
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            contact = await queries.get(connection, org_id, named)
            if contact is None:
                raise _no_such_contact()
            history = await queries.consents(connection, org_id, named)
        shown = [{"consent_capture": row["consent_capture"], "at": rfc3339(row["at"])} for row in history]
        return json({"data": {**view(contact), "consents": shown}})

    @router.delete("/api/v1/contacts/{contact_id}")
    async def erase_contact(request: Request, contact_id: str) -> Response:
        named = as_id(contact_id, "contact")
        async with pool.acquire() as connection, connection.transaction():
            if not await queries.remove(connection, caller(request).org_id, named, route=ROUTE):
                raise _no_such_contact()
        return json({"data": {"id": str(named), "deleted": True}})

    return router


def _wanted(request: Request) -> Wanted:
    return Wanted(
        consent_capture=one_of(request, "consent_capture", CONSENTS),
        phone_e164=e164_number(request, "phone_e164"),
        updated_after=instant(request, "updated_after") or BEGINNING,
    )


def _no_such_contact() -> Problem:
    return Problem("not_found", "there is no such contact")
