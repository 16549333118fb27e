"""Kafka in: each end of a call becomes one debit, at the terms it was accepted at. A failed call is debited 0 paise."""

from collections.abc import Sequence

import structlog
from prometheus_client import Counter

from cualify_billing import ledger, price
from cualify_billing.ledger import Settlement
from cualify_billing.settlement import Debit
from cualify_shared.database import Connection
from cualify_shared.events import Event
from cualify_shared.events.call import CallCompleted, CallFailed
from cualify_shared.events.topics import CALL_EVENTS
from cualify_shared.reads import AfterCommit, Read

log = structlog.get_logger(__name__)

CAPPED = Counter("cualify_debits_capped_total", "Calls that talked longer, or cost more, than they were accepted for.")
CONFLICTS = Counter("cualify_settlement_conflicts_total", "Ends of calls that contradict the one that was settled.")


async def on_call_events(connection: Connection, events: Sequence[Event]) -> AfterCommit:
    """Debits the calls that ended. The same events again, in any order or elsewhere at once, change nothing."""
    settlement = await ledger.debit_calls(connection, [_debit(event) for event in events])
    return lambda: _tell(settlement)


READS = (Read(CALL_EVENTS, (CallCompleted, CallFailed), on_call_events),)


def _debit(event: Event) -> Debit:
    ended = event.data
    assert isinstance(ended, CallCompleted | CallFailed), "the reads hand in what was asked for"
    completed = isinstance(ended, CallCompleted)
    return Debit(
        call_id=ended.call_id,
        org_id=ended.org_id,
        event_id=event.id,
        call_status=ended.status,
        duration_sec=ended.duration_sec,
        terms=ended.terms,
        bill=price.bill(ended.terms, duration_sec=ended.duration_sec) if completed else price.NOTHING,
        ended_at=ended.ended_at,
        provider_cost_cents=ended.provider_cost_cents,
    )


def _tell(settlement: Settlement) -> None:
    ledger.TRANSFERS.labels("call_debit").inc(len(settlement.debited))
    CAPPED.inc(sum(debit.bill.capped for debit, _ in settlement.debited))
    CONFLICTS.inc(len(settlement.conflicts))
    for debit, posted in settlement.debited:
        log.info(
            "call_debited",
            call_id=str(debit.call_id),
            org_id=str(debit.org_id),
            amount_paise=debit.bill.amount_paise,
            balance_paise=posted.balance_paise,
            duration_sec=debit.duration_sec,
            capped=debit.bill.capped,
        )
    for conflict in settlement.conflicts:
        log.error(
            "settlement_conflict",
            call_id=str(conflict.call_id),
            org_id=str(conflict.org_id),
            settled_paise=conflict.settled_paise,
            amount_paise=conflict.amount_paise,
        )
