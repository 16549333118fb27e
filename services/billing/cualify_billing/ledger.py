"""The only code that moves money. A business fact moves it once: its name is the transfer's primary key.

A whole batch is one set-wise statement: transfers whose names are new, two entries each that sum to zero, one change of
each account. Locks are taken in this order: wallets by id, then one account of ours (a revenue till, or where credits
come from). READ COMMITTED is relied on: the posting statement sees the balances as the locks found them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, get_args
from uuid import UUID

from prometheus_client import Counter

from cualify_billing.price import Bill
from cualify_shared import faults, outbox
from cualify_shared.database import Connection
from cualify_shared.events import Event, Terms
from cualify_shared.events.wallet import WalletCredited, WalletDebited

TRANSFERS = Counter("cualify_transfers_total", "Business facts that moved money, or 0 paise of it.", ["kind"])
"""Counted by the callers, after their COMMIT."""

CreditKind: TypeAlias = Literal["top_up", "promotion", "adjustment"]
COUNTER_ACCOUNTS: dict[CreditKind, str] = {
    "top_up": "topup_clearing",
    "promotion": "promotions",
    "adjustment": "adjustments",
}
assert set(COUNTER_ACCOUNTS) == set(get_args(CreditKind))


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

    @property
    def name(self) -> str:
        """The business fact: a call is debited once."""
        return f"debit:{self.call_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Money that came in for an org. `payment_id` is whoever pays' name for it."""

    payment_id: str
    org_id: UUID
    kind: CreditKind
    amount_paise: int
    paid_at: datetime

    @property
    def name(self) -> str:
        """The business fact: a payment is credited once, whatever its kind."""
        return f"topup:{self.payment_id}"


@dataclass(frozen=True, slots=True)
class Posted:
    """A transfer that this statement wrote. `sequence` is its event's, for the org."""

    name: str
    balance_paise: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """An end of a call that contradicts the one that was settled. Nothing moved."""

    transfer: str
    call_id: UUID
    org_id: UUID
    settled_paise: int
    amount_paise: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a batch of debits went: who was debited now, and what contradicts an earlier debit. The rest are repeats."""

    debited: Sequence[tuple[Debit, Posted]]
    conflicts: Sequence[Conflict]


@dataclass(frozen=True, slots=True)
class Credited:
    """The wallet after the credit. `repeated`: the payment was credited before, and this is the balance it had then."""

    transfer: str
    amount_paise: int
    balance_paise: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class Contradicted:
    """This payment was credited before with another amount, kind or org. Nothing moved."""

    transfer: str


async def debit_calls(connection: Connection, debits: Sequence[Debit]) -> Settlement:
    """Debits each call that was not debited yet, and says so in `wallet.debited`. Repeating it has no effect.

    Raises:
        asyncpg.CheckViolationError: `wallets_are_never_negative`; nothing of the batch is written then.
    """
    first_of_each = list({debit.name: debit for debit in reversed(debits)}.values())[::-1]
    await _open_and_lock_wallets(connection, {debit.org_id for debit in first_of_each})
    till = await _lock_a_till(connection)
    posted = await _post(connection, [_debit_row(debit) for debit in first_of_each], counter_account=till)
    faults.point("billing.posted")
    debited = [(debit, posted[debit.name]) for debit in first_of_each if debit.name in posted]
    await outbox.put(connection, [_debited_event(debit, to) for debit, to in debited])
    settled_now = {debit.event_id for debit, _ in debited}
    repeats = [debit for debit in debits if debit.event_id not in settled_now]
    return Settlement(debited, await _record_conflicts(connection, repeats))


async def credit(connection: Connection, given: Credit) -> Credited | Contradicted:
    """Puts money into a wallet once for each payment, and says so in `wallet.credited`."""
    await _open_and_lock_wallets(connection, {given.org_id})
    counter = await connection.fetchval(LOCK_COUNTER_ACCOUNT, COUNTER_ACCOUNTS[given.kind])
    posted = (await _post(connection, [_credit_row(given)], counter_account=counter)).get(given.name)
    if posted is None:
        return await _credited_before(connection, given)
    faults.point("billing.posted")
    await outbox.put(connection, [_credited_event(given, posted)])
    return Credited(given.name, given.amount_paise, posted.balance_paise, repeated=False)


TAKE_SEQUENCE = """
UPDATE accounts
SET sequence = sequence + 1
WHERE org_id = $1
RETURNING sequence
"""


async def lock_wallet(connection: Connection, org_id: UUID) -> None:
    """Opens the org's wallet if need be, and locks it until the transaction ends: one writer of events at a time."""
    await _open_and_lock_wallets(connection, {org_id})


