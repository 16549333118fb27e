"""Who is asking. An API key opens `/api/v1` for one org; the operators' token opens `/admin/v1`.

A key that was revoked is refused at once in the process where that was done, and within `FRESH_SEC` in every other:
what is remembered of a key is never older than that, and without the database nothing is remembered longer. Behind the
door the order is: who asks (401), how often (429), whether the key may (403); then the route.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

import structlog
from prometheus_client import Counter
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cualify_api.keys import queries
from cualify_api.keys.queries import StoredKey
from cualify_api.keys.secret import hash_of, prefix_of
from cualify_api.web import scopes
from cualify_api.web.again import retried
from cualify_api.web.errors import Problem, add_headers
from cualify_api.web.flood import Knocks
from cualify_api.web.rate_limit import RateLimit
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
PUBLIC: Final = frozenset({"/api/v1/openapi.json", "/docs"})
TURNED_AWAY: Final = Counter("cualify_unauthorized_total", "Requests without a valid key or token.", ["answer"])

Handler: TypeAlias = Callable[[Scope, Receive, Send, "Caller"], Awaitable[None]]
"""A route that is met right behind the door; it asks for its own rate limit and scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds one of an org's keys."""

    org_id: UUID
    key_prefix: str
    test: bool = False
    """Its calls ring nobody and cost nothing."""
    scopes: frozenset[str] | None = None
    """None: all."""


@dataclass(frozen=True, slots=True)
class _Known:
    key: StoredKey | None
    caller: Caller | None
    read_at: float


