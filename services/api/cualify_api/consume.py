"""Kafka in: what the dialer and billing say is folded into the calls and the credit, a batch in one transaction.

The order of locks is the same everywhere: calls by id, credit by org, then counts, then feeds by org. A fact about a
call or an org that is not ours can't be handled, and goes to the dead letters.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeGuard
from uuid import UUID

import structlog
from prometheus_client import Counter

from cualify_api.calls import queries, terms, totals
from cualify_api.calls.acceptance import Waiting
from cualify_api.calls.call import Call, TimelineEntry
from cualify_api.calls.fold import Fact, entry, fold
from cualify_api.calls.tell import NOTIFIED, Notice, tell, with_timelines
from cualify_api.wallet import queries as wallet, reductions
from cualify_api.wallet.low_balance import low_balances
from cualify_shared.clock import now
from cualify_shared.database import Connection
from cualify_shared.events import Event, EventData
from cualify_shared.events.call import (
    CallCompleted,
    CallDialing,
    CallDisclosurePlayed,
    CallFailed,
    CallHandoffRequested,
    CallInProgress,
    CallIntentDetected,
    CallProviderAccepted,
    CallRecordingReady,
    CallRetryScheduled,
    CallTranscriptReady,
)
from cualify_shared.events.topics import CALL_ARTIFACTS, CALL_EVENTS, WALLET_EVENTS
from cualify_shared.events.wallet import (
    PlanActivated,
    PlanExpired,
    WalletCredited,
    WalletDebited,
    WalletLowBalance,
    WalletRefunded,
)
from cualify_shared.reads import AfterCommit, Read

log = structlog.get_logger(__name__)

CALLS = Counter("cualify_calls_total", "Calls that have ended, by how.", ["status"])

LIFE: Final = (
    CallDialing,
    CallProviderAccepted,
    CallRetryScheduled,
    CallInProgress,
    CallDisclosurePlayed,
    CallIntentDetected,
    CallHandoffRequested,
    CallCompleted,
    CallFailed,
)
ARTIFACTS: Final = (CallTranscriptReady, CallRecordingReady)
MONEY: Final = (WalletCredited, WalletDebited, WalletRefunded, WalletLowBalance, PlanActivated, PlanExpired)


class UnknownCall(Exception):
    """An event about a call that was never placed here, or that is another org's."""


class UnknownOrg(Exception):
    """An event about an org that does not exist here."""