async def take_sequence(connection: Connection, org_id: UUID) -> int:
    """The sequence of the org's next event. The wallet must be locked, see `lock_wallet`."""
    sequence: int = await connection.fetchval(TAKE_SEQUENCE, org_id)
    return sequence


# --- locks ---

OPEN_WALLETS = """
INSERT INTO accounts (name, kind, org_id)
SELECT 'wallet:' || wanted.org_id::text, 'wallet', wanted.org_id
FROM unnest($1::uuid[]) AS wanted (org_id)
WHERE NOT EXISTS (SELECT FROM accounts WHERE accounts.org_id = wanted.org_id)
ORDER BY wanted.org_id
ON CONFLICT DO NOTHING
"""

LOCK_WALLETS = """
SELECT id
FROM accounts
WHERE org_id = ANY($1::uuid[])
ORDER BY id
FOR NO KEY UPDATE
"""


async def _open_and_lock_wallets(connection: Connection, org_ids: set[UUID]) -> None:
    """Opens first: an upsert of the balance would have its proposed row checked, and so refuse legal debits."""
    await connection.execute(OPEN_WALLETS, list(org_ids))
    locked = await connection.fetch(LOCK_WALLETS, list(org_ids))
    assert len(locked) == len(org_ids), "each org has one wallet, and it is never closed"


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


async def _lock_a_till(connection: Connection) -> int:
    """A revenue account that nobody else is writing to; where all are taken, waits for one of them."""
    till: int | None = await connection.fetchval(LOCK_A_FREE_TILL)
    if till is None:
        till = await connection.fetchval(LOCK_ANY_TILL)
    assert till is not None, "the migrations open the tills"
    return till


LOCK_COUNTER_ACCOUNT = """
SELECT id
FROM accounts
WHERE name = $1
FOR NO KEY UPDATE
"""

# --- the posting ---

POST = """
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::timestamptz[], $7::uuid[], $8::text[], $9::uuid[],
        $10::integer[], $11::integer[], $12::integer[], $13::integer[], $14::integer[], $15::bigint[]
    ) WITH ORDINALITY AS g (
        name, kind, org_id, to_wallet_paise, at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise, n
    )
),
fresh AS (
    INSERT INTO transfers (
        name, kind, org_id, amount_paise, at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise
    )
    SELECT
        name, kind, org_id, abs(to_wallet_paise), at, call_id, call_status, event_id,
        duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec, hold_paise
    FROM given
    ORDER BY n
    ON CONFLICT (name) DO NOTHING
    RETURNING name
),
moved AS MATERIALIZED (
    SELECT
        given.n,
        given.name,
        given.to_wallet_paise,
        wallet.id AS wallet_id,
        wallet.balance_paise + (sum(given.to_wallet_paise) OVER of_wallet)::bigint AS wallet_after_paise,
        counter.balance_paise - (sum(given.to_wallet_paise) OVER of_all)::bigint AS counter_after_paise,
        wallet.sequence + (row_number() OVER of_wallet) AS sequence
    FROM given
    JOIN fresh USING (name)
    JOIN accounts AS wallet ON wallet.org_id = given.org_id
    JOIN accounts AS counter ON counter.id = $1::bigint
    WINDOW
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
changed AS (
    UPDATE accounts
    SET balance_paise = accounts.balance_paise + change.gained_paise, sequence = accounts.sequence + change.events
    FROM (
        SELECT wallet_id AS id, sum(to_wallet_paise)::bigint AS gained_paise, count(*) AS events
        FROM moved
        GROUP BY wallet_id
        UNION ALL
        SELECT $1::bigint, -sum(to_wallet_paise)::bigint, 0
        FROM moved
        HAVING count(*) > 0
    ) AS change
    WHERE accounts.id = change.id
)
SELECT name, wallet_after_paise AS balance_paise, sequence
FROM moved
ORDER BY n
"""

