"""Does the ledger agree with itself and with what it was told? What is found is kept for a person, never corrected."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

import structlog
from prometheus_client import Gauge

from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool

log = structlog.get_logger(__name__)

DIFFERENCES = Gauge("cualify_ledger_differences", "What the last reconciliation found that does not add up.")
UNCHECKED = Gauge("cualify_ledger_rules_unchecked", "Rules that the last reconciliation could not check.")
LAST_RUN = Gauge("cualify_ledger_reconciled_timestamp_seconds", "When this replica last reconciled the ledger.")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures that should be equal. `rule` says by which rule, `subject` of what."""

    rule: str
    subject: str
    expected: int
    found: int


Elsewhere: TypeAlias = Callable[[], Awaitable[tuple[Sequence[Difference], Sequence[str]]]]
"""What only another service knows: what it contradicts the wallets in, which rules could not be checked, and why."""


ALL_BALANCES = """
SELECT 'all balances sum to zero' AS rule, 'accounts' AS subject, 0::bigint AS expected,
    sum(balance_paise)::bigint AS found
FROM accounts
HAVING sum(balance_paise) <> 0
"""

BALANCES = """
SELECT 'a balance is the sum of its entries' AS rule, accounts.name AS subject,
    coalesce(sum(entries.amount_paise), 0)::bigint AS expected, accounts.balance_paise AS found
FROM accounts
LEFT JOIN entries ON entries.account_id = accounts.id
GROUP BY accounts.id
HAVING coalesce(sum(entries.amount_paise), 0) <> accounts.balance_paise
ORDER BY accounts.id
"""

RUNNING_BALANCES = """
SELECT 'each entry continues from the one before' AS rule, accounts.name || ' entry ' || entry.id AS subject,
    entry.before_paise + entry.amount_paise AS expected, entry.balance_after_paise AS found
FROM (
    SELECT id, account_id, amount_paise, balance_after_paise,
        lag(balance_after_paise, 1, 0::bigint) OVER (PARTITION BY account_id ORDER BY id) AS before_paise
    FROM entries
) AS entry
JOIN accounts ON accounts.id = entry.account_id
WHERE entry.before_paise + entry.amount_paise <> entry.balance_after_paise
ORDER BY entry.id
"""

ZERO_SUMS = """
SELECT 'the entries of a transfer sum to zero' AS rule, transfer AS subject, 0::bigint AS expected,
    sum(amount_paise)::bigint AS found
FROM entries
GROUP BY transfer
HAVING sum(amount_paise) <> 0
ORDER BY transfer
"""

TWO_SIDES = """
SELECT 'a transfer has two entries, one of them in its org''s wallet' AS rule, transfers.name AS subject,
    2::bigint AS expected, count(entries.id) AS found
FROM transfers
LEFT JOIN entries ON entries.transfer = transfers.name
LEFT JOIN accounts ON accounts.id = entries.account_id AND accounts.org_id = transfers.org_id
GROUP BY transfers.name
HAVING count(entries.id) <> 2 OR count(accounts.id) <> 1
ORDER BY transfers.name
"""

AMOUNTS = """
SELECT 'the wallet moves by the transfer''s amount' AS rule, transfers.name AS subject,
    CASE
        WHEN transfers.kind IN ('call_debit', 'refund', 'chargeback', 'correction') THEN -transfers.amount_paise
        ELSE transfers.amount_paise
    END AS expected,
    entries.amount_paise AS found
FROM transfers
JOIN entries ON entries.transfer = transfers.name
JOIN accounts ON accounts.id = entries.account_id AND accounts.kind = 'wallet'
WHERE entries.amount_paise
    <> CASE
        WHEN transfers.kind IN ('call_debit', 'refund', 'chargeback', 'correction') THEN -transfers.amount_paise
        ELSE transfers.amount_paise
    END
ORDER BY transfers.name
"""

COUNTER_SIDES = """
SELECT 'money goes to the account of its kind' AS rule, transfers.name || ': ' || accounts.name AS subject,
    0::bigint AS expected, entries.amount_paise AS found
FROM transfers
JOIN entries ON entries.transfer = transfers.name
JOIN accounts ON accounts.id = entries.account_id AND accounts.org_id IS DISTINCT FROM transfers.org_id
WHERE accounts.kind <> CASE transfers.kind
    WHEN 'call_debit' THEN 'revenue'
    WHEN 'top_up' THEN 'topup_clearing'
    WHEN 'promotion' THEN 'promotions'
    WHEN 'refund' THEN 'refunds'
    WHEN 'chargeback' THEN 'chargebacks'
    ELSE 'adjustments'
END
ORDER BY transfers.name
"""

PAID_ORDERS = """
SELECT 'every paid order is in its wallet' AS rule, 'payment ' || payment_id AS subject,
    payment_orders.amount_paise AS expected, coalesce(credit.amount_paise, 0) AS found
FROM payment_orders
LEFT JOIN transfers AS credit
    ON credit.name = 'topup:' || payment_id AND credit.org_id = payment_orders.org_id AND credit.kind = 'top_up'
WHERE payment_id IS NOT NULL AND payment_orders.amount_paise IS DISTINCT FROM credit.amount_paise
ORDER BY payment_id
"""

