"""Bolna: how a call is asked for, looked up and heard of. https://docs.bolna.ai

What we send is strict, what comes back is read tolerantly (`bolna_says`). There is no idempotency key and no way to
look up our own reference, so a lost answer is found by listing the agent's executions of that time and reading each.
"""

import asyncio
import email.utils
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field

from cualify_dialer import metrics
from cualify_dialer.providers import (
    Accepted,
    Answer,
    Found,
    LookUp,
    Missing,
    NotSent,
    Order,
    Refused,
    Snapshot,
    Throttled,
    Unclear,
    Unknown,
)
from cualify_dialer.providers.bolna_says import ListedRow, execution_id_in, listed, reason_in, snapshot_in
from cualify_shared.clock import now as utc_now, rfc3339
from cualify_shared.events.call import E164

REFUSALS = frozenset({400, 401, 403, 404, 422})
ANSWER_LIMIT_BYTES = 4 << 20
PAGE_SIZE = 50
PAGES_LIMIT = 200
READS_AT_ONCE = 8
CLOCKS_DIFFER_BY = timedelta(seconds=60)
ACCEPTED_WITHIN = timedelta(minutes=15)


class UserData(BaseModel):
    """What comes back as `context_details.recipient_data`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cualify_ref: Annotated[str, Field(min_length=1, max_length=64)]


class CreateCall(BaseModel):
    """The body of `POST /call`. It knows no schedule and no retry: both would have Bolna ring unexpectedly."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    agent_id: Annotated[str, Field(min_length=1, max_length=64)]
    recipient_phone_number: E164
    from_phone_number: E164 | None = None
    user_data: UserData


