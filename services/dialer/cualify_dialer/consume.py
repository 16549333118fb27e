"""What comes in from Kafka: calls that were asked for, and wishes to cancel. Harmless to repeat, in any order."""

from collections.abc import Callable, Sequence
from datetime import datetime

from cualify_dialer import queries
from cualify_dialer.apply import apply
from cualify_dialer.model import CancelWanted, Noted, Pace
from cualify_dialer.queries import Requested
from cualify_shared.clock import now as utc_now
from cualify_shared.database import Connection
from cualify_shared.events import Event
from cualify_shared.events.call import CallCancelRequested, CallRequested
from cualify_shared.events.topics import CALL_REQUESTS
from cualify_shared.reads import AfterCommit, Read


def call_requests(*, pace: Pace, changed: Callable[[], None], clock: Callable[[], datetime] = utc_now) -> Read:
    """The topic `call.requests`. `changed` is called after a commit that left something to be done at once."""

    async def on_call_requests(connection: Connection, events: Sequence[Event]) -> AfterCommit | None:
        requests = [
            Requested(event.data, event.correlation_id) for event in events if isinstance(event.data, CallRequested)
        ]
        wishes = [event.data for event in events if isinstance(event.data, CallCancelRequested)]
        new = await queries.put_jobs(connection, requests) if requests else {}
        noted = [Noted(call_id, CancelWanted(at)) for call_id, at in new.items() if at is not None]
        if wishes:
            await queries.put_tombstones(connection, wishes)
            noted += [Noted(wish.call_id, CancelWanted(wish.requested_at)) for wish in wishes]
        changes = await apply(connection, noted, now=clock(), pace=pace) if noted else None

        def after_commit() -> None:
            if changes is not None:
                changes.report()
            if new or wishes:
                changed()

        return after_commit

    return Read(CALL_REQUESTS, (CallRequested, CallCancelRequested), on_call_requests)