_Row: TypeAlias = tuple[str, str, UUID, int, datetime, UUID | None, str | None, UUID | None, *tuple[int | None, ...]]
"""One transfer, in the order of POST's arrays from $2 on."""


async def _post(connection: Connection, rows: Sequence[_Row], *, counter_account: int) -> dict[str, Posted]:
    """Writes those whose names are new, each between its org's wallet and the counter account. Names are distinct."""
    columns: Iterable[list[object]] = (list(column) for column in zip(*rows, strict=True))
    posted = await connection.fetch(POST, counter_account, *columns)
    return {row["name"]: Posted(**row) for row in posted}


def _debit_row(debit: Debit) -> _Row:
    terms = debit.terms
    return (
        debit.name,
        "call_debit",
        debit.org_id,
        -debit.bill.amount_paise,
        debit.ended_at,
        debit.call_id,
        debit.call_status,
        debit.event_id,
        debit.duration_sec,
        debit.bill.billable_sec,
        terms.rate_paise_per_sec,
        terms.pulse_sec,
        terms.max_duration_sec,
        terms.hold_paise,
    )


def _credit_row(given: Credit) -> _Row:
    no_call = (None, None, None)
    no_price = (None, None, None, None, None, None)
    return (given.name, given.kind, given.org_id, given.amount_paise, given.paid_at, *no_call, *no_price)


# --- repeats ---

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


async def _record_conflicts(connection: Connection, repeats: Sequence[Debit]) -> list[Conflict]:
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


CREDITED_BEFORE = """
SELECT transfers.org_id, transfers.kind, transfers.amount_paise, entries.balance_after_paise
FROM transfers
JOIN entries ON entries.transfer = transfers.name
JOIN accounts ON accounts.id = entries.account_id AND accounts.kind = 'wallet'
WHERE transfers.name = $1
"""


async def _credited_before(connection: Connection, given: Credit) -> Credited | Contradicted:
    row = await connection.fetchrow(CREDITED_BEFORE, given.name)
    assert row is not None, "a name that is taken has a transfer"
    if (row["org_id"], row["kind"], row["amount_paise"]) != (given.org_id, given.kind, given.amount_paise):
        return Contradicted(given.name)
    return Credited(given.name, given.amount_paise, row["balance_after_paise"], repeated=True)


# --- events ---


def _debited_event(debit: Debit, posted: Posted) -> Event:
    return Event(
        data=WalletDebited(
            org_id=debit.org_id,
            call_id=debit.call_id,
            transfer=debit.name,
            amount_paise=debit.bill.amount_paise,
            balance_paise=posted.balance_paise,
            duration_sec=debit.duration_sec,
            billable_sec=debit.bill.billable_sec,
            rate_paise_per_sec=debit.terms.rate_paise_per_sec,
            pulse_sec=debit.terms.pulse_sec,
        ),
        org_id=debit.org_id,
        key=debit.org_id,
        subject=f"wallet/{debit.org_id}",
        sequence=posted.sequence,
        correlation_id=str(debit.call_id),
        causation_id=str(debit.event_id),
    )


def _credited_event(given: Credit, posted: Posted) -> Event:
    return Event(
        data=WalletCredited(
            org_id=given.org_id,
            transfer=given.name,
            kind=given.kind,
            amount_paise=given.amount_paise,
            balance_paise=posted.balance_paise,
        ),
        org_id=given.org_id,
        key=given.org_id,
        subject=f"wallet/{given.org_id}",
        sequence=posted.sequence,
    )
