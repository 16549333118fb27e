"""The one way in which a call changes: lock, fold purely, write, and tell, in one transaction.

Answers to our requests, callbacks, look-ups, wishes to cancel and the gate's decisions all pass here. Because the job's
row is locked first, its counters are the gapless sequences of its events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from cualify_dialer import metrics, outcomes, queries
from cualify_dialer.model import Call, CallState, Noted, Pace
from cualify_dialer.outcomes import Alarm
from cualify_shared import outbox
from cualify_shared.database import Connection
from cualify_shared.events import Event, EventData, type_of
from cualify_shared.events.topics import CALL_ARTIFACTS
from cualify_shared.logs import about

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written. To be told to the log and the metrics once it is committed."""

    before: dict[UUID, Call]
    after: dict[UUID, Call]
    alarms: tuple[tuple[Call, Alarm], ...] = ()

    @property
    def ended(self) -> list[Call]:
        """Calls that reached their end here."""
        return [
            call
            for key, call in self.after.items()
            if call.state is CallState.ENDED and self.before[key].state is not CallState.ENDED
        ]

    @property
    def makes_room(self) -> bool:
        """Whether somebody may be dialed now who could not be before: it waits again, or a line or a number is free."""
        return any(
            call.waits or call.lines < self.before[key].lines or _frees_its_number(self.before[key], call)
            for key, call in self.after.items()
            if call is not self.before[key]
        )

    def report(self) -> None:
        """After the COMMIT: one line for each call that ended, one for each alarm."""
        for call in self.ended:
            metrics.CALLS_ENDED.labels(call.status, call.ended_reason).inc()
            with about(call_id=call.call_id, org_id=call.request.org_id):
                log.info("call_ended", status=call.status, reason=call.ended_reason, attempts=len(call.attempts))
        for call, alarm in self.alarms:
            ALARM_COUNTERS[alarm].inc()
            with about(call_id=call.call_id, org_id=call.request.org_id):
                log.error("call_alarm", alarm=str(alarm))


ALARM_COUNTERS = {
    Alarm.OUTCOME_UNKNOWN: metrics.OUTCOMES_UNKNOWN,
    Alarm.SECOND_EXECUTION: metrics.SECOND_EXECUTIONS,
    Alarm.LATE_NEWS: metrics.LATE_NEWS,
    Alarm.OVERRUN: metrics.OVERRUNS,
}


async def apply(connection: Connection, noted: Sequence[Noted], *, now: datetime, pace: Pace) -> Changes:
    """Folds what was learnt into its calls, in this order, within the running transaction."""
    calls = await queries.locked_calls(connection, [one.call_id for one in noted])
    return await write(connection, calls, noted, now=now, pace=pace)


async def write(
    connection: Connection, calls: dict[UUID, Call], noted: Sequence[Noted], *, now: datetime, pace: Pace
) -> Changes:
    """The same for calls that this transaction has locked already."""
    after = dict(calls)
    events: list[Event] = []
    alarms: list[tuple[Call, Alarm]] = []
    for one in noted:
        if one.call_id not in after:
            continue
        step = outcomes.fold(after[one.call_id], one.learnt, now=now, pace=pace)
        call, told = _numbered(step.call, step.told, now=now)
        after[one.call_id] = call
        events += told
        alarms += [(call, alarm) for alarm in step.alarms]
    changes = Changes(calls, after, tuple(alarms))
    await _save(connection, changes)
    await outbox.put(connection, events)
    return changes


def _numbered(call: Call, told: Sequence[EventData], *, now: datetime) -> tuple[Call, list[Event]]:
    """Events with the next sequences of their topics."""
    events: list[Event] = []
    for data in told:
        if type_of(data).topic is CALL_ARTIFACTS:
            call = replace(call, artifact_sequence=call.artifact_sequence + 1)
            sequence = call.artifact_sequence
        else:
            call = replace(call, event_sequence=call.event_sequence + 1)
            sequence = call.event_sequence
        events.append(
            Event(
                data=data,
                org_id=call.request.org_id,
                key=call.call_id,
                subject=f"call/{call.call_id}",
                sequence=sequence,
                time=now,
                correlation_id=call.correlation_id or str(call.call_id),
            )
        )
    return call, events


async def _save(connection: Connection, changes: Changes) -> None:
    changed = [call for key, call in changes.after.items() if call != changes.before[key]]
    if not changed:
        return
    await queries.write_jobs(connection, changed)
    old = {attempt for call in changes.before.values() for attempt in call.attempts}
    attempts = [(call, attempt) for call in changed for attempt in call.attempts if attempt not in old]
    if attempts:
        await queries.write_attempts(connection, attempts)
    freed = [call.request.to_e164 for call in changed if _frees_its_number(changes.before[call.call_id], call)]
    if freed:
        await queries.put_freed_numbers(connection, freed)


def _frees_its_number(before: Call, after: Call) -> bool:
    """Whether whoever waits behind this call's number may have to be looked at again."""
    if before.holds_its_number:
        return not after.holds_its_number
    puts_itself_off = after.next_at > before.next_at or after.provider != before.provider
    return before.waits and (after.state is CallState.ENDED or puts_itself_off)
