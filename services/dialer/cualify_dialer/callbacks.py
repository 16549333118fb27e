"""What providers tell us by HTTP. It is kept as it came, folded, and answered exactly 200 after the COMMIT.

The path carries an unguessable token; beside it a provider may have its addresses, a static header and a signature of
its own. What ends a call is never believed but read back all the same. One that nobody here knows is kept and answered
200 too, because to be sent again would not make it known.

A call brings four to eight of them, so they take the short way: they are answered ahead of the router, many share one
transaction, and what would change nothing of its call locks and loads nothing (`weight`).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import assert_never

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cualify_dialer import callback_queries, metrics
from cualify_dialer.apply import apply
from cualify_dialer.callback_queries import Owner, ProviderEvent, Whose
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.model import AttemptState, Heard, Noted, Pace
from cualify_dialer.providers import CallbackRequest, Forged, NotACall, Phase, Provider, Snapshot
from cualify_shared import faults
from cualify_shared.batch import MicroBatch, Overloaded
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Connection, Pool, is_passing
from cualify_shared.operator_routes import problem
from cualify_shared.signing import same_secret

log = structlog.get_logger(__name__)

BODY_LIMIT_BYTES = 1 << 20
PREFIX = "/callbacks/"


@dataclass(frozen=True, slots=True)
class Callback:
    """One body, and what it says if it is about a call."""

    provider: str
    body: bytes
    sha256: bytes
    snapshot: Snapshot | None


class Weight(StrEnum):
    """What a callback does to its call, as far as that is certain without a lock."""

    NOTHING = "nothing"
    HINT = "hint"
    """It makes the look-up due."""
    FOLD = "fold"


def weight(snapshot: Snapshot, owner: Owner) -> Weight:
    """Whether `outcomes.fold` would change anything that matters of an attempt that was so a moment ago.

    An attempt only moves forward, so what says nothing new about it now will not later. Its `provider_status` is that
    of the last callback or look-up that did.
    """
    if owner.state == AttemptState.ENDED or owner.execution_id != snapshot.execution_id:
        return Weight.FOLD
    match snapshot.phase:
        case Phase.PENDING | Phase.UNHEARD_OF:
            return Weight.NOTHING
        case Phase.IN_PROGRESS:
            return Weight.NOTHING if owner.is_answered and not snapshot.facts else Weight.FOLD
        case Phase.DISCONNECTED:
            return Weight.NOTHING if owner.is_disconnected else Weight.FOLD
        case _:
            return Weight.HINT


@dataclass(frozen=True, slots=True)
class Guard:
    """What a provider's callbacks must have beside the token. Empty networks and no header let everything pass."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    header: tuple[str, str] | None = None

    def lets_pass(self, request: Request) -> bool:
        """Whether it comes from where it should, with the header that was agreed on."""
        if self.header is not None and not same_secret(request.headers.get(self.header[0], ""), self.header[1]):
            return False
        return not self.networks or _is_in(request.client.host if request.client else "", self.networks)


