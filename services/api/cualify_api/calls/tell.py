"""Telling customers: the call as GET shows it, written in the transaction that makes GET show it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter

from cualify_api.calls import queries
from cualify_api.calls.call import Call, TimelineEntry
from cualify_api.calls.fold import Folded, Notification, told_late
from cualify_api.calls.view import told
from cualify_api.feed import queries as feed
from cualify_shared import outbox
from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool, is_passing
from cualify_shared.events import Event
from cualify_shared.events.customer import (
    CustomerCallArtifactsReady,
    CustomerCallBilled,
    CustomerCallCompleted,
    CustomerCallDialing,
    CustomerCallEvent,
    CustomerCallFailed,
    CustomerCallInProgress,
)
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)
LATE_AT_ONCE: Final = 200
NOTIFIED = Counter("cualify_notifications_total", "What customers were told.", ["type"])

_MODEL: Final[Mapping[Notification, type[CustomerCallEvent]]] = {
    "call.dialing": CustomerCallDialing,
    "call.in_progress": CustomerCallInProgress,
    "call.completed": CustomerCallCompleted,
    "call.failed": CustomerCallFailed,
    "call.billed": CustomerCallBilled,
    "call.artifacts_ready": CustomerCallArtifactsReady,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to be told of a call; its number is the call's `customer_sequence`."""

    name: Notification
    call: Call
    timeline: Sequence[TimelineEntry] = ()
    """Up to it: at first what this transaction adds, then all."""

    def event(self, *, at: datetime) -> Event:
        """What goes to Kafka."""
        call = self.call
        return Event(
            data=_MODEL[self.name](call_id=call.id, org_id=call.org_id, call=told(call, timeline=self.timeline)),
            org_id=call.org_id,
            key=call.id,
            subject=f"call/{call.id}",
            sequence=call.customer_sequence,
            time=at,
            correlation_id=call.request_id,
        )


async def with_timelines(connection: Connection, notices: Sequence[Notice]) -> list[Notice]:
    """The same with all that happened before. To be asked before this transaction adds to the timelines."""
    if not notices:
        return []
    known: dict[UUID, list[TimelineEntry]] = defaultdict(list)
    for entry in await queries.timelines(connection, [notice.call.id for notice in notices]):
        known[entry.call_id].append(entry)
    return [
        replace(notice, timeline=queries.in_order([*notice.timeline, *known[notice.call.id]])) for notice in notices
    ]


async def tell(connection: Connection, notices: Sequence[Notice], *, more: Sequence[Event] = (), at: datetime) -> None:
    """Writes notifications of calls that this transaction has locked: for the pull feed, and for Kafka.

    `more`: notifications that are about no call. All of a transaction's go in one statement, for the feeds' locks.
    """
    events = [*(notice.event(at=at) for notice in notices), *more]
    if events:
        await feed.add(connection, events)
        await outbox.put(connection, events)


class TellLate:
    """The loop that tells the end of a call although something of the picture is still missing."""

    def __init__(self, pool: Pool, *, complete_within_sec: float, committed: Callable[[], None]) -> None:
        self._pool, self._committed = pool, committed
        self._patience = timedelta(seconds=complete_within_sec)
        self._pause_sec = min(5.0, complete_within_sec / 4)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks a few times a minute."""
        while not await until_set(stop, self._pause_sec):
            try:
                while await self.tell_once() == LATE_AT_ONCE and not stop.is_set():
                    pass
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("tell_late_failed", error=repr(error))

    async def tell_once(self) -> int:
        """Tells up to 200 calls' ends; how many it were."""
        at = now()
        async with self._pool.acquire() as connection, connection.transaction():
            calls = await queries.locked_untold(connection, over_since=at - self._patience, limit=LATE_AT_ONCE)
            folded = [told_late(call) for call in calls]
            await queries.change(connection, [one.call for one in folded])
            notices = [Notice(one.tell, one.call) for one in folded if one.tell]
            await tell(connection, await with_timelines(connection, notices), at=at)
        self._committed()
        for one in folded:
            _note(one)
        return len(calls)


def _note(folded: Folded) -> None:
    call = folded.call
    NOTIFIED.labels(folded.tell).inc()
    log.warning(
        "call_told_incomplete",
        call_id=str(call.id),
        org_id=str(call.org_id),
        settled=call.is_settled,
        artifacts=call.has_its_artifacts,
    )
