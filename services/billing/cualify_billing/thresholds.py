"""The balance below which an org wants to be warned. The warning itself is said by the debit that crosses it."""

from dataclasses import dataclass
from uuid import UUID

from cualify_billing import ledger
from cualify_shared.database import Connection


@dataclass(frozen=True, slots=True)
class Threshold:
    """`is_below`: the balance is below it already, so the next warning waits until it was above again."""

    threshold_paise: int | None
    balance_paise: int
    is_below: bool


GET = """
SELECT low_balance_paise AS threshold_paise, balance_paise, NOT low_balance_armed AS is_below
FROM accounts
WHERE org_id = $1
"""


async def threshold(connection: Connection, org_id: UUID) -> Threshold:
    """An org's threshold; none of an org without a wallet."""
    row = await connection.fetchrow(GET, org_id)
    return Threshold(None, 0, is_below=False) if row is None else Threshold(**row)


SET = """
UPDATE accounts
SET low_balance_paise = $2::bigint, low_balance_armed = coalesce(balance_paise >= $2::bigint, true)
WHERE org_id = $1
RETURNING low_balance_paise AS threshold_paise, balance_paise, NOT low_balance_armed AS is_below
"""


async def set_threshold(connection: Connection, *, org_id: UUID, threshold_paise: int | None) -> Threshold:
    """Sets or, with None, takes away an org's threshold."""
    await ledger.lock_wallet(connection, org_id)
    row = await connection.fetchrow(SET, org_id, threshold_paise)
    assert row is not None, "the wallet was opened and locked above"
    return Threshold(**row)