class Keys:
    """Tells a caller by the key. Remembers for ten seconds; unknown prefixes apart, lest they push out good ones."""

    def __init__(self, pool: Pool, *, pepper: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._pepper, self.clock = pool, pepper, clock
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, _Known] = {}
        self._lookups: dict[str, asyncio.Task[_Known]] = {}
        self._used: dict[str, datetime] = {}

    async def caller(self, key: str) -> Caller | None:
        """The holder of `key`, or None: malformed, unknown, wrong, revoked and expired are all the same."""
        prefix = prefix_of(key)
        if prefix is None:
            return None
        return self._checked(key, self._fresh(prefix) or await self._looked_up(prefix))

    def remembered(self, key: str) -> Caller | None:
        """The same without asking the database: None also where it would have to be asked."""
        prefix = prefix_of(key)
        known = None if prefix is None else self._fresh(prefix)
        return None if known is None else self._checked(key, known)

    def opened_before(self, key: str) -> bool:
        """Whether `key` was right when it was last looked up, however long ago: worth another look."""
        known = self._known.get(prefix_of(key) or "")
        return known is not None and self._checked(key, known) is not None

    def forget(self, prefix: str) -> None:
        """Has the next request look the key up afresh: it was made or revoked here."""
        self._known.pop(prefix, None)
        self._unknown.pop(prefix, None)
        self._lookups.pop(prefix, None)

    async def note_use(self, stop: asyncio.Event) -> None:
        """The loop that keeps `last_used_at`, all keys in one statement."""
        while True:
            last = await until_set(stop, NOTE_USE_EVERY_SEC)
            await self.note_use_once()
            if last:
                return

    async def note_use_once(self) -> None:
        """Writes down which keys were used since the last time."""
        used, self._used = self._used, {}
        try:
            if used:
                await queries.note_use(self._pool, used)
        except Exception as error:
            if not is_passing(error):
                raise
            self._used = used | self._used
            log.warning("key_use_not_noted", keys=len(used), error=repr(error))

    def _checked(self, key: str, known: _Known) -> Caller | None:
        stored, at = known.key, now()
        right = hmac.compare_digest(hash_of(key, pepper=self._pepper), stored.key_hash if stored else b"\0" * 32)
        if stored is None or not right or stored.revoked_at or (stored.expires_at and stored.expires_at <= at):
            return None
        self._used[stored.prefix] = at
        return known.caller

    def _fresh(self, prefix: str) -> _Known | None:
        known = self._known.get(prefix) or self._unknown.get(prefix)
        return known if known is not None and self.clock() - known.read_at < FRESH_SEC else None

    async def _looked_up(self, prefix: str) -> _Known:
        lookup = self._lookups.get(prefix)
        if lookup is None:
            lookup = self._lookups[prefix] = asyncio.create_task(self._look_up(prefix))
        return await asyncio.shield(lookup)

    async def _look_up(self, prefix: str) -> _Known:
        """One query, however many requests wait for it. What was read before a `forget` is not remembered."""
        me, read_at = asyncio.current_task(), self.clock()
        try:
            key = await retried("look up a key", lambda: queries.find(self._pool, prefix))
            holder = None if key is None else Caller(key.org_id, prefix, key.test, key.scopes)
            known = _Known(key, holder, read_at)
            if self._lookups.get(prefix) is me:
                self._remember(prefix, known)
            return known
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

    def __init__(
        self, app: ASGIApp, *, keys: Keys, limit: RateLimit, knocks: Knocks, readers: Knocks, admin_token: str
    ) -> None:
        self._app, self._keys, self._limit, self._knocks, self._readers = app, keys, limit, knocks, readers
        self._admin_token = admin_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path in PUBLIC:
                self._reader(scope)
            elif _is_under(CUSTOMERS, path):
                await self._customer(scope, path)
            elif _is_under(OPERATORS, path):
                self._operator(scope)
        await self._app(scope, receive, send)

    async def caller(self, scope: Scope) -> Caller:
        """Who asks, by the key. Raises Problem."""
        key = _bearer(scope)
        caller = self._keys.remembered(key)
        if caller is not None:
            return caller
        if not self._keys.opened_before(key):
            self._slow_down(scope)
        caller = await self._keys.caller(key)
        if caller is None:
            raise self._turned_away(scope, "a valid API key is needed: Authorization: Bearer cuk_live_…")
        return caller

    async def _customer(self, scope: Scope, path: str) -> None:
        caller = scope["state"]["caller"] = await self.caller(scope)
        allowance = await self._limit.hand_in(caller.org_id)
        add_headers(scope, allowance.headers())
        allowance.or_refuse()
        scopes.check(caller.scopes, scope["method"], path)

    def _operator(self, scope: Scope) -> None:
        if not same_secret(_bearer(scope), self._admin_token):
            self._slow_down(scope)
            raise self._turned_away(scope, "this route takes the operators' bearer token")

    def _reader(self, scope: Scope) -> None:
        """Whoever reads the documents needs no key; so often, each address may."""
        self._slow_down(scope, self._readers)
        self._readers.failed(_address(scope))

    def _slow_down(self, scope: Scope, knocks: Knocks | None = None) -> None:
        wait_sec = (knocks or self._knocks).wait_sec(_address(scope))
        if wait_sec is not None:
            TURNED_AWAY.labels("too_many_requests").inc()
            raise Problem(
                "too_many_requests",
                "too many requests without a valid key have come from your address",
                headers={"Retry-After": str(wait_sec)},
            )

    def _turned_away(self, scope: Scope, message: str) -> Problem:
        self._knocks.failed(_address(scope))
        TURNED_AWAY.labels("unauthorized").inc()
        return Problem("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class Direct:
    """A route right behind a door of its own, without a router: the hot path."""

    def __init__(self, door: Door, handler: Handler) -> None:
        self._door, self._handler = door, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope, receive, send, await self._door.caller(scope))


def caller(request: Request) -> Caller:
    """Whom the door has let in."""
    found: Caller = request.scope["state"]["caller"]
    return found


def _is_under(root: str, path: str) -> bool:
    return path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _bearer(scope: Scope) -> str:
    """The token, where there is exactly one: of two, a proxy in front of us may have read the other."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        return ""
    scheme, _, token = str(given[0], "latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