def reads(waiting: Waiting | None = None) -> tuple[Read, ...]:
    """The three topics that the api reads. Who waits for a call to be accepted is woken after the COMMIT."""

    async def on_life(connection: Connection, events: Sequence[Event]) -> AfterCommit | None:
        changes = await _fold_in(connection, events)
        await _write(connection, changes)

        def committed() -> None:
            _tell_of(changes)
            if waiting is not None:
                waiting.wake([after for _, after in changes.calls])

        return committed

    return (
        Read(CALL_EVENTS, LIFE, on_life),
        Read(CALL_ARTIFACTS, ARTIFACTS, on_call_events),
        Read(WALLET_EVENTS, MONEY, on_wallet_events),
    )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch does to calls: (before, after), timeline entries, notifications, transcripts by (call, org)."""

    calls: Sequence[tuple[Call, Call]]
    entries: Sequence[TimelineEntry]
    notices: Sequence[Notice]


async def on_call_events(connection: Connection, events: Sequence[Event]) -> AfterCommit | None:
    """`call.artifacts`: transcript, recording. (`call.events` the same way: status, timeline, outcome.)"""
    changes = await _fold_in(connection, events)
    await _write(connection, changes)
    return lambda: _tell_of(changes)


async def on_wallet_events(connection: Connection, events: Sequence[Event]) -> AfterCommit | None:
    """`wallet.events`: the cost of a call, with its hold released; credit; refunds; plans; a low balance."""
    changes = await _fold_in(connection, [event for event in events if isinstance(event.data, WalletDebited)])
    credited = await wallet.apply_credits(
        connection, [event.data for event in events if isinstance(event.data, WalletCredited)]
    )
    await _change_credit(connection, {event.org_id for event in events}, settled=changes.calls, credited=credited)
    await reductions.fold_posted(connection, [event.data for event in events if isinstance(event.data, WalletRefunded)])
    await wallet.apply_plans(connection, events)
    low = await low_balances(connection, events, at=now())
    await _write(connection, changes, more=low)
    return lambda: _tell_of(changes)


async def _fold_in(connection: Connection, events: Sequence[Event]) -> Changes:
    """The calls are locked here; nothing is written yet."""
    at = now()
    before = await queries.locked(connection, [_fact(event).call_id for event in events])
    after, notices = dict(before), list[Notice]()
    entries: dict[UUID, list[TimelineEntry]] = defaultdict(list)
    for event in events:
        fact = _fact(event)
        call = after.get(fact.call_id)
        if call is None or call.org_id != fact.org_id:
            raise UnknownCall(f"{event.type.name} is about call {fact.call_id}, which this org never placed here")
        folded = fold(call, fact, at=at)
        after[call.id] = folded.call
        if line := entry(event, fact):
            entries[call.id].append(line)
        if folded.tell:
            notices.append(Notice(folded.tell, folded.call, tuple(entries[call.id])))
    await queries.add_transcripts(connection, _transcripts(events))
    changed = [(before[id], after[id]) for id in before if before[id] != after[id]]
    return Changes(changed, list(chain.from_iterable(entries.values())), notices)


async def _write(connection: Connection, changes: Changes, *, more: Sequence[Event] = ()) -> None:
    await queries.change(connection, [after for _, after in changes.calls])
    notices = await with_timelines(connection, changes.notices)
    await queries.add_to_timeline(connection, changes.entries)
    moved = [(before, after) for before, after in changes.calls if before.status != after.status]
    await queries.count(connection, [(after.org_id, before.status, after.status) for before, after in moved])
    await totals.count_ended(
        connection, [after for before, after in changes.calls if after.is_over and not before.is_over]
    )
    await tell(connection, notices, more=more, at=now())


async def _change_credit(
    connection: Connection,
    org_ids: set[UUID],
    *,
    settled: Sequence[tuple[Call, Call]],
    credited: Sequence[tuple[UUID, int]],
) -> None:
    """Grants what came in, takes what calls cost, and releases their holds: per org one change, under its lock."""
    known = await terms.locked_credit(connection, list(org_ids))
    if unknown := org_ids - known.keys():
        raise UnknownOrg(f"no such org here: {sorted(unknown)[0]}")
    sums: dict[UUID, tuple[int, int]] = {}
    for org_id, paise in credited:
        granted, held = sums.get(org_id, (0, 0))
        sums[org_id] = (granted + paise, held)
    for before, after in settled:
        if after.debited_paise is not None and not before.is_settled:
            granted, held = sums.get(after.org_id, (0, 0))
            sums[after.org_id] = (granted - after.debited_paise, held - after.hold_paise)
    await terms.change_credit(connection, sums)


def _fact(event: Event) -> Fact:
    if not _is_fact(event.data):
        raise TypeError(f"{event.type.name} says nothing about a call")
    return event.data


def _is_fact(data: EventData) -> TypeGuard[Fact]:
    return isinstance(data, (*LIFE, *ARTIFACTS, WalletDebited))


def _transcripts(events: Sequence[Event]) -> dict[tuple[UUID, UUID], object]:
    said: dict[tuple[UUID, UUID], object] = {}
    for event in events:
        if isinstance(event.data, CallTranscriptReady):
            turns = [turn.model_dump(mode="json") for turn in event.data.transcript]
            said.setdefault((event.data.call_id, event.data.org_id), turns)
    return said


def _tell_of(changes: Changes) -> None:
    for before, after in changes.calls:
        if after.is_over and not before.is_over:
            CALLS.labels(after.status).inc()
            _log(after, "call_ended", status=after.status, reason=after.ended_reason, duration_sec=after.duration_sec)
        if after.is_settled and not before.is_settled:
            _log(after, "call_settled", hold_paise=after.hold_paise, debited_paise=after.debited_paise)
    for notice in changes.notices:
        NOTIFIED.labels(notice.name).inc()
        _log(notice.call, "customer_notified", type=notice.name, sequence=notice.call.customer_sequence)


def _log(call: Call, what: str, **more: object) -> None:
    log.info(what, call_id=str(call.id), org_id=str(call.org_id), **more)
