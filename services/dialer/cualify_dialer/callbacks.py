"""What providers tell us by HTTP. It is kept as it came, folded, and answered exactly 200 after the COMMIT.

The path carries an unguessable token; beside it a provider may have its addresses, a static header and a signature of
its own. What ends a call is never believed but read back all the same. One that nobody here knows is kept and answered
200 too, because to be sent again would not make it known.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import assert_never
from uuid import UUID

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from cualify_dialer import callback_queries, metrics
from cualify_dialer.apply import apply
from cualify_dialer.callback_queries import ProviderEvent, Whose
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.model import Heard, Noted, Pace
from cualify_dialer.providers import CallbackRequest, Forged, NotACall, Provider, Snapshot
from cualify_shared import faults
from cualify_shared.batch import MicroBatch, Overloaded
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Pool, is_passing
from cualify_shared.operator_routes import problem
from cualify_shared.signing import same_secret

log = structlog.get_logger(__name__)

BODY_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Callback:
    """One body, and what it says if it is about a call."""

    provider: str
    body: bytes
    sha256: bytes
    snapshot: Snapshot | None


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
        app.add_route("/callbacks/{provider}/{token}", self.on_callback, methods=["POST"])
        app.add_route("/callbacks/{provider}/{token}/{ref}", self.on_callback, methods=["POST"])

    async def on_callback(self, request: Request) -> Response:
        """200 after the COMMIT; 404 to whoever does not know the token; 503 where it should be sent again."""
        name, ref = request.path_params["provider"], request.path_params.get("ref")
        provider = self._providers.get(name)
        knows = self._urls.may_speak(provider=name, token=request.path_params["token"], ref=ref)
        if provider is None or not knows or not self._guards.get(name, Guard()).lets_pass(request):
            return self._unheard(name if provider else "unknown")
        body = await _body(request)
        if body is None:
            return problem(413, "payload_too_large", f"a callback has at most {BODY_LIMIT_BYTES} bytes")
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        asked = CallbackRequest(url=self._urls.as_given(path), ref=ref, headers=request.headers, body=body)
        try:
            if await self.take(provider.name, asked) is None:
                return self._unheard(name)
        except Overloaded:
            return problem(503, "unavailable", "too much is waiting; send it again")
        except Exception as error:
            if not is_passing(error):
                raise
            return problem(503, "unavailable", "the database is away; send it again")
        return Response(status_code=200)

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
        callback = Callback(provider, request.body, _fingerprint(request), snapshot)
        is_known = await self._batch.submit(callback)
        metrics.CALLBACKS.labels(provider, _kind(callback, is_known)).inc()
        return is_known

    def _unheard(self, name: str) -> Response:
        metrics.CALLBACKS.labels(name, "not_let_in").inc()
        return problem(404, "not_found", "there is nothing here")

    async def _commit(self, callbacks: Sequence[Callback]) -> list[bool]:
        """Keeps the bodies that are new and folds what they say. Returns which of them are about calls of ours."""
        async with self._pool.acquire() as connection, connection.transaction():
            whose = await callback_queries.whose(
                connection,
                refs=[one.snapshot.ref for one in callbacks if one.snapshot and one.snapshot.ref],
                execution_ids=[one.snapshot.execution_id for one in callbacks if one.snapshot],
            )
            owners = [_owner(one, whose) for one in callbacks]
            new = await callback_queries.put_provider_events(connection, _events(callbacks, owners))
            noted = _noted(callbacks, owners, new)
            changes = await apply(connection, noted, now=self._clock(), pace=self._pace)
            faults.point("dialer.callbacks_handled")
        self._committed()
        changes.report()
        if any(one.snapshot.is_last for one in callbacks if one.snapshot):
            self._hinted()
        return [owner is not None for owner in owners]


async def _body(request: Request) -> bytes | None:
    """The body; None if it is too long, whatever its headers say."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            return None
    return bytes(body)


def _is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def _fingerprint(request: CallbackRequest) -> bytes:
    """What makes a callback the same as another: its body, and the attempt whose address it came to."""
    return hashlib.sha256((f"{request.ref}\n".encode() if request.ref else b"") + request.body).digest()


def _owner(callback: Callback, whose: Whose) -> tuple[UUID, int] | None:
    """By our reference first: the callback may be here before the provider's id is."""
    if callback.snapshot is None:
        return None
    by_execution = whose.by_execution.get(callback.snapshot.execution_id)
    return whose.by_ref.get(callback.snapshot.ref, by_execution) if callback.snapshot.ref else by_execution


def _events(callbacks: Sequence[Callback], owners: Sequence[tuple[UUID, int] | None]) -> list[ProviderEvent]:
    return [
        ProviderEvent(
            provider=one.provider,
            sha256=one.sha256,
            body=one.body,
            execution_id=one.snapshot.execution_id if one.snapshot else None,
            status=one.snapshot.status if one.snapshot else None,
            call_id=owner[0] if owner else None,
        )
        for one, owner in zip(callbacks, owners, strict=True)
    ]


def _noted(callbacks: Sequence[Callback], owners: Sequence[tuple[UUID, int] | None], new: set[bytes]) -> list[Noted]:
    return [
        Noted(owner[0], Heard(owner[1], one.snapshot))
        for one, owner in zip(callbacks, owners, strict=True)
        if owner is not None and one.snapshot is not None and one.sha256 in new
    ]


def _kind(callback: Callback, is_known: bool) -> str:
    if callback.snapshot is None:
        return "not_a_call"
    return str(callback.snapshot.phase) if is_known else "unknown_call"
