"""Internal HTTP: the api forwards customers' `/webhooks` here, so no secret is on Kafka and a DELETE is immediate."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, assert_never
from uuid import UUID

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from cualify_shared.database import Pool
from cualify_shared.internal_http import Refused, internal_app
from cualify_shared.operator_routes import json
from cualify_webhook_dispatcher import endpoints, presence, urls
from cualify_webhook_dispatcher.addresses import Network
from cualify_webhook_dispatcher.delivery_routes import delivery_routes, known, presented
from cualify_webhook_dispatcher.endpoints import Registered, TooMany
from cualify_webhook_dispatcher.ping import ping
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Sender


class NewEndpoint(BaseModel):
    """What a customer registers. The same `id` again is the same endpoint again, with its secret."""

    id: UUID | None = None
    url: Annotated[str, Field(min_length=1, max_length=10_000)]
    events: Annotated[list[str], Field(min_length=1, max_length=100)]


class Change(BaseModel):
    """What a customer changes of it; what is left out stays."""

    url: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    events: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """What the routes need of the rest."""

    pool: Pool
    secrets: Secrets
    sender: Sender
    allowed: Sequence[Network]
    replica_id: UUID
    changed: Callable[[], Awaitable[None]]
    """Has this replica act on what endpoints are now, at once."""
    deleted: Callable[[UUID], None]
    """Told of each deletion, after its COMMIT."""
    due: Callable[[], None]
    """Told that something may be due."""
    replaying: Callable[[], None]
    """Told that a replay may go on."""
    committed: Callable[[], None]

    async def known_to_all(self) -> None:
        """Returns when no replica, this one included, acts any more on what was true before this was called."""
        await self.changed()
        await presence.until_all_know(self.pool, but=[self.replica_id])


def app(doors: Doors, *, internal_token: str) -> FastAPI:
    """The routes under `/internal/orgs/{org_id}`."""
    made = internal_app(internal_token=internal_token)
    made.include_router(_endpoint_routes(doors))
    made.include_router(
        delivery_routes(doors.pool, due=doors.due, replaying=doors.replaying, known_to_all=doors.known_to_all)
    )
    return made


def _endpoint_routes(doors: Doors) -> APIRouter:
    pool, secrets = doors.pool, doors.secrets
    routes = APIRouter(prefix="/internal/orgs/{org_id}/endpoints")

    @routes.post("")
    async def register(org_id: UUID, wanted: NewEndpoint) -> Response:
        events = known(wanted.events)
        await _checked(wanted.url, doors)
        match await endpoints.register(
            pool, secrets, org_id=org_id, url=wanted.url, events=events, endpoint_id=wanted.id
        ):
            case Registered(shown, secret):
                return json({"data": presented(shown), "secret": secret}, status=201)
            case TooMany():
                raise Refused(409, f"an org has at most {endpoints.MAX_PER_ORG} webhooks; delete one first")
            case never:
                assert_never(never)

    @routes.get("")
    async def list_(
        org_id: UUID,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        page, total = await endpoints.listed(pool, org_id=org_id, limit=limit, offset=offset)
        pagination = {"limit": limit, "offset": offset, "total": total, "has_more": offset + len(page) < total}
        return json({"data": [presented(one) for one in page], "pagination": pagination})

    @routes.patch("/{endpoint_id}")
    async def change(org_id: UUID, endpoint_id: UUID, wanted: Change) -> Response:
        events = None if wanted.events is None else known(wanted.events)
        if wanted.url is not None:
            await _checked(wanted.url, doors)
        shown = await endpoints.change(
            pool, org_id=org_id, endpoint_id=endpoint_id, url=wanted.url, events=events, active=wanted.active
        )
        if shown is None:
            raise Refused(404, "no such webhook")
        doors.committed()
        await doors.known_to_all()
        doors.due()
        return json({"data": presented(shown)})

    @routes.delete("/{endpoint_id}")
    async def delete(org_id: UUID, endpoint_id: UUID) -> Response:
        if not await endpoints.delete(pool, org_id=org_id, endpoint_id=endpoint_id):
            raise Refused(404, "no such webhook")
        doors.deleted(endpoint_id)
        await presence.until_all_know(pool, but=[doors.replica_id])
        return json({"data": {"id": endpoint_id, "deleted": True}})

    @routes.post("/{endpoint_id}/rotate-secret")
    async def rotate(org_id: UUID, endpoint_id: UUID) -> Response:
        rotated = await endpoints.rotate(pool, secrets, org_id=org_id, endpoint_id=endpoint_id)
        if rotated is None:
            raise Refused(404, "no such webhook")
        # Who takes the new secret at once gets nothing any more that only the old one has signed.
        await doors.known_to_all()
        return json({"data": presented(rotated.shown), "secret": rotated.secret})

    @routes.post("/{endpoint_id}/test")
    async def test(org_id: UUID, endpoint_id: UUID) -> Response:
        endpoint = await endpoints.one(pool, org_id=org_id, endpoint_id=endpoint_id)
        if endpoint is None:
            raise Refused(404, "no such webhook")
        return json({"data": await ping(doors.sender, secrets, endpoint)})

    return routes


async def _checked(url: str, doors: Doors) -> None:
    try:
        await urls.check(url, allowed=doors.allowed, names=doors.sender.names)
    except urls.UrlRefused as refusal:
        raise Refused(400, str(refusal), param="url") from None
