"""What does not fit a settlement is kept beside the ledger: ends that contradict it, and calls beyond their terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_billing.price import Bill
from cualify_shared.database import Connection
from cualify_shared.events import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Debit:
    """A call that ended, and its price. `event_id` is the event that said so."""

    call_id: UUID
    org_id: UUID
    event_id: UUID
    call_status: str
    duration_sec: int
    terms: Terms
    bill: Bill
    ended_at: datetime
    provider_cost_cents: float | None = None

    @property
    def name(self) -> str:
        """The business fact: a call is debited once."""
        return f"debit:{self.call_id}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """An end of a call that contradicts the one that was settled. Nothing moved."""

    transfer: str
    call_id: UUID
    org_id: UUID
    settled_paise: int
    amount_paise: int


RECORD_CONFLICTS = """
WITH repeat AS (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::integer[], $7::bigint[])
         AS r (event_id, transfer, call_id, org_id, call_status, duration_sec, amount_paise)
),
recorded AS (
    INSERT INTO settlement_conflicts (
        event_id, transfer, org_id, call_status, duration_sec, amount_paise, settled_paise
    )
    SELECT
        repeat.event_id, repeat.transfer, repeat.org_id, repeat.call_status, repeat.duration_sec, repeat.amount_paise,
        transfers.amount_paise
    FROM repeat
    JOIN transfers ON transfers.name = repeat.transfer
    WHERE (repeat.org_id, repeat.call_status, repeat.duration_sec, repeat.amount_paise)
          IS DISTINCT FROM
          (transfers.org_id, transfers.call_status, transfers.duration_sec, transfers.amount_paise)
    ORDER BY repeat.event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id, settled_paise
)
SELECT DISTINCT ON (repeat.event_id)
    repeat.transfer, repeat.call_id, repeat.org_id, recorded.settled_paise, repeat.amount_paise
FROM recorded
JOIN repeat USING (event_id)
"""


async def record_conflicts(connection: Connection, repeats: Sequence[Debit]) -> list[Conflict]:
    """Keeps, once for each event, what contradicts a settled call."""
    if not repeats:
        return []
    rows = await connection.fetch(
        RECORD_CONFLICTS,
        [repeat.event_id for repeat in repeats],
        [repeat.name for repeat in repeats],
        [repeat.call_id for repeat in repeats],
        [repeat.org_id for repeat in repeats],
        [repeat.call_status for repeat in repeats],
        [repeat.duration_sec for repeat in repeats],
        [repeat.bill.amount_paise for repeat in repeats],
    )
    return [Conflict(**row) for row in rows]


RECORD_DISCREPANCIES = """
INSERT INTO discrepancies (call_id, org_id, kind, allowed, found, unbilled_paise)
SELECT call_id, org_id, kind, allowed, found, unbilled_paise
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
     AS d (call_id, org_id, kind, allowed, found, unbilled_paise)
ON CONFLICT DO NOTHING
"""


async def record_discrepancies(connection: Connection, debits: Sequence[Debit]) -> None:
    """Keeps which calls outlasted or outpriced what they were accepted for, and what that costs us."""
    found = [row for debit in debits if debit.bill.capped for row in _discrepancies(debit)]
    if found:
        await connection.execute(RECORD_DISCREPANCIES, *(list(column) for column in zip(*found, strict=True)))


def _discrepancies(debit: Debit) -> list[tuple[object, ...]]:
    terms, bill, call = debit.terms, debit.bill, (debit.call_id, debit.org_id)
    rows: list[tuple[object, ...]] = []
    if debit.duration_sec > terms.max_duration_sec:
        seconds = (terms.max_duration_sec, debit.duration_sec)
        rows.append((*call, "duration_beyond_max", *seconds, bill.duration_beyond_max_paise))
    if bill.price_beyond_hold_paise:
        price_paise = terms.hold_paise + bill.price_beyond_hold_paise
        rows.append((*call, "price_beyond_hold", terms.hold_paise, price_paise, bill.price_beyond_hold_paise))
    return rows
