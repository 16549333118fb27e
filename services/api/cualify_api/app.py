"""The HTTP side: every route of `/api/v1` and `/admin/v1`, inside the door, inside the envelope."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cualify_api.admin.routes import admin_routes
from cualify_api.agents.routes import agent_routes
from cualify_api.calls.acceptance import Waiting
from cualify_api.calls.place import Placing, placing
from cualify_api.calls.routes import call_routes, place_call
from cualify_api.calls.stream import Streams, timeline_routes
from cualify_api.contacts.routes import contact_routes
from cualify_api.feed.routes import feed_routes
from cualify_api.keys.routes import key_routes
from cualify_api.limits.routes import limit_routes
from cualify_api.openapi.routes import document_routes
from cualify_api.orgs.routes import org_finder, org_routes
from cualify_api.settings import ApiSettings
from cualify_api.wallet.account_routes import account_routes
from cualify_api.wallet.reduce import Reduce
from cualify_api.wallet.refund_routes import refund_routes
from cualify_api.wallet.routes import wallet_routes
from cualify_api.wallet.top_ups import top_up_routes
from cualify_api.wallet.truth import truth_routes
from cualify_api.web import rate_limit
from cualify_api.web.again import AskedAgain
from cualify_api.web.auth import Direct, Door, Keys
from cualify_api.web.errors import Envelope, Problem, on_http_exception, on_problem
from cualify_api.web.flood import Knocks
from cualify_api.web.once import Once
from cualify_api.web.rate_limit import RateLimit
from cualify_api.web.upstream import Upstream, Upstreams
from cualify_api.webhooks.routes import erasure_routes, webhook_routes
from cualify_shared.database import Pool
from cualify_shared.health import Loop


@dataclass(frozen=True, slots=True)
class Workings:
    """What the routes share, and what has to run beside them."""

    placing: Placing
    limit: RateLimit
    waiting: Waiting
    keys: Keys
    upstreams: Upstreams
    reduce: Reduce
    streams: Streams
    committed: Callable[[], None]

    def loops(self, pool: Pool) -> tuple[Loop, ...]:
        """The loops that requests wait for or leave work to."""
        return (
            Loop("place", self.placing.run),
            Loop("limit requests", self.limit.run),
            Loop("forget requests", lambda stop: rate_limit.forget(pool, stop)),
            Loop("look for acceptance", self.waiting.look),
            Loop("note key use", self.keys.note_use),
            Loop("upstreams", self.upstreams.run),
            Loop("reduce", self.reduce.run),
        )


def workings(
    settings: ApiSettings, pool: Pool, *, committed: Callable[[], None], stop: asyncio.Event | None = None
) -> Workings:
    """Builds them."""
    upstreams = Upstreams(token=settings.internal_token.get_secret_value())
    return Workings(
        placing=placing(pool, token_key=settings.callee_token_key.get_secret_value().encode(), committed=committed),
        limit=rate_limit.rate_limit(pool),
        waiting=Waiting(pool),
        keys=Keys(pool, pepper=settings.key_pepper.get_secret_value()),
        upstreams=upstreams,
        reduce=Reduce(pool, Upstream("billing", settings.billing_url, upstreams)),
        streams=Streams(stop=stop or asyncio.Event()),
        committed=committed,
    )


class Api(FastAPI):
    """FastAPI, but for routes that are met before its machinery: what it does for every request, asking whether
    somebody traces it included, would take a fifth of the time of placing a call."""

    direct: Mapping[tuple[str, str], ASGIApp] = MappingProxyType({})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (super().__call__ if direct is None else direct)(scope, receive, send)


def make_app(settings: ApiSettings, pool: Pool, inside: Workings) -> FastAPI:
    """The app, without the routes that every service has."""
    knocks, readers = (Knocks(per_minute=settings.unauthenticated_per_minute) for _ in range(2))
    admin_token = settings.admin_token.get_secret_value()

    def door(app: ASGIApp) -> Door:
        return Door(app, keys=inside.keys, limit=inside.limit, knocks=knocks, readers=readers, admin_token=admin_token)

    app = Api(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception},
        middleware=[Middleware(Envelope), Middleware(door), Middleware(AskedAgain)],
    )
    place = place_call(inside.placing, inside.limit, inside.waiting)
    app.direct = {("POST", "/api/v1/calls"): Envelope(Direct(door(app), place))}
    for router in _routers(settings, pool, inside):
        app.include_router(router)
    return app


def _routers(settings: ApiSettings, pool: Pool, inside: Workings) -> tuple[APIRouter, ...]:
    services = _services(settings, inside.upstreams)
    billing, org_of = services["billing"], org_finder(pool)
    pepper = settings.key_pepper.get_secret_value()
    once = Once(pool, pepper=pepper)
    return (
        call_routes(pool, committed=inside.committed),
        timeline_routes(pool, inside.streams),
        contact_routes(pool, once),
        feed_routes(pool),
        limit_routes(pool),
        document_routes(),
        webhook_routes(services["webhook-dispatcher"], once),
        erasure_routes(org_of, services["webhook-dispatcher"]),
        wallet_routes(pool, billing),
        account_routes(pool, billing),
        top_up_routes(billing, once),
        truth_routes(pool, internal_token=settings.internal_token.get_secret_value()),
        agent_routes(pool, org_of),
        org_routes(pool, org_of, billing),
        refund_routes(pool, org_of, inside.reduce),
        key_routes(pool, org_of, inside.keys, pepper=pepper),
        admin_routes(pool, services),
    )


def _services(settings: ApiSettings, upstreams: Upstreams) -> dict[str, Upstream]:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    urls = {
        "api": f"http://{host}:{settings.port}",
        "dialer": settings.dialer_url,
        "billing": settings.billing_url,
        "webhook-dispatcher": settings.webhook_dispatcher_url,
    }
    return {name: Upstream(name, url, upstreams) for name, url in urls.items()}
