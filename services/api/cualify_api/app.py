"""The HTTP side: every route of `/api/v1` and `/admin/v1`, inside the door, inside the envelope."""

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cualify_api.admin.routes import admin_routes
from cualify_api.agents.routes import agent_routes
from cualify_api.calls.place import Placing
from cualify_api.calls.routes import call_routes
from cualify_api.calls.stream import Streams, timeline_routes
from cualify_api.contacts.routes import contact_routes
from cualify_api.feed.routes import feed_routes
from cualify_api.keys.routes import key_routes
from cualify_api.limits.routes import limit_routes
from cualify_api.orgs.routes import org_finder, org_routes
from cualify_api.settings import ApiSettings
from cualify_api.wallet.routes import wallet_routes
from cualify_api.web.auth import Door, Keys
from cualify_api.web.errors import Envelope, Problem, on_http_exception, on_problem
from cualify_api.web.upstream import Upstream, Upstreams
from cualify_api.webhooks.routes import webhook_routes
from cualify_shared.database import Pool


def make_app(
    settings: ApiSettings, pool: Pool, *, placing: Placing, keys: Keys, upstreams: Upstreams, streams: Streams
) -> FastAPI:
    """The app, without the routes that every service has."""
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception},
        middleware=[
            Middleware(Envelope),
            Middleware(Door, caller_of=keys.caller, admin_token=settings.admin_token.get_secret_value()),
        ],
    )
    for router in _routers(settings, pool, placing, keys, upstreams):
        app.include_router(router)
    app.include_router(timeline_routes(pool, streams))
    return app


def _routers(
    settings: ApiSettings, pool: Pool, placing: Placing, keys: Keys, upstreams: Upstreams
) -> tuple[APIRouter, ...]:
    services = _services(settings, upstreams)
    billing, org_of = services["billing"], org_finder(pool)
    return (
        call_routes(placing, pool),
        contact_routes(pool),
        feed_routes(pool),
        limit_routes(pool),
        webhook_routes(services["webhook-dispatcher"]),
        wallet_routes(pool, billing),
        agent_routes(pool, org_of),
        org_routes(pool, org_of, billing),
        key_routes(pool, org_of, keys, pepper=settings.key_pepper.get_secret_value()),
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
