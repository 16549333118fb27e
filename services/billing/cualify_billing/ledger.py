"""The only code that moves money. A business fact moves it once: its name is the transfer's primary key.

`posting` writes whole batches as one set-wise statement: transfers whose names are new, two entries each that sum to
zero, one change of each account. What moves is said in the same transaction, each org's events with a gapless sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, get_args
from uuid import UUID

from prometheus_client import Counter

from cualify_billing import posting, settlement
from cualify_billing.posting import CallFacts, Posted, Transfer
from cualify_billing.settlement import Conflict, Debit
from cualify_shared import faults, outbox
from cualify_shared.database import Connection
from cualify_shared.events import Event, EventData
from cualify_shared.events.wallet import WalletCredited, WalletDebited, WalletLowBalance, WalletRefunded

TRANSFERS = Counter("cualify_transfers_total", "Business facts that moved money, or 0 paise of it.", ["kind"])
"""Counted by the callers, after their COMMIT."""

CreditKind: TypeAlias = Literal["top_up", "promotion", "adjustment", "credit_note"]
COUNTER_ACCOUNTS: dict[CreditKind, str] = {
    "top_up": "topup_clearing",
    "promotion": "promotions",
    "adjustment": "adjustments",
    "credit_note": "adjustments",
}
assert set(COUNTER_ACCOUNTS) == set(get_args(CreditKind))

ReductionKind: TypeAlias = Literal["refund", "chargeback", "correction"]
GOES_TO: dict[ReductionKind, str] = {"refund": "refunds", "chargeback": "chargebacks", "correction": "adjustments"}
assert set(GOES_TO) == set(get_args(ReductionKind))


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
        """The business fact: a payment is credited once, whatever its kind; so is a credit note."""
        return f"{'credit_note' if self.kind == 'credit_note' else 'topup'}:{self.payment_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """Money that leaves a wallet other than by a call. The api has set it aside under `refund_id`."""

    refund_id: str
    org_id: UUID
    kind: ReductionKind
    amount_paise: int
    payment_id: str | None
    at: datetime

    @property
    def name(self) -> str:
        """The business fact: a refund leaves once."""
        return f"refund:{self.refund_id}"


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
    await posting.lock_wallets(connection, {debit.org_id for debit in first_of_each})
    till = await posting.lock_a_till(connection)
    posted = await posting.post(connection, [_debit_of(debit) for debit in first_of_each], counter_account=till)
    faults.point("billing.posted")
    debited = [(debit, posted[debit.name]) for debit in first_of_each if debit.name in posted]
    await outbox.put(connection, [event for debit, to in debited for event in _debited_events(debit, to)])
    await settlement.record_discrepancies(connection, [debit for debit, _ in debited])
    settled_now = {debit.event_id for debit, _ in debited}
    repeats = [debit for debit in debits if debit.event_id not in settled_now]
    return Settlement(debited, await settlement.record_conflicts(connection, repeats))


OWE_DOCUMENT = """
INSERT INTO documents_due (transfer)
VALUES ($1)
"""


async def credit(connection: Connection, given: Credit) -> Credited | Contradicted:
    """Puts money into a wallet once for each payment, and says so in `wallet.credited`."""
    await posting.lock_wallets(connection, {given.org_id})
    counter = await posting.lock_counter_account(connection, COUNTER_ACCOUNTS[given.kind])
    transfer = Transfer(given.name, given.kind, given.org_id, given.amount_paise, given.paid_at)
    posted = (await posting.post(connection, [transfer], counter_account=counter)).get(given.name)
    if posted is None:
        return await _credited_before(connection, given)
    faults.point("billing.posted")
    await outbox.put(connection, [_credited_event(given, posted)])
    if given.kind == "top_up":
        await connection.execute(OWE_DOCUMENT, given.name)
    return Credited(given.name, given.amount_paise, posted.balance_paise, repeated=False)


async def reduce(connection: Connection, wanted: Reduction) -> Posted:
    """Takes money out of a wallet, and says so in `wallet.refunded`. Its name must be new: `refunds` decides that.

    Raises:
        asyncpg.CheckViolationError: `wallets_are_never_negative`.
    """
    await posting.lock_wallets(connection, {wanted.org_id})
    counter = await posting.lock_counter_account(connection, GOES_TO[wanted.kind])
    transfer = Transfer(wanted.name, wanted.kind, wanted.org_id, -wanted.amount_paise, wanted.at)
    posted = (await posting.post(connection, [transfer], counter_account=counter))[wanted.name]
    faults.point("billing.posted")
    await outbox.put(connection, [_refunded_event(wanted, posted), *_low_balance_events(wanted.org_id, posted)])
    if wanted.kind != "correction" or wanted.payment_id is not None:
        # An advance that went back, whoever sent it: an invoice must not adjust it any more.
        await connection.execute(OWE_DOCUMENT, wanted.name)
    return posted


TAKE_SEQUENCE = """
UPDATE accounts
SET sequence = sequence + 1
WHERE org_id = $1
RETURNING sequence
"""


async def lock_wallet(connection: Connection, org_id: UUID) -> None:
    """Opens the org's wallet if need be, and locks it until the transaction ends: one writer of events at a time."""
    await posting.lock_wallets(connection, {org_id})


