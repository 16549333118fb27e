"""Calling a call off. The wish is written down and leaves for the dialer in one transaction, once, in any state that is
not the end; what becomes of it is told by the call's end."""

from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from cualify_api.calls import queries
from cualify_api.calls.call import Call, TimelineEntry
from cualify_api.web.errors import Problem
from cualify_shared import faults, outbox
from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool
from cualify_shared.events import Event
from cualify_shared.events.call import CallCancelRequested

log = structlog.get_logger(__name__)
ENTRY: Final = "cancel-requested"


async def cancel(pool: Pool, *, org_id: UUID, call_id: UUID, request_id: str) -> bool:
    """Whether the wish is new. A repeat changes nothing, also after the call has ended.

    Raises:
        Problem: there is no such call, or it was over before anybody wished to cancel it.
    """
    async with pool.acquire() as connection, connection.transaction():
        call = await queries.locked_one(connection, org_id, call_id)
        if call is None:
            raise Problem("not_found", "there is no such call")
        if call.cancel_requested_at is not None or call.status == "canceled":
            return False
        if call.is_over:
            raise Problem("conflict", f"the call is over: {call.status}", details={"status": call.status})
        await _write(connection, call, at=now(), request_id=request_id)
    faults.point("api.cancel.committed")
    log.info("call_cancel_requested", call_id=str(call_id), org_id=str(org_id), status=call.status)
    return True


async def _write(connection: Connection, call: Call, *, at: datetime, request_id: str) -> None:
    sequence = await queries.cancel(connection, call.org_id, call.id, at=at)
    entry = TimelineEntry(call.id, call.org_id, queries.SOURCE, sequence, ENTRY, at, {})
    await queries.add_to_timeline(connection, [entry])
    wish = Event(
        data=CallCancelRequested(call_id=call.id, org_id=call.org_id, requested_at=at),
        org_id=call.org_id,
        key=call.id,
        subject=f"call/{call.id}",
        sequence=sequence,
        time=at,
        correlation_id=request_id,
    )
    await outbox.put(connection, [wish])
