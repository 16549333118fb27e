"""What providers tell us by HTTP. It is kept as it came, folded, and answered exactly 200 after the COMMIT.

Callbacks are unsigned: the path carries an unguessable token, and what ends a call is never believed but read back. One
that nobody here knows is kept and answered 200 too, because to be sent again would not make it known.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from cualify_dialer import metrics, queries
from cualify_dialer.apply import apply
from cualify_dialer.model import Heard, Noted, Pace
from cualify_dialer.providers import Provider, Snapshot
from cualify_dialer.queries import ProviderEvent, Whose
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


class Callbacks:
    """The route and the loop `callbacks`, which commits them many at a time."""

    def __init__(
        self,
        *,
        pool: Pool,
        providers: Mapping[str, Provider],
        token: str,
        pace: Pace,
        committed: Callable[[], None],
        hinted: Callable[[], None],
    ) -> None:
        self._pool, self._providers, self._token, self._pace = pool, providers, token, pace
        self._committed, self._hinted = committed, hinted
        self._batch: MicroBatch[Callback, bool] = MicroBatch("callbacks", self._commit)

    async def run(self, stop: asyncio.Event) -> None:
        """Commits what comes until told to stop."""
        await self._batch.run(stop)

    def serve(self, app: FastAPI) -> None:
        """Adds `POST /callbacks/{provider}/{token}`."""
        app.add_route("/callbacks/{provider}/{token}", self.on_callback, methods=["POST"])

    async def on_callback(self, request: Request) -> Response:
        """200 after the COMMIT; 404 to whoever does not know the token; 503 where it should be sent again."""
        provider = self._providers.get(request.path_params["provider"])
        if not same_secret(request.path_params["token"], self._token) or provider is None:
            return problem(404, "not_found", "there is nothing here")
        body = await _body(request)
        if body is None:
            return problem(413, "payload_too_large", f"a callback has at most {BODY_LIMIT_BYTES} bytes")
        try:
            await self.take(provider.name, body)
        except Overloaded:
            return problem(503, "unavailable", "too much is waiting; send it again")
        except Exception as error:
            if not is_passing(error):
                raise
            return problem(503, "unavailable", "the database is away; send it again")
        return Response(status_code=200)

    async def take(self, provider: str, body: bytes) -> bool:
        """Returns after the COMMIT whether it was about a call of ours."""
        snapshot = self._providers[provider].heard(body)
        callback = Callback(provider, body, hashlib.sha256(body).digest(), snapshot)
        is_known = await self._batch.submit(callback)
        metrics.CALLBACKS.labels(provider, _kind(callback, is_known)).inc()
        return is_known

    async def _commit(self, callbacks: Sequence[Callback]) -> list[bool]:
        """Keeps the bodies that are new and folds what they say. Returns which of them are about calls of ours."""
        async with self._pool.acquire() as connection, connection.transaction():
            whose = await queries.whose(
                connection,
                refs=[one.snapshot.ref for one in callbacks if one.snapshot and one.snapshot.ref],
                execution_ids=[one.snapshot.execution_id for one in callbacks if one.snapshot],
            )
            owners = [_owner(one, whose) for one in callbacks]
            new = await queries.put_provider_events(connection, _events(callbacks, owners))
            noted = _noted(callbacks, owners, new)
            changes = await apply(connection, noted, now=utc_now(), pace=self._pace)
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