async def lock_wallets(connection: Connection, org_ids: Sequence[UUID]) -> None:
    """The same for several orgs, in the order that all of billing locks in."""
    await posting.lock_wallets(connection, set(org_ids))


async def take_sequence(connection: Connection, org_id: UUID) -> int:
    """The sequence of the org's next event. The wallet must be locked, see `lock_wallet`."""
    sequence: int = await connection.fetchval(TAKE_SEQUENCE, org_id)
    return sequence


def wallet_event(data: EventData, *, org_id: UUID, sequence: int, call_id: UUID | None = None) -> Event:
    """An event of an org's wallet, keyed and named as all of them are."""
    return Event(
        data=data,
        org_id=org_id,
        key=org_id,
        subject=f"wallet/{org_id}",
        sequence=sequence,
        correlation_id=None if call_id is None else str(call_id),
    )


def _debit_of(debit: Debit) -> Transfer:
    terms = debit.terms
    call = CallFacts(
        call_id=debit.call_id,
        call_status=debit.call_status,
        event_id=debit.event_id,
        duration_sec=debit.duration_sec,
        billable_sec=debit.bill.billable_sec,
        rate_paise_per_sec=terms.rate_paise_per_sec,
        pulse_sec=terms.pulse_sec,
        max_duration_sec=terms.max_duration_sec,
        hold_paise=terms.hold_paise,
        min_billable_sec=terms.min_billable_sec,
        provider_cost_cents=debit.provider_cost_cents,
    )
    return Transfer(debit.name, "call_debit", debit.org_id, -debit.bill.amount_paise, debit.ended_at, call)


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


def _debited_events(debit: Debit, posted: Posted) -> list[Event]:
    debited = Event(
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
            min_billable_sec=debit.terms.min_billable_sec,
        ),
        org_id=debit.org_id,
        key=debit.org_id,
        subject=f"wallet/{debit.org_id}",
        sequence=posted.sequence,
        correlation_id=str(debit.call_id),
        causation_id=str(debit.event_id),
    )
    return [debited, *_low_balance_events(debit.org_id, posted)]


def _low_balance_events(org_id: UUID, posted: Posted) -> list[Event]:
    if posted.threshold_paise is None:
        return []
    low = WalletLowBalance(org_id=org_id, balance_paise=posted.balance_paise, threshold_paise=posted.threshold_paise)
    return [wallet_event(low, org_id=org_id, sequence=posted.sequence + 1)]


def _credited_event(given: Credit, posted: Posted) -> Event:
    credited = WalletCredited(
        org_id=given.org_id,
        transfer=given.name,
        kind=given.kind,
        amount_paise=given.amount_paise,
        balance_paise=posted.balance_paise,
    )
    return wallet_event(credited, org_id=given.org_id, sequence=posted.sequence)


def _refunded_event(wanted: Reduction, posted: Posted) -> Event:
    refunded = WalletRefunded(
        org_id=wanted.org_id,
        transfer=wanted.name,
        refund_id=wanted.refund_id,
        kind=wanted.kind,
        amount_paise=wanted.amount_paise,
        balance_paise=posted.balance_paise,
        payment_id=wanted.payment_id,
    )
    return wallet_event(refunded, org_id=wanted.org_id, sequence=posted.sequence)
