"""What all adapters share: one request that is sent once, what its answer proves, and requests that may be repeated.

A dial gets a connection of its own: on a kept one that the other side has just closed, nobody could say whether the
request arrived, and the call would have to be looked for. Nothing here retries.
"""

import asyncio
import email.utils
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from cualify_dialer import metrics
from cualify_dialer.providers import (
    Accepted,
    Answer,
    HangUp,
    NotSent,
    Refused,
    Stopped,
    Throttled,
    TooLate,
    Unclear,
    Unknown,
)
from cualify_shared.clock import now as utc_now

REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 410, 413, 415, 422})
"""Answers that prove that nothing was taken on. 409 is not one: it may mean that it was taken on before."""

OVER_OR_GONE = frozenset({400, 404, 405, 409, 410, 422})
"""Answers to a hang-up that prove that there is nothing to end any more."""

ANSWER_LIMIT_BYTES = 4 << 20
READS_AT_ONCE = 8
NUMBER = re.compile(r"\+?\d(?:[\s().-]{0,3}\d){6,}")
"""What may be a phone number, in any spelling: reasons go to the log."""
LONGEST_RETRY_AFTER_SEC = 86_400.0
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer that came whole."""

    status: int
    body: Any
    """Its JSON; None where there is none."""
    retry_after: str | None


class Http:
    """An account at a provider, over HTTP."""

    def __init__(
        self, name: str, *, headers: Mapping[str, str], timeout_sec: float, dial_timeout_sec: float | None = None
    ) -> None:
        self._name, self._headers = name, {**headers, "Accept": JSON}
        self.timeout_sec, self.dial_timeout_sec = timeout_sec, dial_timeout_sec or timeout_sec
        self._users = 0
        self._asking: aiohttp.ClientSession | None = None
        self._reading: aiohttp.ClientSession | None = None
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Opens connections; several may hold it open, and the last one closes it."""
        self._users += 1
        if self._users == 1:
            self._asking = self._session(aiohttp.TCPConnector(limit=0, force_close=True), self.dial_timeout_sec)
            self._reading = self._session(aiohttp.TCPConnector(limit=READS_AT_ONCE), self.timeout_sec)
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0 and self._asking and self._reading:
                await self._asking.close()
                await self._reading.close()
                self._asking = self._reading = None

    async def dial(self, url: str, *, body: bytes, kind: str, execution_id_in: Callable[[Any], str | None]) -> Answer:
        """Exactly one POST. Whatever is not surely a yes or a no is unknown: 3xx, 409, every 5xx and silence."""
        reply = await self._sent_once(url, body=body, kind=kind)
        answer = understood(reply, execution_id_in) if isinstance(reply, Reply) else reply
        metrics.PROVIDER_REQUESTS.labels(self._name, type(answer).__name__.lower()).inc()
        return answer

    async def get(self, url: str, query: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON; 0 and what went wrong where there was no answer to understand."""
        return await self._repeatable("GET", url, "read", params=query)

    async def hang_up(
        self,
        url: str,
        *,
        method: str = "POST",
        body: bytes = b"",
        kind: str = FORM,
        too_late: frozenset[int] = OVER_OR_GONE,
    ) -> HangUp:
        """Asks to end an execution, which may be asked for as often as one likes.

        Only the statuses `too_late` say something of the call: a key that is not let in, or no money, does not.
        """
        status, said = await self._repeatable(method, url, "hang_up", data=body, headers={"Content-Type": kind})
        if 200 <= status < 300:
            return Stopped()
        return TooLate() if status in too_late else Unclear(f"answered {status}" if status else str(said))

    async def _sent_once(self, url: str, *, body: bytes, kind: str) -> Reply | NotSent | Unknown:
        if self._asking is None:
            return NotSent("the connection to the provider is not open")
        try:
            async with self._asking.post(
                url, data=body, headers={"Content-Type": kind}, allow_redirects=False
            ) as response:
                return await _reply(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return NotSent(type(error).__name__)
        except Exception as error:  # Whatever it was, bytes may have left: not knowing is an outcome.
            return Unknown(type(error).__name__)

    async def _repeatable(self, method: str, url: str, what: str, **request: Any) -> tuple[int, Any]:
        status, body = await self._got(method, url, **request)
        metrics.PROVIDER_REQUESTS.labels(self._name, f"{what}_{status}" if status else f"{what}_failed").inc()
        return status, body

    async def _got(self, method: str, url: str, **request: Any) -> tuple[int, Any]:
        if self._reading is None:
            return 0, "the connection to the provider is not open"
        try:
            async with (
                self._reads,
                self._reading.request(method, url, allow_redirects=False, **request) as response,
            ):
                reply = await _reply(response)
                return reply.status, reply.body
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return 0, type(error).__name__

    def _session(self, connector: aiohttp.TCPConnector, timeout_sec: float) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=timeout_sec)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)


def understood(reply: Reply, execution_id_in: Callable[[Any], str | None]) -> Answer:
    """What an answer to a dial proves."""
    if reply.status in REFUSALS:
        return Refused(f"{reply.status}: {NUMBER.sub('…', reason_in(reply.body)[:1000])}"[:200])
    if reply.status == 429:
        return Throttled(seconds(reply.retry_after))
    if 200 <= reply.status < 300:
        execution_id = execution_id_in(reply.body)
        return Accepted(execution_id) if execution_id else Unknown(f"{reply.status} without an id")
    return Unknown(f"answered {reply.status}")


def reason_in(body: Any) -> str:
    """Why something was refused: `message`, `detail` (text or a list), or `error`, also inside `RestException`."""
    if isinstance(body, dict) and isinstance(body.get("RestException"), dict):
        body = {"message": body["RestException"].get("Message")}
    for name in ("message", "detail", "error"):
        value = body.get(name) if isinstance(body, dict) else None
        if isinstance(value, list) and value:
            first = value[0]
            value = first.get("msg") or str(first) if isinstance(first, dict) else first
        if isinstance(value, str | int):
            return str(value)
    return "no reason given"


def json_in(body: bytes) -> Any:
    """The JSON; None if it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def seconds(retry_after: str | None) -> float | None:
    """`Retry-After` as seconds from now; it may also be a date, or nonsense."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after.strip()[:9]), LONGEST_RETRY_AFTER_SEC)
    try:
        at = email.utils.parsedate_to_datetime(retry_after)
        return min(max(0.0, (at - utc_now()).total_seconds()), LONGEST_RETRY_AFTER_SEC)
    except (ValueError, TypeError, OverflowError):
        return None


async def _reply(response: aiohttp.ClientResponse) -> Reply:
    """The answer, whose body may be no longer than `ANSWER_LIMIT_BYTES`."""
    body = bytearray()
    async for part in response.content.iter_chunked(65_536):
        body += part
        if len(body) > ANSWER_LIMIT_BYTES:
            raise ValueError("the answer is too long")
    return Reply(response.status, json_in(bytes(body)), response.headers.get("Retry-After"))
