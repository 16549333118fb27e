"""Bolna: how a call is asked for, looked up and heard of. https://docs.bolna.ai

What we send is strict, what comes back is read tolerantly (`bolna_says`). There is no idempotency key and no way to
look up our own reference, so a lost answer is found by listing the agent's executions of that time and reading each.
Before an agent is dialed with it is read back: one that would have Bolna ring again by itself, or later, is not used.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from cualify_dialer.providers import (
    Answer,
    Callback,
    CallbackRequest,
    Found,
    HangUp,
    LookUp,
    Missing,
    NotACall,
    Order,
    Readiness,
    Ready,
    Refused,
    Unclear,
    Unfit,
    Unreadable,
)
from cualify_dialer.providers.bolna_says import (
    ListedRow,
    execution_id_in,
    heard_in,
    listed,
    redials_by_itself,
    snapshot_in,
)
from cualify_dialer.providers.http import JSON, Http, json_in
from cualify_shared.clock import now as utc_now, rfc3339
from cualify_shared.events.call import E164

PAGE_SIZE = 50
PAGES_LIMIT = 200
CLOCKS_DIFFER_BY = timedelta(seconds=60)
ACCEPTED_WITHIN = timedelta(minutes=15)
READ_BACK_EVERY = timedelta(minutes=5)
READ_BACK_AGAIN_AFTER = timedelta(seconds=5)
AGENTS_REMEMBERED = 10_000
NOT_STOPPABLE = frozenset({400, 409})
"""Answers to a stop once the execution is being dialed. A 404 may be of one that is not to be seen there yet."""


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
        self._url = url.rstrip("/")
        self._http = Http(self.name, headers={"Authorization": f"Bearer {api_key}"}, timeout_sec=timeout_sec)
        self._agents: dict[str, tuple[datetime, Readiness]] = {}

    @property
    def dial_timeout_sec(self) -> float:
        """One request."""
        return self._http.dial_timeout_sec

    def open(self) -> AbstractAsyncContextManager[None]:
        """Opens what the rest needs."""
        return self._http.open()

    def readiness(self, agent_id: str) -> Readiness | None:
        """What its reading back gave, for as long as that counts."""
        known = self._agents.get(agent_id)
        return known[1] if known is not None and utc_now() < known[0] else None

    async def find_out(self, agent_id: str) -> None:
        """Reads the agent back. What could not be read, or must not be used, is read again soon."""
        verdict = await self._verdict(agent_id)
        while len(self._agents) >= AGENTS_REMEMBERED:
            del self._agents[next(iter(self._agents))]
        counts_for = READ_BACK_EVERY if isinstance(verdict, Ready) else READ_BACK_AGAIN_AFTER
        self._agents[agent_id] = (utc_now() + counts_for, verdict)

    async def dial(self, order: Order) -> Answer:
        """Exactly one `POST /call`."""
        try:
            body = _create_call(order)
        except ValueError as error:
            return Refused(f"the request would break Bolna's contract: {type(error).__name__}")
        return await self._http.dial(f"{self._url}/call", body=body, kind=JSON, execution_id_in=execution_id_in)

    async def look_up(self, order: Order, *, now: datetime) -> LookUp:
        """By the execution's id, or among all that the agent dialed around that time."""
        if order.execution_id is not None:
            return await self._read(order.execution_id)
        return await self._find(order, now=now)

    async def hang_up(self, execution_id: str) -> HangUp:
        """`POST /call/{id}/stop`: only what is not yet being dialed can be stopped."""
        return await self._http.hang_up(f"{self._url}/call/{quote(execution_id, safe='')}/stop", too_late=NOT_STOPPABLE)

    def parse_callback(self, request: CallbackRequest) -> Callback:
        """A callback's body is the execution itself, sometimes with a `cualify_event` of the agent's beside it.

        What is needed of it is where the call stands: how it ended is taken from the look-up only.
        """
        return heard_in(json_in(request.body)) or NotACall()

    async def _verdict(self, agent_id: str) -> Readiness:
        status, body = await self._http.get(f"{self._url}/v2/agent/{quote(agent_id, safe='')}")
        if status == 404:
            return Unfit("Bolna has no such agent", "provider_refused")
        if status != 200 or not isinstance(body, dict):
            return Unreadable(f"answered {status}" if status else str(body))
        switch = redials_by_itself(body)
        return Unfit(f"the agent has {switch} on", "provider_misconfigured") if switch else Ready()

    async def _read(self, execution_id: str) -> LookUp:
        """`GET /executions/{id}`."""
        status, body = await self._http.get(f"{self._url}/executions/{quote(execution_id, safe='')}")
        if status == 404:
            return Missing()
        snapshot = snapshot_in(body) if status == 200 else None
        if snapshot is None:
            return Unclear(f"answered {status}" if status else str(body))
        return Found(snapshot)

    async def _find(self, order: Order, *, now: datetime) -> LookUp:
        """Lists what the agent dialed around that time, reads every row that may be ours, compares our reference.

        Of two the one that waits is the other one: it can still be stopped.
        """
        rows = await self._rows(order, now=now)
        if isinstance(rows, Unclear):
            return rows
        looks = await asyncio.gather(*(self._read(row.execution_id) for row in rows if row.may_ring(order.to_e164)))
        ours = sorted(
            (look.snapshot for look in looks if isinstance(look, Found) and look.snapshot.ref == order.ref),
            key=lambda snapshot: (snapshot.is_waiting, snapshot.created_at or now, snapshot.execution_id),
        )
        if ours:
            return Found(ours[0], others=tuple(snapshot.execution_id for snapshot in ours[1:]))
        unclear = [look for look in looks if isinstance(look, Unclear)]
        return unclear[0] if unclear else Missing()

    async def _rows(self, order: Order, *, now: datetime) -> Sequence[ListedRow] | Unclear:
        """Every row of every page; rows move between pages while one reads, so each id is kept once."""
        rows: dict[str, ListedRow] = {}
        for page_number in range(1, PAGES_LIMIT + 1):
            status, body = await self._http.get(
                f"{self._url}/v2/agent/{quote(order.agent_id, safe='')}/executions", _window(order, now, page_number)
            )
            page = listed(body) if status == 200 else None
            if page is None:
                return Unclear(f"the list answered {status}" if status else str(body))
            rows.update((row.execution_id, row) for row in page.rows)
            if not page.has_more:
                return list(rows.values())
        return Unclear(f"the list has more than {PAGES_LIMIT} pages")


def _create_call(order: Order) -> bytes:
    body = CreateCall(
        agent_id=order.agent_id,
        recipient_phone_number=order.to_e164,
        from_phone_number=order.from_e164,
        user_data=UserData(cualify_ref=order.ref),
    )
    return body.model_dump_json(exclude_none=True).encode()


def _window(order: Order, now: datetime, page_number: int) -> dict[str, str]:
    """When the execution can have been created, by a clock that may differ from ours. `from` and `to` go together."""
    return {
        "from": rfc3339(order.asked_at - CLOCKS_DIFFER_BY),
        "to": rfc3339(max(order.asked_at, min(now, order.asked_at + ACCEPTED_WITHIN))),
        "call_type": "outbound",
        "page_number": str(page_number),
        "page_size": str(PAGE_SIZE),
    }