REFUNDS = """
SELECT 'what was refunded is what was decided' AS rule, coalesce(moved.name, 'refund:' || decided.id) AS subject,
    coalesce(decided.amount_paise, 0) AS expected, coalesce(moved.amount_paise, 0) AS found
FROM (SELECT * FROM refunds WHERE refused_why IS NULL) AS decided
FULL JOIN (SELECT * FROM transfers WHERE kind IN ('refund', 'chargeback', 'correction')) AS moved
    ON moved.name = 'refund:' || decided.id
WHERE (decided.org_id, decided.kind, decided.amount_paise) IS DISTINCT FROM
    (moved.org_id, moved.kind, moved.amount_paise)
ORDER BY 2
"""

PRICES = """
SELECT 'a debit is the price of its call' AS rule, name AS subject, price.paise AS expected, amount_paise AS found
FROM transfers
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN duration_sec = 0 THEN 0
        ELSE greatest(least(duration_sec, max_duration_sec), coalesce(min_billable_sec, 0))
    END AS sec
) AS charged
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN call_status <> 'completed' THEN 0::bigint
        ELSE least(
            hold_paise,
            (charged.sec + pulse_sec - 1) / pulse_sec * pulse_sec * rate_paise_per_sec::bigint
        )
    END AS paise
) AS price
WHERE kind = 'call_debit' AND amount_paise <> price.paise
ORDER BY name
"""

SEQUENCES = """
SELECT 'an org has an event for each fact' AS rule, accounts.name AS subject,
    coalesce(told.events, 0) AS expected, accounts.sequence AS found
FROM accounts
LEFT JOIN (
    SELECT org_id, count(*) AS events
    FROM (
        SELECT org_id FROM transfers
        UNION ALL
        SELECT org_id FROM plans
        UNION ALL
        SELECT org_id FROM plan_expiries
        UNION ALL
        SELECT org_id FROM low_balance_notices
    ) AS said
    GROUP BY org_id
) AS told USING (org_id)
WHERE accounts.kind = 'wallet' AND accounts.sequence <> coalesce(told.events, 0)
ORDER BY accounts.id
"""

CONFLICTS = """
SELECT 'a call ends once, in one way' AS rule, transfer AS subject, settled_paise AS expected, amount_paise AS found
FROM settlement_conflicts
ORDER BY id
"""

PARKED = """
SELECT 'every call that ended is debited' AS rule, 'dead letter ' || id || ': ' || left(error, 200) AS subject,
    1::bigint AS expected, 0::bigint AS found
FROM dead_letters
WHERE status = 'parked'
ORDER BY id
"""

UNCREDITED = """
SELECT 'every payment is credited' AS rule, payment_id || ': ' || why AS subject,
    coalesce(alarm.amount_paise, 0) AS expected, coalesce(credit.amount_paise, 0) AS found
FROM payment_alarms AS alarm
LEFT JOIN transfers AS credit ON credit.name = 'topup:' || alarm.payment_id
WHERE credit.name IS NULL OR alarm.why = 'contradicted'
ORDER BY alarm.seen_at
"""
"""One that was credited after all, by hand or because the gateway later said whose it is, is none any more."""

INVOICED = """
SELECT 'an advance is used up at most once' AS rule, documents.number AS subject, documents.total_paise AS expected,
    sum(document_uses.amount_paise)::bigint AS found
FROM documents
JOIN document_uses ON document_uses.source = documents.number
GROUP BY documents.number
HAVING sum(document_uses.amount_paise) > documents.total_paise
"""

NUMBERED = """
SELECT 'documents are numbered without gaps' AS rule, series.kind || ' ' || series.financial_year AS subject,
    series.last::bigint AS expected, count(documents.number) AS found
FROM document_series AS series
LEFT JOIN documents ON documents.kind = series.kind AND documents.financial_year = series.financial_year
GROUP BY series.kind, series.financial_year
HAVING count(documents.number) <> series.last OR max(documents.serial) <> series.last
"""

VOUCHERS = """
SELECT 'every payment has its voucher, or waits for it' AS rule, transfers.name AS subject,
    transfers.amount_paise AS expected, coalesce(documents.total_paise, 0) AS found
FROM transfers
LEFT JOIN documents ON documents.subject = transfers.name
WHERE transfers.kind IN ('top_up', 'credit_note') AND transfers.amount_paise IS DISTINCT FROM documents.total_paise
    AND NOT EXISTS (SELECT FROM documents_due WHERE documents_due.transfer = transfers.name)
ORDER BY transfers.name
"""

CHECKS = (
    ALL_BALANCES,
    BALANCES,
    RUNNING_BALANCES,
    ZERO_SUMS,
    TWO_SIDES,
    AMOUNTS,
    COUNTER_SIDES,
    PAID_ORDERS,
    REFUNDS,
    PRICES,
    SEQUENCES,
    INVOICED,
    NUMBERED,
    VOUCHERS,
)
"""What must hold of the books themselves."""
OPEN_QUESTIONS = (CONFLICTS, PARKED, UNCREDITED)
"""What came from outside and does not fit: each has its reason in its name, and waits for a person."""
WITHIN_SEC = 900


