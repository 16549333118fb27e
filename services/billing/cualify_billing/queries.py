"""What can be asked of a wallet. Reading only: money moves in `ledger`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cualify_shared.database import Connection

BALANCE = """
SELECT balance_paise
FROM accounts
WHERE org_id = $1
"""


async def balance_paise(connection: Connection, org_id: UUID) -> int:
    """What the org's wallet holds; 0 where none was opened yet."""
    balance: int | None = await connection.fetchval(BALANCE, org_id)
    return balance or 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a wallet's history. `amount_paise` is below zero where money left; a credit has no call."""

    id: int
    transfer: str
    kind: str
    amount_paise: int
    balance_after_paise: int
    call_id: UUID | None
    duration_sec: int | None
    billable_sec: int | None
    rate_paise_per_sec: int | None
    at: datetime


HISTORY = """
SELECT
    entries.id, entries.transfer, transfers.kind, entries.amount_paise, entries.balance_after_paise,
    transfers.call_id, transfers.duration_sec, transfers.billable_sec, transfers.rate_paise_per_sec, transfers.at
FROM entries
JOIN transfers ON transfers.name = entries.transfer
WHERE entries.account_id = (SELECT id FROM accounts WHERE org_id = $1)
    AND entries.id < coalesce($2::bigint, 9223372036854775807)
ORDER BY entries.id DESC
LIMIT $3
"""


async def history(connection: Connection, *, org_id: UUID, before: int | None, limit: int) -> list[Line]:
    """A wallet's lines, newest first, from below the line `before`."""
    return [Line(**row) for row in await connection.fetch(HISTORY, org_id, before, limit)]


DOCUMENTS = """
SELECT number, kind, issued_on, total_paise, taxable_paise, cgst_paise, sgst_paise, igst_paise
FROM documents
WHERE org_id = $1
ORDER BY issued_at DESC, number DESC
LIMIT $2 OFFSET $3
"""


async def documents(connection: Connection, *, org_id: UUID, limit: int, offset: int) -> list[dict[str, Any]]:
    """An org's tax documents, newest first, without their bodies."""
    return [dict(row) for row in await connection.fetch(DOCUMENTS, org_id, limit, offset)]


DOCUMENT = """
SELECT body
FROM documents
WHERE org_id = $1 AND number = $2
"""


async def document(connection: Connection, *, org_id: UUID, number: str) -> dict[str, Any] | None:
    """A tax document, whole."""
    body: dict[str, Any] | None = await connection.fetchval(DOCUMENT, org_id, number)
    return body
