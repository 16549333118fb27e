"""A balance that runs low, told to the customer: once per event of billing's, numbered per org."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from cualify_shared.database import Connection
from cualify_shared.events import Event
from cualify_shared.events.customer import CustomerWalletLowBalance
from cualify_shared.events.wallet import WalletLowBalance

READ = """
SELECT org_id, customer_sequence, low_balance_sequence
FROM org_notifications
WHERE org_id = ANY($1::uuid[])
"""

KEEP = """
INSERT INTO org_notifications (org_id, customer_sequence, low_balance_sequence)
SELECT *
FROM unnest($1::uuid[], $2::integer[], $3::bigint[])
ON CONFLICT (org_id) DO UPDATE
SET customer_sequence = excluded.customer_sequence, low_balance_sequence = excluded.low_balance_sequence
"""


async def low_balances(connection: Connection, events: Sequence[Event], *, at: datetime) -> list[Event]:
    """Notifications of those that have not been told yet. The orgs' credit is locked, so nobody else writes the rows.

    An older event than the newest told is passed over: that balance is history.
    """
    said = [event for event in events if isinstance(event.data, WalletLowBalance)]
    if not said:
        return []
    rows = await connection.fetch(READ, list({event.org_id for event in said}))
    known = {row["org_id"]: (row["customer_sequence"], row["low_balance_sequence"]) for row in rows}
    told: list[Event] = []
    changed: dict[UUID, tuple[int, int]] = {}
    for event in sorted(said, key=lambda one: one.sequence):
        sequence, newest = changed.get(event.org_id) or known.get(event.org_id, (0, 0))
        if event.sequence > newest:
            changed[event.org_id] = (sequence + 1, event.sequence)
            told.append(_told(event, sequence=sequence + 1, at=at))
    if changed:
        await connection.execute(
            KEEP, list(changed), [one[0] for one in changed.values()], [one[1] for one in changed.values()]
        )
    return told


def _told(event: Event, *, sequence: int, at: datetime) -> Event:
    said = event.data
    assert isinstance(said, WalletLowBalance)
    return Event(
        data=CustomerWalletLowBalance(
            org_id=event.org_id, balance_paise=said.balance_paise, threshold_paise=said.threshold_paise
        ),
        org_id=event.org_id,
        key=event.org_id,
        subject=f"org/{event.org_id}",
        sequence=sequence,
        time=at,
        causation_id=str(event.id),
    )