async def differences(connection: Connection, *, within_sec: float | None = None) -> list[Difference]:
    """All that does not add up; nothing, on a sound ledger. Reads every entry: for a quiet hour, or a replica.

    Each check is one statement, so transfers that are posted meanwhile do not disturb it.
    """
    return await _found(connection, CHECKS, within_sec)


async def open_questions(connection: Connection, *, within_sec: float | None = None) -> list[Difference]:
    """What contradicts the ledger from outside: ends of calls, payments, records that could not be handled."""
    return await _found(connection, OPEN_QUESTIONS, within_sec)


async def _found(connection: Connection, checks: Sequence[str], within_sec: float | None) -> list[Difference]:
    return [Difference(**row) for check in checks for row in await connection.fetch(check, timeout=within_sec)]


# --- the reconciliation as it is kept ---


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """One run, and what it found."""

    id: int
    started_at: datetime
    finished_at: datetime
    revenue_paise: int
    calls_with_cost: int
    provider_cost_cents: Decimal
    unchecked: Sequence[str]
    differences: Sequence[Mapping[str, object]]


MARGIN = """
SELECT
    coalesce(sum(amount_paise), 0)::bigint AS revenue_paise,
    count(provider_cost_cents) AS calls_with_cost,
    coalesce(sum(provider_cost_cents), 0)::numeric(16, 4) AS provider_cost_cents
FROM transfers
WHERE kind = 'call_debit' AND provider_cost_cents IS NOT NULL
"""

KEEP = """
INSERT INTO reconciliations (started_at, differences, unchecked, revenue_paise, calls_with_cost, provider_cost_cents)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id
"""

KEEP_DIFFERENCES = """
INSERT INTO reconciliation_differences (reconciliation_id, rule, subject, expected, found, reason)
SELECT $1, rule, subject, expected, found, reason
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
     AS d (rule, subject, expected, found, reason)
"""

RECONCILE_LOCK = 0x72636E63


async def reconcile(pool: Pool, elsewhere: Elsewhere) -> bool:
    """Checks everything and keeps what was found; nothing is corrected. False: another replica is at it.

    Whoever is asked `elsewhere` is asked before the transaction begins.
    """
    contradicted, unchecked = await elsewhere()
    async with pool.acquire() as connection, connection.transaction():
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", RECONCILE_LOCK):
            await _show_the_last(connection)
            return False
        await connection.execute(f"SET LOCAL statement_timeout = '{WITHIN_SEC}s'")
        started_at = now()
        wrong = [
            (one, "the books disagree with themselves") for one in await differences(connection, within_sec=WITHIN_SEC)
        ]
        wrong += [(one, "somebody has to look") for one in await open_questions(connection, within_sec=WITHIN_SEC)]
        wrong += [(one, "the api and the wallets disagree") for one in contradicted]
        margin = await connection.fetchrow(MARGIN, timeout=WITHIN_SEC)
        assert margin is not None, "an aggregate has one row"
        kept = await connection.fetchval(KEEP, started_at, len(wrong), unchecked, *margin)
        await connection.execute(
            KEEP_DIFFERENCES,
            kept,
            [one.rule for one, _ in wrong],
            [one.subject for one, _ in wrong],
            [one.expected for one, _ in wrong],
            [one.found for one, _ in wrong],
            [reason for _, reason in wrong],
        )
    _tell([one for one, _ in wrong], unchecked)
    return True


async def _show_the_last(connection: Connection) -> None:
    """What another replica found: a replica that always comes second would show what it found itself, for ever."""
    last = await connection.fetchrow(COUNTS)
    if last is not None:
        DIFFERENCES.set(last["differences"])
        UNCHECKED.set(len(last["unchecked"]))


COUNTS = """
SELECT differences, unchecked
FROM reconciliations
ORDER BY id DESC
LIMIT 1
"""


def _tell(wrong: Sequence[Difference], unchecked: Sequence[str]) -> None:
    DIFFERENCES.set(len(wrong))
    UNCHECKED.set(len(unchecked))
    LAST_RUN.set_to_current_time()
    for one in wrong[:100]:
        log.error("ledger_difference", rule=one.rule, subject=one.subject, expected=one.expected, found=one.found)
    log.info("reconciled", differences=len(wrong), unchecked=unchecked)


LATEST = """
SELECT id, started_at, finished_at, unchecked, revenue_paise, calls_with_cost, provider_cost_cents
FROM reconciliations
ORDER BY id DESC
LIMIT 1
"""

FOUND = """
SELECT rule, subject, expected, found, reason
FROM reconciliation_differences
WHERE reconciliation_id = $1
LIMIT 1000
"""


async def latest(connection: Connection) -> Reconciliation | None:
    """The last run, with at most a thousand of its differences."""
    row = await connection.fetchrow(LATEST)
    if row is None:
        return None
    return Reconciliation(**row, differences=[dict(found) for found in await connection.fetch(FOUND, row["id"])])
