"""Who is asking. An API key opens `/api/v1` for one org; the operators' token opens `/admin/v1`.

A key that was revoked is refused at once in the process where that was done, and within `FRESH_SEC` in every other:
what is remembered of a key is never older than that, and without the database nothing is remembered longer.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cualify_api.keys import queries
from cualify_api.keys.queries import StoredKey
from cualify_api.keys.secret import hash_of, prefix_of
from cualify_api.web.errors import Problem
from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.signing import same_secret
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)

FRESH_SEC: Final = 10.0
REMEMBERED: Final = 10_000
NOTE_USE_EVERY_SEC: Final = 30.0
CUSTOMERS: Final = "/api/v1"
OPERATORS: Final = "/admin/v1"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds one of an org's keys."""

    org_id: UUID
    key_prefix: str


@dataclass(frozen=True, slots=True)
class _Known:
    key: StoredKey | None
    read_at: float


class Keys:
    """Tells a caller by the key. Remembers for ten seconds; unknown prefixes apart, lest they push out good ones."""

    def __init__(self, pool: Pool, *, pepper: str) -> None:
        self._pool, self._pepper = pool, pepper
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, _Known] = {}
        self._lookups: dict[str, asyncio.Task[StoredKey | None]] = {}
        self._used: dict[str, datetime] = {}

    async def caller(self, key: str) -> Caller | None:
        """The holder of `key`, or None: malformed, unknown, wrong, revoked and expired are all the same."""
        prefix = prefix_of(key)
        if prefix is None:
            return None
        stored = await self._stored(prefix)
        right = hmac.compare_digest(hash_of(key, pepper=self._pepper), stored.key_hash if stored else b"\0" * 32)
        at = now()
        if stored is None or not right or stored.revoked_at or (stored.expires_at and stored.expires_at <= at):
            return None
        self._used[prefix] = at
        return Caller(stored.org_id, prefix)

    def forget(self, prefix: str) -> None:
        """Has the next request look the key up afresh: it was made or revoked here."""
        self._known.pop(prefix, None)
        self._unknown.pop(prefix, None)
        self._lookups.pop(prefix, None)

    async def note_use(self, stop: asyncio.Event) -> None:
        """The loop that keeps `last_used_at`, all keys in one statement."""
        while True:
            last = await until_set(stop, NOTE_USE_EVERY_SEC)
            used, self._used = self._used, {}
            try:
                if used:
                    await queries.note_use(self._pool, used)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("key_use_not_noted", keys=len(used), error=repr(error))
            if last:
                return

    async def _stored(self, prefix: str) -> StoredKey | None:
        known = self._known.get(prefix) or self._unknown.get(prefix)
        if known is not None and time.monotonic() - known.read_at < FRESH_SEC:
            return known.key
        lookup = self._lookups.get(prefix)
        if lookup is None:
            lookup = self._lookups[prefix] = asyncio.create_task(self._look_up(prefix))
        return await asyncio.shield(lookup)

    async def _look_up(self, prefix: str) -> StoredKey | None:
        """One query, however many requests wait for it. What was read before a `forget` is not remembered."""
        me, read_at = asyncio.current_task(), time.monotonic()
        try:
            stored = await queries.find(self._pool, prefix)
            if self._lookups.get(prefix) is me:
                self._remember(prefix, _Known(stored, read_at))
            return stored
        finally:
            if self._lookups.get(prefix) is me:
                del self._lookups[prefix]

    def _remember(self, prefix: str, known: _Known) -> None:
        self._known.pop(prefix, None)
        self._unknown.pop(prefix, None)
        shelf = self._known if known.key else self._unknown
        if len(shelf) >= REMEMBERED:
            del shelf[next(iter(shelf))]
        shelf[prefix] = known


class Door:
    """ASGI middleware inside the envelope: nobody gets past it to a route that is not theirs."""

    def __init__(self, app: ASGIApp, *, caller_of: Callable[[str], Awaitable[Caller | None]], admin_token: str) -> None:
        self._app, self._caller_of, self._admin_token = app, caller_of, admin_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if _is_under(CUSTOMERS, scope["path"]):
                scope["state"]["caller"] = await self._customer(scope)
            elif _is_under(OPERATORS, scope["path"]):
                self._operator(scope)
        await self._app(scope, receive, send)

    async def _customer(self, scope: Scope) -> Caller:
        caller = await self._caller_of(_bearer(scope))
        if caller is None:
            raise _unauthorized("a valid API key is needed: Authorization: Bearer cuk_live_…")
        return caller

    def _operator(self, scope: Scope) -> None:
        if not same_secret(_bearer(scope), self._admin_token):
            raise _unauthorized("this route takes the operators' bearer token")


def caller(request: Request) -> Caller:
    """Whom the door has let in."""
    found: Caller = request.scope["state"]["caller"]
    return found


def _is_under(root: str, path: str) -> bool:
    return path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = str(value, "latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def _unauthorized(message: str) -> Problem:
    return Problem("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