class Bolna:
    """One account at Bolna."""

    name = "bolna"
    ref_prefix = "boln"

    def __init__(self, *, url: str, api_key: str, timeout_sec: float) -> None:
        self._url, self._timeout = url.rstrip("/"), aiohttp.ClientTimeout(total=timeout_sec)
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        self._asking: aiohttp.ClientSession | None = None
        self._reading: aiohttp.ClientSession | None = None
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    @asynccontextmanager
    async def open_for_calls(self) -> AsyncIterator[None]:
        """Opens what `place` needs, and closes it in the end.

        A dial gets a connection of its own: on a kept one that the other side has just closed, nobody could say whether
        the request arrived, and the call would have to be looked for.
        """
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers) as session:
            self._asking = session
            yield
            self._asking = None

    @asynccontextmanager
    async def open_for_reading(self) -> AsyncIterator[None]:
        """Opens what `read` and `find` need, and closes it in the end."""
        connector = aiohttp.TCPConnector(limit=READS_AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers) as session:
            self._reading = session
            yield
            self._reading = None

    async def place(self, order: Order) -> Answer:
        """Exactly one `POST /call`."""
        answer = await self._place(order)
        metrics.PROVIDER_REQUESTS.labels(self.name, type(answer).__name__.lower()).inc()
        return answer

    async def _place(self, order: Order) -> Answer:
        try:
            body = _create_call(order)
        except ValueError as error:
            return Refused(f"the request would break Bolna's contract: {type(error).__name__}")
        if self._asking is None:
            return NotSent("the connection to the provider is not open")
        try:
            async with self._asking.post(
                f"{self._url}/call", data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                return _understood(response.status, await _body(response), response.headers.get("Retry-After"))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return NotSent(type(error).__name__)
        except Exception as error:  # Whatever it was, bytes may have left: not knowing is an outcome.
            return Unknown(type(error).__name__)

    async def read(self, execution_id: str) -> LookUp:
        """`GET /executions/{id}`."""
        status, body = await self._get(f"/executions/{quote(execution_id, safe='')}")
        if status == 404:
            return Missing()
        snapshot = snapshot_in(body) if status == 200 else None
        if snapshot is None:
            return Unclear(f"answered {status}" if status else str(body))
        return Found(snapshot)

    async def find(self, order: Order, *, now: datetime) -> LookUp:
        """Lists what the agent dialed around that time, reads every row that may be ours, compares our reference."""
        rows = await self._rows(order, now=now)
        if isinstance(rows, Unclear):
            return rows
        looks = await asyncio.gather(*(self.read(row.execution_id) for row in rows if row.may_ring(order.to_e164)))
        ours = sorted(
            (look.snapshot for look in looks if isinstance(look, Found) and look.snapshot.ref == order.ref),
            key=lambda snapshot: (snapshot.created_at or now, snapshot.execution_id),
        )
        if ours:
            return Found(ours[0], others=tuple(snapshot.execution_id for snapshot in ours[1:]))
        unclear = [look for look in looks if isinstance(look, Unclear)]
        return unclear[0] if unclear else Missing()

    def heard(self, body: bytes) -> Snapshot | None:
        """A callback's body is the execution itself, sometimes with a `cualify_event` of the agent's beside it."""
        try:
            return snapshot_in(orjson.loads(body))
        except orjson.JSONDecodeError:
            return None

    async def _rows(self, order: Order, *, now: datetime) -> Sequence[ListedRow] | Unclear:
        """Every row of every page; rows move between pages while one reads, so each id is kept once."""
        rows: dict[str, ListedRow] = {}
        for page_number in range(1, PAGES_LIMIT + 1):
            status, body = await self._get(
                f"/v2/agent/{quote(order.agent_id, safe='')}/executions", _window(order, now, page_number)
            )
            page = listed(body) if status == 200 else None
            if page is None:
                return Unclear(f"the list answered {status}" if status else str(body))
            rows.update((row.execution_id, row) for row in page.rows)
            if not page.has_more:
                return list(rows.values())
        return Unclear(f"the list has more than {PAGES_LIMIT} pages")

    async def _get(self, path: str, query: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON; 0 and what went wrong where there was no answer to understand."""
        status, body = await self._got(path, query)
        metrics.PROVIDER_REQUESTS.labels(self.name, f"read_{status}" if status else "read_failed").inc()
        return status, body

    async def _got(self, path: str, query: dict[str, str] | None) -> tuple[int, Any]:
        if self._reading is None:
            return 0, "the connection to the provider is not open"
        try:
            async with (
                self._reads,
                self._reading.get(self._url + path, params=query, allow_redirects=False) as response,
            ):
                return response.status, _json(await _body(response))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return 0, type(error).__name__


def _create_call(order: Order) -> bytes:
    body = CreateCall(
        agent_id=order.agent_id,
        recipient_phone_number=order.to_e164,
        from_phone_number=order.from_e164,
        user_data=UserData(cualify_ref=order.ref),
    )
    return body.model_dump_json(exclude_none=True).encode()


def _understood(status: int, body: bytes, retry_after: str | None) -> Answer:
    """The answer to `POST /call`. Whatever is not surely a yes or a no is unknown, 3xx, 409 and every 5xx among it."""
    if status in REFUSALS:
        return Refused(f"{status}: {reason_in(_json(body))}"[:200])
    if status == 429:
        return Throttled(_seconds(retry_after))
    if 200 <= status < 300:
        execution_id = execution_id_in(_json(body))
        return Accepted(execution_id) if execution_id else Unknown(f"{status} without an execution_id")
    return Unknown(f"answered {status}")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body, which may be no longer than `ANSWER_LIMIT_BYTES`."""
    body = bytearray()
    async for part in response.content.iter_chunked(65_536):
        body += part
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError("the answer is too long")
    return bytes(body)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` as seconds from now; it may also be a date, or nonsense."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(min(int(retry_after.strip()[:9]), 86_400))
    try:
        at = email.utils.parsedate_to_datetime(retry_after)
        return max(0.0, (at - utc_now()).total_seconds())
    except (ValueError, TypeError):
        return None


def _window(order: Order, now: datetime, page_number: int) -> dict[str, str]:
    """When the execution can have been created, by a clock that may differ from ours. `from` and `to` go together."""
    return {
        "from": rfc3339(order.asked_at - CLOCKS_DIFFER_BY),
        "to": rfc3339(max(order.asked_at, min(now, order.asked_at + ACCEPTED_WITHIN))),
        "call_type": "outbound",
        "page_number": str(page_number),
        "page_size": str(PAGE_SIZE),
    }
