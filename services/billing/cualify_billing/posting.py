"""How a transfer is written: the locks, and one set-wise statement for a whole batch. For `ledger` alone.

Locks are taken in this order: wallets by id, then one account of ours (a revenue till, or where credits come from).
READ COMMITTED is relied on: the posting statement sees the balances as the locks found them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from cualify_shared.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What a call's debit was worked out from, so that it can be worked out again."""

    call_id: UUID
    call_status: str
    event_id: UUID
    duration_sec: int
    billable_sec: int
    rate_paise_per_sec: int
    pulse_sec: int
    max_duration_sec: int
    hold_paise: int
    min_billable_sec: int
    provider_cost_cents: float | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that is to move between an org's wallet and an account of ours; below zero, out of the wallet."""

    name: str
    kind: str
    org_id: UUID
    to_wallet_paise: int
    at: datetime
    call: CallFacts | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """A transfer that this statement wrote. `sequence` is its event's, for the org.

    With `threshold_paise` the wallet fell below its threshold with this batch, whose last transfer of the org this is;
    the next sequence is that warning's.
    """

    name: str
    balance_paise: int
    sequence: int
    threshold_paise: int | None


# --- locks ---

LOCK_WALLETS = """
SELECT id
FROM accounts
WHERE org_id = ANY($1::uuid[])
ORDER BY id
FOR NO KEY UPDATE
"""

OPEN_WALLETS = """
INSERT INTO accounts (name, kind, org_id)
SELECT 'wallet:' || wanted.org_id::text, 'wallet', wanted.org_id
FROM unnest($1::uuid[]) AS wanted (org_id)
WHERE NOT EXISTS (SELECT FROM accounts WHERE accounts.org_id = wanted.org_id)
ORDER BY wanted.org_id
ON CONFLICT DO NOTHING
"""


async def lock_wallets(connection: Connection, org_ids: Collection[UUID]) -> None:
    """Locks the orgs' wallets until the transaction ends, and opens those that are missing.

    Opening is a statement of its own: an upsert of the balance would have its proposed row checked, and so refuse legal
    debits.
    """
    wanted = list(org_ids)
    if len(await connection.fetch(LOCK_WALLETS, wanted)) == len(wanted):
        return
    await connection.execute(OPEN_WALLETS, wanted)
    locked = await connection.fetch(LOCK_WALLETS, wanted)
    assert len(locked) == len(wanted), "each org has one wallet, and it is never closed"


LOCK_A_FREE_TILL = """
SELECT id
FROM accounts
WHERE kind = 'revenue'
ORDER BY id
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED
"""

LOCK_ANY_TILL = """
SELECT id
FROM accounts
WHERE name = 'revenue:' || (1 + pg_backend_pid() % (SELECT count(*) FROM accounts WHERE kind = 'revenue'))
FOR NO KEY UPDATE
"""


async def lock_a_till(connection: Connection) -> int:
    """A revenue account that nobody else is writing to; where all are taken, waits for one of them."""
    free: int | None = await connection.fetchval(LOCK_A_FREE_TILL)
    if free is not None:
        return free
    any_till: int = await connection.fetchval(LOCK_ANY_TILL)
    return any_till


LOCK_COUNTER_ACCOUNT = """
SELECT id
FROM accounts
WHERE name = $1
FOR NO KEY UPDATE
"""


async def lock_counter_account(connection: Connection, name: str) -> int:
    """One of our own accounts, by name."""
    account: int = await connection.fetchval(LOCK_COUNTER_ACCOUNT, name)
    return account


# --- the posting ---

