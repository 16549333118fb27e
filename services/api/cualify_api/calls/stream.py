"""`GET /calls/{id}/events`: a call's timeline, whole as JSON, or live as a stream of server-sent events.

A stream looks for news a few times a second, so it tells what any replica has folded in. Each event's id says how far
the stream has come in each of the two sources of the timeline (`1-4`: what was requested, what the dialer said): who
comes back with the last one (`Last-Event-ID`) misses nothing and hears nothing twice. The stream ends with the call. It
also ends after ten minutes, with its client gone, and when the service stops; the client then asks again.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cualify_api.calls import queries
from cualify_api.calls.call import TimelineEntry
from cualify_api.calls.routes import as_id
from cualify_api.web.auth import caller
from cualify_api.web.errors import Problem, json
from cualify_api.web.paging import wrong_parameter
from cualify_shared.clock import rfc3339
from cualify_shared.database import Pool, is_passing
from cualify_shared.events.topics import CALL_EVENTS, CALL_REQUESTS
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)

LOOK_EVERY_SEC: Final = 0.4
HEARTBEAT_SEC: Final = 15.0
LONGEST_SEC: Final = 600.0
STREAMS: Final = 200
STREAMS_OF_AN_ORG: Final = 20
RETRY_MS: Final = 2000

SOURCES: Final = (CALL_REQUESTS.name, CALL_EVENTS.name)
_ID: Final = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

NEWS = """
SELECT c.terminal_at IS NOT NULL AS is_over, e.source, e.sequence, e.type, e.at, e.data
FROM calls AS c
LEFT JOIN LATERAL (
    SELECT source, sequence, type, at, data
    FROM call_events
    WHERE call_id = c.id
      AND ((source = $3 AND sequence > $4) OR (source = $5 AND sequence > $6))
) AS e ON true
WHERE c.org_id = $1 AND c.id = $2
ORDER BY e.source <> $3, e.sequence
"""


class Streams:
    """Counts what is open: each costs a look at the database a few times a second."""

    def __init__(
        self,
        *,
        stop: asyncio.Event,
        most: int = STREAMS,
        most_of_an_org: int = STREAMS_OF_AN_ORG,
        heartbeat_sec: float = HEARTBEAT_SEC,
        longest_sec: float = LONGEST_SEC,
    ) -> None:
        self.stop, self.heartbeat_sec, self.longest_sec = stop, heartbeat_sec, longest_sec
        self.most, self.most_of_an_org = most, most_of_an_org
        self._open: Counter[UUID] = Counter()

    @contextmanager
    def one_more(self, org_id: UUID) -> Iterator[None]:
        """Room for a stream while it lasts. Raises Problem where there is none."""
        if self._open[org_id] >= self.most_of_an_org or self._open.total() >= self.most:
            message = f"too many streams are open; an org has at most {self.most_of_an_org} at once"
            raise Problem("too_many_requests", message, headers={"Retry-After": "5"})
        self._open[org_id] += 1
        try:
            yield
        finally:
            self._open[org_id] -= 1
            if not self._open[org_id]:
                del self._open[org_id]


def timeline_routes(pool: Pool, streams: Streams) -> APIRouter:
    """The route of a call's timeline."""
    router = APIRouter()

    @router.get("/api/v1/calls/{call_id}/events")
    async def get_timeline(request: Request, call_id: str) -> Response:
        org_id, named = caller(request).org_id, as_id(call_id, "call")
        if "text/event-stream" in request.headers.get("accept", "").lower():
            return await _streamed(pool, streams, _Watched(org_id, named, _seen(request)))
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            if await queries.get(connection, org_id, named) is None:
                raise _no_such_call()
            entries = await queries.timeline(connection, org_id, named)
        return json({"data": [entry_view(entry) for entry in entries]})

    return router


@dataclass(slots=True)
class _Watched:
    """A call, and the newest entry of each source that its watcher has."""

    org_id: UUID
    call_id: UUID
    seen: dict[str, int]


@dataclass(frozen=True, slots=True)
class _News:
    entries: Sequence[TimelineEntry]
    is_over: bool


class _Stream(StreamingResponse):
    """Holds its room for as long as it is being sent."""

    def __init__(self, chunks: AsyncIterator[bytes], room: AbstractContextManager[None]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers=HEADERS)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room:
            await super().__call__(scope, receive, send)


async def _streamed(pool: Pool, streams: Streams, watched: _Watched) -> Response:
    news = await _news(pool, watched)
    if news.is_over and not news.entries:
        # To a browser this means: don't ask again. It has heard all.
        return Response(status_code=204, headers=HEADERS)
    return _Stream(_events(pool, streams, watched), streams.one_more(watched.org_id))


async def _events(pool: Pool, streams: Streams, watched: _Watched) -> AsyncIterator[bytes]:
    """The stream's bytes: what is known, then what comes, then the end."""
    yield b"retry: %d\n\n" % RETRY_MS
    ends_at = time.monotonic() + streams.longest_sec
    spoke_at = time.monotonic()
    while True:
        news = await _news_if_any(pool, watched)
        for entry in news.entries:
            watched.seen[entry.source] = max(watched.seen[entry.source], entry.sequence)
            yield _said(entry, watched)
        at = time.monotonic()
        if news.is_over or at > ends_at:
            return
        if news.entries:
            spoke_at = at
        elif at - spoke_at >= streams.heartbeat_sec:
            spoke_at = at
            yield b": still here\n\n"
        if await until_set(streams.stop, LOOK_EVERY_SEC):
            return


async def _news_if_any(pool: Pool, watched: _Watched) -> _News:
    """The same; nothing while the database is away: the stream goes on when it is back."""
    try:
        return await _news(pool, watched)
    except Exception as error:
        if not is_passing(error):
            raise
        log.warning("stream_sees_nothing", call_id=str(watched.call_id), error=type(error).__name__)
        return _News((), is_over=False)


async def _news(pool: Pool, watched: _Watched) -> _News:
    """What the watcher has not seen, and whether the call is over, both of one moment. Raises Problem."""
    (first, first_seen), (second, second_seen) = watched.seen.items()
    rows = await pool.fetch(NEWS, watched.org_id, watched.call_id, first, first_seen, second, second_seen)
    if not rows:
        raise _no_such_call()
    entries = [
        TimelineEntry(
            watched.call_id, watched.org_id, row["source"], row["sequence"], row["type"], row["at"], row["data"]
        )
        for row in rows
        if row["source"] is not None
    ]
    return _News(entries, rows[0]["is_over"])


def entry_view(entry: TimelineEntry) -> dict[str, Any]:
    """A line of the timeline, as everywhere."""
    return {"type": entry.type, "at": rfc3339(entry.at), "data": entry.data}


def _said(entry: TimelineEntry, watched: _Watched) -> bytes:
    so_far = "-".join(str(sequence) for sequence in watched.seen.values())
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (so_far.encode(), entry.type.encode(), orjson.dumps(entry_view(entry)))


def _seen(request: Request) -> dict[str, int]:
    """How far the watcher has come. Raises Problem."""
    given = request.headers.get("last-event-id")
    if given is None or given == "":
        return dict.fromkeys(SOURCES, 0)
    match = _ID.fullmatch(given)
    if match is None:
        raise wrong_parameter("Last-Event-ID", "Last-Event-ID must be the id of an event of this stream — e.g. 1-2")
    return dict(zip(SOURCES, map(int, match.groups()), strict=True))


def _no_such_call() -> Problem:
    return Problem("not_found", "there is no such call")
