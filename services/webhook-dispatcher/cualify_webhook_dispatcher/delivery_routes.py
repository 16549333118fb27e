"""Internal HTTP of what was delivered: the history, replays, and the erasure of what is stored about a callee."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response

from cualify_shared.clock import now, rfc3339
from cualify_shared.database import Pool
from cualify_shared.events.catalogue import public_names
from cualify_shared.internal_http import Refused
from cualify_shared.operator_routes import json
from cualify_webhook_dispatcher import endpoints, history, replays, retention
from cualify_webhook_dispatcher.history import Filter
from cualify_webhook_dispatcher.replays import Wish

ALL = "*"
OF_ORG = "/internal/orgs/{org_id}"
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class NewReplay(BaseModel):
    """What is to be sent again; what is left out is everything."""

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    events: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    status: Literal["delivered", "failed"] | None = None
    call_id: UUID | None = None


class Erasure(BaseModel):
    """Whose payloads are to be erased: calls, a phone number, or both."""

    call_ids: Annotated[list[UUID], Field(max_length=1000)] = []
    e164: Annotated[str, Field(pattern=r"^\+[1-9][0-9]{6,14}$")] | None = None


def delivery_routes(
    pool: Pool, *, due: Callable[[], None], replaying: Callable[[], None], known_to_all: Callable[[], Awaitable[None]]
) -> APIRouter:
    """The routes. `due` is told that something may be due, `replaying` that a replay may go on.

    `known_to_all` returns when no replica begins anything that was taken back before.
    """
    routes = APIRouter()
    routes.include_router(_history_routes(pool))
    routes.include_router(_replay_routes(pool, due=due, replaying=replaying, known_to_all=known_to_all))

    @routes.post(f"{OF_ORG}/expunge")
    async def expunge(org_id: UUID, wanted: Erasure) -> Response:
        if not wanted.call_ids and wanted.e164 is None:
            raise Refused(400, "name calls, a phone number, or both", param="call_ids")
        payloads, ended = await retention.expunge(pool, org_id=org_id, call_ids=wanted.call_ids, e164=wanted.e164)
        await known_to_all()
        return json({"data": {"payloads_erased": payloads, "deliveries_ended": ended}})

    return routes


def _history_routes(pool: Pool) -> APIRouter:
    routes = APIRouter(prefix=f"{OF_ORG}/endpoints/{{endpoint_id}}/deliveries")

    @routes.get("")
    async def deliveries(
        org_id: UUID,
        endpoint_id: UUID,
        status: Literal["pending", "delivered", "failed"] | None = None,
        event: Annotated[str | None, Query(max_length=100)] = None,
        call_id: UUID | None = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        cursor: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
    ) -> Response:
        wanted = Filter(status, event, call_id, since, until, _event_id(cursor, "cursor") if cursor else None)
        page, following = await history.listed(pool, org_id=org_id, endpoint_id=endpoint_id, wanted=wanted, limit=limit)
        if not page and await endpoints.one(pool, org_id=org_id, endpoint_id=endpoint_id) is None:
            raise Refused(404, "no such webhook")
        next_cursor = None if following is None else f"evt_{following.hex}"
        return json({"data": [presented(one) for one in page], "next": next_cursor})

    @routes.get("/{event_id}")
    async def delivery(org_id: UUID, endpoint_id: UUID, event_id: str) -> Response:
        found = await history.one(
            pool, org_id=org_id, endpoint_id=endpoint_id, event_id=_event_id(event_id, "event_id")
        )
        if found is None:
            raise Refused(404, "no such delivery")
        return json({"data": presented({**found, "attempts": [presented(one) for one in found["attempts"]]})})

    return routes


def _replay_routes(
    pool: Pool, *, due: Callable[[], None], replaying: Callable[[], None], known_to_all: Callable[[], Awaitable[None]]
) -> APIRouter:
    routes = APIRouter(prefix=f"{OF_ORG}/endpoints/{{endpoint_id}}/replays")

    @routes.post("")
    async def replay(org_id: UUID, endpoint_id: UUID, wanted: NewReplay) -> Response:
        since, until = wanted.since or BEGINNING, wanted.until or now()
        if until <= since:
            raise Refused(400, "until must be later than since", param="until")
        id_ = await replays.start(
            pool,
            org_id=org_id,
            endpoint_id=endpoint_id,
            since=since,
            until=until,
            events=known(wanted.events) if wanted.events and ALL not in wanted.events else None,
            status=wanted.status,
            call_id=wanted.call_id,
        )
        if id_ is None:
            raise Refused(404, "no such webhook")
        # Who wants it sent again wants it sent: a paused endpoint is resumed, and what was kept goes out too.
        await endpoints.resume(pool, org_id=org_id, endpoint_id=endpoint_id)
        replaying()
        due()
        return await _shown(org_id, endpoint_id, id_, status=202)

    @routes.get("")
    async def list_replays(org_id: UUID, endpoint_id: UUID) -> Response:
        found = await replays.shown(pool, org_id=org_id, endpoint_id=endpoint_id)
        return json({"data": [presented(one) for one in found]})

    @routes.get("/{replay_id}")
    async def show_replay(org_id: UUID, endpoint_id: UUID, replay_id: UUID) -> Response:
        return await _shown(org_id, endpoint_id, replay_id)

    @routes.post("/{replay_id}/{wish}")
    async def steer(org_id: UUID, endpoint_id: UUID, replay_id: UUID, wish: Wish) -> Response:
        if not await replays.steer(pool, org_id=org_id, endpoint_id=endpoint_id, replay_id=replay_id, wish=wish):
            raise Refused(404, "no such replay is under way")
        if wish == "cancel":
            await known_to_all()
        replaying()
        due()
        return await _shown(org_id, endpoint_id, replay_id)

    async def _shown(org_id: UUID, endpoint_id: UUID, replay_id: UUID, *, status: int = 200) -> Response:
        found = await replays.shown(pool, org_id=org_id, endpoint_id=endpoint_id, replay_id=replay_id)
        if not found:
            raise Refused(404, "no such replay")
        return json({"data": presented(found[0])}, status=status)

    return routes


def known(events: Sequence[str]) -> list[str]:
    """The names, each once. Raises Refused for one that is never told."""
    names = public_names()
    for name in events:
        if name != ALL and name not in names:
            raise Refused(400, f"events: {name[:100]!r} is not one of {', '.join(names)} or '*'", param="events")
    return list(dict.fromkeys(events))


def presented(row: dict[str, object]) -> dict[str, object]:
    """A row as the API shows it: instants with Z."""
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _event_id(text: str, param: str) -> UUID:
    try:
        return UUID(text.removeprefix("evt_"))
    except ValueError:
        raise Refused(400, f"{param} is no event id, e.g. evt_…", param=param) from None
