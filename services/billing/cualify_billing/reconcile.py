"""Does the ledger agree with itself? Read-only. What it finds is for a person: nothing here corrects anything."""

from dataclasses import dataclass

from cualify_shared.database import Connection


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures that should be equal. `rule` says by which rule, `subject` of what."""

    rule: str
    subject: str
    expected: int
    found: int


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

CHECKS = (ALL_BALANCES, BALANCES, RUNNING_BALANCES, ZERO_SUMS, TWO_SIDES, AMOUNTS, PRICES, SEQUENCES)


async def differences(connection: Connection) -> list[Difference]:
    """All that does not add up; nothing, on a sound ledger. Reads every entry: for a quiet hour, or a replica.

    Each check is one statement, so transfers that are posted meanwhile do not disturb it.
    """
    return [Difference(**row) for check in CHECKS for row in await connection.fetch(check)]
