"""What lowers a wallet other than a call. The api has set the money aside before it asks: see decision 5.

Each id is decided once, posted or refused, and the decision is kept: a repeat gets the same answer.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from cualify_billing import ledger
from cualify_billing.ledger import Reduction, ReductionKind
from cualify_shared.database import Connection

REFUSALS: TypeAlias = Literal["insufficient_balance", "unknown_payment", "too_late", "more_than_was_paid"]


@dataclass(frozen=True, slots=True)
class Refunded:
    """The wallet after it. `repeated`: it was posted before, and this is the balance it had then."""

    transfer: str
    amount_paise: int
    balance_paise: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class NotRefunded:
    """Refused, for good: nothing moved, and nothing will under this id."""

    reason: str


@dataclass(frozen=True, slots=True)
class OtherRefund:
    """The id was used before with another body. Nothing moved."""


Outcome: TypeAlias = Refunded | NotRefunded | OtherRefund


async def decide(connection: Connection, wanted: Reduction, *, reason: str | None, within: timedelta) -> Outcome:
    """Posts or refuses a refund, once for each id. `within` is how long after a payment it can be refunded."""
    await ledger.lock_wallet(connection, wanted.org_id)
    before = await _decided_before(connection, wanted)
    if before is not None:
        return before
    balance_paise, refused_why = await _judge(connection, wanted, within)
    if refused_why is None:
        balance_paise -= wanted.amount_paise
    if not await _record(connection, wanted, reason, refused_why, balance_paise):
        # Another org's request under the same id was decided meanwhile: its wallet's lock is not ours.
        return await _decided_before(connection, wanted) or OtherRefund()
    if refused_why is not None:
        return NotRefunded(refused_why)
    posted = await ledger.reduce(connection, wanted)
    assert posted.balance_paise == balance_paise, "the wallet is locked"
    return Refunded(wanted.name, wanted.amount_paise, balance_paise, repeated=False)


BEFORE = """
SELECT org_id, kind, amount_paise, payment_id, refused_why, balance_paise
FROM refunds
WHERE id = $1
"""


async def _decided_before(connection: Connection, wanted: Reduction) -> Outcome | None:
    row = await connection.fetchrow(BEFORE, wanted.refund_id)
    if row is None:
        return None
    known: tuple[UUID, ReductionKind, int, str | None] = tuple(row)[:4]
    if known != (wanted.org_id, wanted.kind, wanted.amount_paise, wanted.payment_id):
        return OtherRefund()
    if row["refused_why"] is not None:
        return NotRefunded(row["refused_why"])
    return Refunded(wanted.name, wanted.amount_paise, row["balance_paise"], repeated=True)


JUDGE = """
SELECT
    accounts.balance_paise,
    payment.amount_paise AS paid_paise,
    payment.created_at AS paid_at,
    (
        SELECT coalesce(sum(refunds.amount_paise), 0)::bigint
        FROM refunds
        WHERE refunds.payment_id = $2::text AND refunds.org_id = $1 AND refused_why IS NULL
    ) AS refunded_paise,
    clock_timestamp() AS at
FROM accounts
LEFT JOIN transfers AS payment
    ON payment.name = 'topup:' || $2::text AND payment.org_id = $1 AND payment.kind = 'top_up'
WHERE accounts.org_id = $1
"""


async def _judge(connection: Connection, wanted: Reduction, within: timedelta) -> tuple[int, REFUSALS | None]:
    row = await connection.fetchrow(JUDGE, wanted.org_id, wanted.payment_id)
    assert row is not None, "the wallet was opened and locked before"
    balance_paise: int = row["balance_paise"]
    if wanted.payment_id is not None:
        paid_paise: int | None = row["paid_paise"]
        paid_at: datetime | None = row["paid_at"]
        if paid_paise is None or paid_at is None:
            return balance_paise, "unknown_payment"
        if wanted.kind == "refund" and row["at"] - paid_at > within:
            return balance_paise, "too_late"
        if row["refunded_paise"] + wanted.amount_paise > paid_paise:
            return balance_paise, "more_than_was_paid"
    return balance_paise, "insufficient_balance" if balance_paise < wanted.amount_paise else None


RECORD = """
INSERT INTO refunds (id, org_id, kind, amount_paise, payment_id, reason, refused_why, balance_paise)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING id
"""


async def _record(
    connection: Connection, wanted: Reduction, reason: str | None, refused_why: str | None, balance_paise: int
) -> bool:
    recorded = await connection.fetchval(
        RECORD,
        wanted.refund_id,
        wanted.org_id,
        wanted.kind,
        wanted.amount_paise,
        wanted.payment_id,
        reason,
        refused_why,
        balance_paise,
    )
    return recorded is not None
