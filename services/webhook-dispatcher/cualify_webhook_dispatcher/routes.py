"""Internal HTTP: the api forwards customers' `/webhooks` here, so no secret is on Kafka and a DELETE is immediate."""

from collections.abc import Callable, Sequence
from typing import Annotated, assert_never
from uuid import UUID

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from cualify_shared.clock import rfc3339
from cualify_shared.database import Pool
from cualify_shared.events.catalogue import public_names
from cualify_shared.internal_http import Refused, internal_app
from cualify_shared.operator_routes import json
from cualify_webhook_dispatcher import endpoints, urls
from cualify_webhook_dispatcher.addresses import Network
from cualify_webhook_dispatcher.endpoints import Registered, TooMany
from cualify_webhook_dispatcher.secrets import Secrets

ALL = "*"


class NewEndpoint(BaseModel):
    """What a customer registers."""

    url: Annotated[str, Field(min_length=1, max_length=10_000)]
    events: Annotated[list[str], Field(min_length=1, max_length=100)]


def app(
    *, pool: Pool, secrets: Secrets, allowed: Sequence[Network], internal_token: str, deleted: Callable[[UUID], None]
) -> FastAPI:
    """The routes under `/internal/orgs/{org_id}/endpoints`. `deleted` is told of each deletion, after its COMMIT."""
    routes = APIRouter(prefix="/internal/orgs/{org_id}/endpoints")

    @routes.post("")
    async def register(org_id: UUID, wanted: NewEndpoint) -> Response:
        events = known(wanted.events)
        try:
            await urls.check(wanted.url, allowed=allowed)
        except urls.UrlRefused as refusal:
            raise Refused(400, str(refusal), param="url") from None
        match await endpoints.register(pool, secrets, org_id=org_id, url=wanted.url, events=events):
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

    @routes.delete("/{endpoint_id}")
    async def delete(org_id: UUID, endpoint_id: UUID) -> Response:
        if not await endpoints.delete(pool, org_id=org_id, endpoint_id=endpoint_id):
            raise Refused(404, "no such webhook")
        deleted(endpoint_id)
        return json({"data": {"id": endpoint_id, "deleted": True}})

    made = internal_app(internal_token=internal_token)
    made.include_router(routes)
    return made


def known(events: Sequence[str]) -> list[str]:
    """The names, each once. Raises Refused for one that is never told."""
    names = public_names()
    for name in events:
        if name != ALL and name not in names:
            raise Refused(400, f"events: {name[:100]!r} is not one of {', '.join(names)} or '*'", param="events")
    return list(dict.fromkeys(events))


def presented(row: dict[str, object]) -> dict[str, object]:
    """A row as the API shows it: instants with Z."""
    return {
        name: rfc3339(value) if name.endswith("_at") and value is not None else value  # type: ignore[arg-type]
        for name, value in row.items()
    }
