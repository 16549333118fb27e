"""Puts the simulator together: one application, made inside the running loop whose timers it uses."""

import hmac
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cualify_simulator.bolna import Bolna, answer
from cualify_simulator.book import Book
from cualify_simulator.callbacks import Postman
from cualify_simulator.clock import Clock
from cualify_simulator.exchange import Exchange
from cualify_simulator.exotel import Exotel
from cualify_simulator.faults import Faults
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.oracle import Oracle
from cualify_simulator.plivo import Plivo
from cualify_simulator.refusals import Refusal, bad_field, reason_of
from cualify_simulator.settings import Settings
from cualify_simulator.twilio import Twilio
from cualify_simulator.workflows import Workflows

BODY_LIMIT_BYTES = 1 << 20
OPEN_PATHS = ("/healthz", "/journal", "/rings", "/recordings/", "/admin/")
CARRIER_PATHS = ("/v1/Account", "/2010-04-01/")
"""The other three ask for their own keys."""


def build_app(settings: Settings) -> web.Application:
    clock = Clock(settings.simulator_speed)
    journal = Journal(settings.simulator_journal_entries, clock.now)
    postman = Postman(clock, journal)
    book = Book(settings.simulator_executions_kept)
    exchange = Exchange(clock, journal, postman, book, lines=settings.simulator_max_concurrency)

    app = web.Application(middlewares=[_door(settings, journal)], client_max_size=BODY_LIMIT_BYTES)
    faults = Faults()
    bolna = Bolna(settings, clock, journal, book, exchange, faults)
    app.add_routes([*bolna.routes(), *Workflows(bolna).routes()])
    for carrier in (Exotel, Twilio, Plivo):
        app.add_routes(carrier(settings, clock, journal, book, exchange, faults).routes())
    app.add_routes(Oracle(journal, book, postman, faults).routes())
    app.cleanup_ctx.append(_at_work(postman))
    return app


def _at_work(postman: Postman) -> Callable[[web.Application], AsyncIterator[None]]:
    async def at_work(_: web.Application) -> AsyncIterator[None]:
        postman.start()
        yield
        await postman.stop()

    return at_work


def _door(settings: Settings, journal: Journal) -> Middleware:
    """Every request passes here: the key is looked at, and a refusal becomes an answer and a journal entry."""
    expected = f"Bearer {settings.bolna_api_key}".encode()

    @web.middleware
    async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not request.path.startswith((*OPEN_PATHS, *CARRIER_PATHS)):
                _demand_key(request, expected)
            return await handler(request)
        except Refusal as refusal:
            return _refuse(request, refusal, journal)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(request, Refusal(413, bad_field("body", "Body is too large")), journal)
        except web.HTTPException as problem:  # 404 and 405 of the router
            return _refuse(request, Refusal(problem.status, {"detail": problem.reason}), journal)

    return door


def _demand_key(request: web.Request, expected: bytes) -> None:
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, expected):
        raise Refusal(403, {"detail": "Unrecognized access token"})


def _refuse(request: web.Request, refusal: Refusal, journal: Journal) -> web.Response:
    if refusal.noted:
        journal.note(
            Kind.REFUSED,
            to_e164=refusal.to_e164,
            cualify_ref=refusal.cualify_ref,
            answer=str(refusal.status),
            reason=f"{request.method} {request.path}: {reason_of(refusal.body)}",
        )
    return answer(refusal.body, status=refusal.status, headers=dict(refusal.headers))