class Callbacks:
    """The route and the loop `callbacks`, which commits them many at a time."""

    def __init__(
        self,
        *,
        pool: Pool,
        providers: Mapping[str, Provider],
        urls: CallbackUrls,
        guards: Mapping[str, Guard],
        pace: Pace,
        committed: Callable[[], None],
        hinted: Callable[[], None],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._pool, self._providers, self._pace, self._clock = pool, providers, pace, clock
        self._urls, self._guards = urls, guards
        self._committed, self._hinted = committed, hinted
        self._batch: MicroBatch[Callback, bool] = MicroBatch("callbacks", self._commit)

    async def run(self, stop: asyncio.Event) -> None:
        """Commits what comes until told to stop."""
        await self._batch.run(stop)

    def serve(self, app: FastAPI) -> None:
        """Adds `POST /callbacks/{provider}/{token}`, and the same with an attempt's own token and reference."""
        app.add_middleware(AheadOfTheRouter, callbacks=self)

    async def on_callback(self, scope: Scope, receive: Receive) -> Response | None:
        """None, which is a bare 200, after the COMMIT; 404 to whoever does not know the token; 503: send it again."""
        path: str = scope["path"]
        name, _, rest = path[len(PREFIX) :].partition("/")
        token, has_ref, its_ref = rest.partition("/")
        ref = its_ref if has_ref else None
        if not self._lets_in(scope, name=name, token=token, ref=ref):
            return self._unheard(name if name in self._providers else "unknown")
        if scope["method"] != "POST":
            return problem(405, "invalid_request", "a callback is a POST")
        body = await _body(receive)
        if body is None:
            return problem(413, "payload_too_large", f"a callback has at most {BODY_LIMIT_BYTES} bytes")
        query = scope["query_string"].decode("latin-1")
        url = self._urls.as_given(f"{path}?{query}" if query else path)
        try:
            heard = await self.take(name, CallbackRequest(url=url, ref=ref, headers=Headers(scope=scope), body=body))
        except Overloaded:
            return problem(503, "unavailable", "too much is waiting; send it again")
        except Exception as error:
            if not is_passing(error):
                raise
            return problem(503, "unavailable", "the database is away; send it again")
        return self._unheard(name) if heard is None else None

    def _lets_in(self, scope: Scope, *, name: str, token: str, ref: str | None) -> bool:
        if name not in self._providers or not self._urls.may_speak(provider=name, token=token, ref=ref):
            return False
        guard = self._guards.get(name)
        return guard is None or guard.lets_pass(Request(scope))

    async def take(self, provider: str, request: CallbackRequest) -> bool | None:
        """Returns after the COMMIT whether it was about a call of ours; None at once if it is forged."""
        told = self._providers[provider].parse_callback(request)
        match told:
            case Forged(why):
                log.warning("callback_forged", provider=provider, why=why)
                return None
            case NotACall():
                snapshot = None
            case Snapshot():
                snapshot = replace(told, ref=request.ref) if request.ref is not None else told
            case _:
                assert_never(told)
        return await self._batch.hand_in(Callback(provider, request.body, _fingerprint(request), snapshot))

    def _unheard(self, name: str) -> Response:
        metrics.CALLBACKS.labels(name, "not_let_in").inc()
        return problem(404, "not_found", "there is nothing here")

    async def _commit(self, callbacks: Sequence[Callback]) -> list[bool]:
        """Keeps the bodies that are new and folds what they say. Returns which of them are about calls of ours.

        A hint is given before its body is kept: whoever dies between the two has the callback sent again, and gives it
        again, which harms nobody.
        """
        async with self._pool.acquire() as connection:
            whose = await callback_queries.whose(
                connection,
                refs=[one.snapshot.ref for one in callbacks if one.snapshot and one.snapshot.ref],
                execution_ids=[one.snapshot.execution_id for one in callbacks if one.snapshot],
            )
            owners = [_owner(one, whose) for one in callbacks]
            weights = [_weight(one, owner) for one, owner in zip(callbacks, owners, strict=True)]
            hinted = [
                owner.ref
                for owner, its_weight in zip(owners, weights, strict=True)
                if owner is not None and its_weight is Weight.HINT
            ]
            if hinted:
                await callback_queries.make_due(connection, hinted, now=self._clock())
            await self._keep(connection, callbacks, owners, weights)
        for kind, count in Counter(map(_kind, callbacks, owners)).items():
            metrics.CALLBACKS.labels(*kind).inc(count)
        if any(one.snapshot.is_last for one in callbacks if one.snapshot):
            self._hinted()
        return [owner is not None for owner in owners]

    async def _keep(
        self,
        connection: Connection,
        callbacks: Sequence[Callback],
        owners: Sequence[Owner | None],
        weights: Sequence[Weight],
    ) -> None:
        """The bodies, and in the same transaction what those that matter change; without those one statement does."""
        if Weight.FOLD not in weights:
            await callback_queries.put_provider_events(connection, _events(callbacks, owners))
            return
        async with connection.transaction():
            new = await callback_queries.put_provider_events(connection, _events(callbacks, owners))
            noted = _noted(callbacks, owners, weights, new)
            changes = await apply(connection, noted, now=self._clock(), pace=self._pace)
            faults.point("dialer.callbacks_handled")
        self._committed()
        changes.report()


class AheadOfTheRouter:
    """Answers what comes for the callbacks, and passes everything else on."""

    def __init__(self, app: ASGIApp, *, callbacks: Callbacks) -> None:
        self._app, self._callbacks = app, callbacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            return await self._app(scope, receive, send)
        answer = await self._callbacks.on_callback(scope, receive)
        if answer is not None:
            return await answer(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return None


async def _body(receive: Receive) -> bytes | None:
    """The body; None if it is too long, whatever its headers say."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def _fingerprint(request: CallbackRequest) -> bytes:
    """What makes a callback the same as another: its body, and the attempt whose address it came to."""
    return hashlib.sha256((f"{request.ref}\n".encode() if request.ref else b"") + request.body).digest()


def _owner(callback: Callback, whose: Whose) -> Owner | None:
    """By our reference first: the callback may be here before the provider's id is."""
    if callback.snapshot is None:
        return None
    provider, ref = callback.provider, callback.snapshot.ref
    by_execution = whose.by_execution.get((provider, callback.snapshot.execution_id))
    return whose.by_ref.get((provider, ref), by_execution) if ref else by_execution


def _weight(callback: Callback, owner: Owner | None) -> Weight:
    return weight(callback.snapshot, owner) if callback.snapshot and owner else Weight.NOTHING


def _events(callbacks: Sequence[Callback], owners: Sequence[Owner | None]) -> list[ProviderEvent]:
    return [
        ProviderEvent(
            provider=one.provider,
            sha256=one.sha256,
            body=one.body,
            execution_id=one.snapshot.execution_id if one.snapshot else None,
            status=one.snapshot.status if one.snapshot else None,
            call_id=owner.call_id if owner else None,
        )
        for one, owner in zip(callbacks, owners, strict=True)
    ]


def _noted(
    callbacks: Sequence[Callback], owners: Sequence[Owner | None], weights: Sequence[Weight], new: set[bytes]
) -> list[Noted]:
    return [
        Noted(owner.call_id, Heard(owner.number, one.snapshot))
        for one, owner, its_weight in zip(callbacks, owners, weights, strict=True)
        if owner and one.snapshot and its_weight is Weight.FOLD and one.sha256 in new
    ]


def _kind(callback: Callback, owner: Owner | None) -> tuple[str, str]:
    """Provider and kind, as the metric has them."""
    if callback.snapshot is None:
        return callback.provider, "not_a_call"
    return callback.provider, str(callback.snapshot.phase) if owner else "unknown_call"