POST = """
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::timestamptz[], $7::uuid[], $8::text[], $9::uuid[],
        $10::integer[], $11::integer[], $12::integer[], $13::integer[], $14::integer[], $15::bigint[], $16::integer[],
        $17::float8[]
    ) WITH ORDINALITY AS g (
        name, kind, org_id, to_wallet_paise, at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, min_billable_sec,
        provider_cost_cents, n
    )
),
fresh AS (
    INSERT INTO transfers (
        name, kind, org_id, amount_paise, at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, min_billable_sec,
        provider_cost_cents
    )
    SELECT
        name, kind, org_id, abs(to_wallet_paise), at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, min_billable_sec,
        provider_cost_cents::numeric
    FROM given
    ORDER BY n
    ON CONFLICT (name) DO NOTHING
    RETURNING name
),
moved AS MATERIALIZED (
    SELECT
        given.n,
        given.name,
        given.org_id,
        given.to_wallet_paise,
        wallet.id AS wallet_id,
        wallet.balance_paise + (sum(given.to_wallet_paise) OVER of_wallet)::bigint AS wallet_after_paise,
        counter.balance_paise - (sum(given.to_wallet_paise) OVER of_all)::bigint AS counter_after_paise,
        wallet.sequence + (row_number() OVER of_wallet) AS sequence,
        CASE WHEN wallet.low_balance_armed THEN wallet.low_balance_paise END AS threshold_paise,
        lead(given.n) OVER of_wallet_in_order IS NULL AS is_last
    FROM given
    JOIN fresh USING (name)
    JOIN accounts AS wallet ON wallet.org_id = given.org_id
    JOIN accounts AS counter ON counter.id = $1::bigint
    WINDOW
        of_wallet_in_order AS (PARTITION BY wallet.id ORDER BY given.n),
        of_wallet AS (PARTITION BY wallet.id ORDER BY given.n ROWS UNBOUNDED PRECEDING),
        of_all AS (ORDER BY given.n ROWS UNBOUNDED PRECEDING)
),
written AS (
    INSERT INTO entries (transfer, account_id, amount_paise, balance_after_paise)
    SELECT name, account_id, amount_paise, balance_after_paise
    FROM moved
    CROSS JOIN LATERAL (
        VALUES
            (1, wallet_id, to_wallet_paise, wallet_after_paise),
            (2, $1::bigint, -to_wallet_paise, counter_after_paise)
    ) AS side (leg, account_id, amount_paise, balance_after_paise)
    ORDER BY n, leg
),
warned AS (
    INSERT INTO low_balance_notices (transfer, org_id, balance_paise, threshold_paise)
    SELECT name, org_id, wallet_after_paise, threshold_paise
    FROM moved
    WHERE is_last AND wallet_after_paise < threshold_paise
    RETURNING transfer, org_id, threshold_paise
),
changed AS (
    UPDATE accounts
    SET
        balance_paise = accounts.balance_paise + change.gained_paise,
        sequence = accounts.sequence + change.events + (warned.org_id IS NOT NULL)::integer,
        low_balance_armed = coalesce(accounts.balance_paise + change.gained_paise >= accounts.low_balance_paise, true)
    FROM (
        SELECT wallet_id AS id, min(org_id::text)::uuid AS org_id, sum(to_wallet_paise)::bigint AS gained_paise,
            count(*) AS events
        FROM moved
        GROUP BY wallet_id
        UNION ALL
        SELECT $1::bigint, NULL, -sum(to_wallet_paise)::bigint, 0
        FROM moved
        HAVING count(*) > 0
    ) AS change
    LEFT JOIN warned USING (org_id)
    WHERE accounts.id = change.id
)
SELECT moved.name, moved.wallet_after_paise AS balance_paise, moved.sequence, warned.threshold_paise
FROM moved
LEFT JOIN warned ON warned.transfer = moved.name
ORDER BY moved.n
"""


async def post(connection: Connection, transfers: Sequence[Transfer], *, counter_account: int) -> dict[str, Posted]:
    """Writes those whose names are new, each between its org's wallet and the counter account. Names are distinct."""
    columns: Iterable[list[object]] = (list(column) for column in zip(*map(_row, transfers), strict=True))
    posted = await connection.fetch(POST, counter_account, *columns)
    return {row["name"]: Posted(**row) for row in posted}


_Row: TypeAlias = tuple[object, ...]
"""One transfer, in the order of POST's arrays from $2 on."""


def _row(transfer: Transfer) -> _Row:
    return (
        transfer.name,
        transfer.kind,
        transfer.org_id,
        transfer.to_wallet_paise,
        transfer.at,
        *(_NO_CALL if transfer.call is None else _call_columns(transfer.call)),
    )


_NO_CALL: _Row = (None,) * 11


def _call_columns(call: CallFacts) -> _Row:
    return (
        call.call_id,
        call.call_status,
        call.event_id,
        call.duration_sec,
        call.billable_sec,
        call.rate_paise_per_sec,
        call.pulse_sec,
        call.max_duration_sec,
        call.hold_paise,
        call.min_billable_sec,
        call.provider_cost_cents,
    )
