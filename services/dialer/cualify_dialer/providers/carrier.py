"""What Exotel, Plivo and Twilio have in common: an account over HTTP, nothing to read back first, lists by number."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from cualify_dialer.providers import Found, LookUp, Missing, Readiness, Ready, Snapshot, Unclear
from cualify_dialer.providers.http import Http
from cualify_dialer.providers.says import next_page, text_in

RING_SEC = 45
LONGEST_SEC = 14_400
PAGES_LIMIT = 20
CLOCKS_DIFFER_BY = timedelta(seconds=60)
ACCEPTED_WITHIN = timedelta(minutes=15)

NATIONAL_DIGITS = 10
NO_DIGITS = re.compile(r"\D+")

CallbackUrl = Annotated[str, Field(pattern=r"^https?://", max_length=2048)]
SnapshotIn = Callable[[Any], Snapshot | None]


class Carrier:
    """One account. What would have these providers ring again is pinned off in each request, or is not there."""

    def __init__(self, http: Http, *, url: str, caller_id: str) -> None:
        self._http, self._url, self._caller_id = http, url.rstrip("/"), caller_id

    @property
    def dial_timeout_sec(self) -> float:
        """One request."""
        return self._http.dial_timeout_sec

    def open(self) -> AbstractAsyncContextManager[None]:
        """Opens what the rest needs."""
        return self._http.open()

    def readiness(self, agent_id: str) -> Readiness:
        """Nothing about an agent could forbid to dial with it."""
        return Ready()

    async def find_out(self, agent_id: str) -> None:
        """There is nothing to find out."""

    async def _shown(self, url: str, query: Mapping[str, str] | None, snapshot_in: SnapshotIn) -> LookUp:
        """What stands at the address of one call."""
        status, body = await self._http.get(url, query)
        if status == 404:
            return Missing()
        snapshot = snapshot_in(body) if status == 200 else None
        return Found(snapshot) if snapshot else Unclear(f"answered {status}" if status else str(body))

    async def _listed(
        self, url: str, query: Mapping[str, str], *, rows: str, next_in: Callable[[Any], Any], next_name: str
    ) -> list[Any] | Unclear:
        """The rows of every page; each page names the next one."""
        asked: Mapping[str, str] | None = query
        found: list[Any] = []
        for _ in range(PAGES_LIMIT):
            status, body = await self._http.get(url, asked)
            page = body.get(rows) if status == 200 and isinstance(body, dict) else None
            if not isinstance(page, list):
                return Unclear(f"the list answered {status}" if status else str(body))
            found += page
            following = text_in(next_in(body), next_name)
            if following is None:
                return found
            there = next_page(self._url, following)
            if there is None:
                return Unclear("the list goes on somewhere else")
            url, asked = there, None
        return Unclear(f"the list has more than {PAGES_LIMIT} pages")


def may_be_ours(row: Any, *, caller: str, direction_in: Sequence[str], caller_in: Sequence[str]) -> bool:
    """Whether a listed call was not surely made by the callee, or from another of the account's numbers."""
    direction = (text_in(row, *direction_in) or "outbound").lower()
    digits, ours = NO_DIGITS.sub("", text_in(row, *caller_in) or ""), NO_DIGITS.sub("", caller)
    is_number = len(digits) >= NATIONAL_DIGITS <= len(ours)
    return direction.startswith("outbound") and (not is_number or digits[-NATIONAL_DIGITS:] == ours[-NATIONAL_DIGITS:])


def first_of(found: Iterable[Snapshot], *, now: datetime) -> LookUp:
    """At most one attempt rings a number at a time, so what is no other attempt's is this one's; a second is told."""
    ours = sorted(found, key=lambda one: (one.created_at or now, one.execution_id))
    return Found(ours[0], others=tuple(one.execution_id for one in ours[1:])) if ours else Missing()
