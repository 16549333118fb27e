"""`Prefer: wait=N` (RFC 7240): the 201 is held until the provider is known to have accepted, or for N seconds.

That it has is told by `call.events`: `call.provider_accepted` with its execution's id, or an end that no refusal was.
The fold in this process wakes who waits at once; a fold in another replica is found by looking, four times a second,
for all who wait here in one query. `call.dialing` is no acceptance: it is said before the provider is asked.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from cualify_api.calls import queries
from cualify_api.calls.call import Call
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import until_any

log = structlog.get_logger(__name__)

LONGEST_SEC: Final = 10
MOST_WAITING: Final = 1_000
LOOK_EVERY_SEC: Final = 0.25
REFUSALS: Final = frozenset({"provider_refused", "provider_unavailable", "balance_low"})
"""Ends of calls that no provider took. (One that was called off or came too late was refused by nobody.)"""
_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9})"?')


@dataclass(frozen=True, slots=True)
class Taken:
    """The provider has the call, or nobody refused it."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The provider refused it, and the call is over."""

    ended_reason: str


def wished_sec(prefer: str | None) -> int | None:
    """N of `Prefer: wait=N`, at most ten; None where there is none, or one that makes no sense: it is a wish."""
    for wish in (prefer or "")[:200].lower().split(","):
        if match := _WAIT.fullmatch(wish.partition(";")[0].strip()):
            return min(int(match.group(1)), LONGEST_SEC)
    return None


def acceptance(call: Call) -> Taken | NotTaken | None:
    """What is known; None while nothing is."""
    if call.is_over and call.ended_reason in REFUSALS:
        return NotTaken(call.ended_reason)
    is_taken = call.provider_execution_id is not None or call.started_at is not None or call.status == "in_progress"
    return Taken() if is_taken or call.is_over else None


class Waiting:
    """Who waits in this process, by call."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waits: dict[UUID, asyncio.Future[Taken | NotTaken]] = {}
        self._somebody = asyncio.Event()

    async def until_taken(self, call_id: UUID, *, seconds: float) -> Taken | NotTaken | None:
        """What became known in that time; None: nothing yet, or too many wait already."""
        if len(self._waits) >= MOST_WAITING or seconds <= 0:
            return None
        wait = self._waits[call_id] = asyncio.get_running_loop().create_future()
        self._somebody.set()
        try:
            return await asyncio.wait_for(wait, seconds)
        except TimeoutError:
            return None
        finally:
            self._waits.pop(call_id, None)

    def wake(self, calls: Sequence[Call]) -> None:
        """Called after the COMMIT of a fold."""
        if not self._waits:
            return
        for call in calls:
            wait, known = self._waits.get(call.id), acceptance(call)
            if wait is not None and known is not None and not wait.done():
                wait.set_result(known)

    async def look(self, stop: asyncio.Event) -> None:
        """The loop that finds what was folded elsewhere."""
        while not stop.is_set():
            if not self._waits:
                self._somebody.clear()
                await until_any(self._somebody, stop, seconds=60)
                continue
            await until_any(stop, seconds=LOOK_EVERY_SEC)
            try:
                self.wake(await queries.read(self._pool, list(self._waits)))
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("acceptance_not_read", error=repr(error))
