"""An org's credit and plan, as billing tells of them."""

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool, Row
from cualify_shared.events import Event
from cualify_shared.events.wallet import PlanActivated, PlanExpired, WalletCredited

PlanEvent = TypeVar("PlanEvent", PlanActivated, PlanExpired)

READ = """
SELECT granted, held
FROM org_credit
WHERE org_id = $1
"""


async def credit(pool: Pool, org_id: UUID) -> Row | None:
    """`granted` and `held`, in paise."""
    return await pool.fetchrow(READ, org_id)


APPLY_CREDITS = """
INSERT INTO credits_applied (transfer, org_id, amount_paise, applied_at)
SELECT c.transfer, c.org_id, c.amount_paise, $4::timestamptz
FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS c (transfer, org_id, amount_paise)
JOIN orgs ON orgs.id = c.org_id
ORDER BY c.transfer
ON CONFLICT (transfer) DO NOTHING
RETURNING org_id, amount_paise
"""


async def apply_credits(connection: Connection, credits: Sequence[WalletCredited]) -> list[tuple[UUID, int]]:
    """(org, paise) of those transfers that had not been applied before."""
    if not credits:
        return []
    rows = await connection.fetch(
        APPLY_CREDITS,
        [one.transfer for one in credits],
        [one.org_id for one in credits],
        [one.amount_paise for one in credits],
        now(),
    )
    return [(row["org_id"], row["amount_paise"]) for row in rows]


ACTIVATE = """
INSERT INTO org_plans (
    org_id, sequence, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls, active_until,
    min_billable_sec
)
SELECT *
FROM unnest(
    $1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::integer[], $7::integer[], $8::timestamptz[],
    $9::integer[]
)
ON CONFLICT (org_id) DO UPDATE
SET sequence = excluded.sequence,
    plan = excluded.plan,
    rate_paise_per_sec = excluded.rate_paise_per_sec,
    pulse_sec = excluded.pulse_sec,
    rate_limit_per_minute = excluded.rate_limit_per_minute,
    max_concurrent_calls = excluded.max_concurrent_calls,
    active_until = excluded.active_until,
    min_billable_sec = excluded.min_billable_sec,
    expired_at = NULL
WHERE org_plans.sequence < excluded.sequence
"""

EXPIRE = """
UPDATE org_plans AS p
SET expired_at = e.expired_at, sequence = e.sequence
FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS e (org_id, sequence, expired_at)
WHERE p.org_id = e.org_id
  AND p.sequence < e.sequence
"""


async def apply_plans(connection: Connection, events: Sequence[Event]) -> None:
    """The newest plan wins, by its event's sequence. The orgs' credit is locked, so nobody else writes the rows."""
    activated = _newest(events, PlanActivated)
    if activated:
        await connection.execute(
            ACTIVATE,
            list(activated),
            [sequence for sequence, _ in activated.values()],
            [plan.plan for _, plan in activated.values()],
            [plan.rate_paise_per_sec for _, plan in activated.values()],
            [plan.pulse_sec for _, plan in activated.values()],
            [plan.rate_limit_per_minute for _, plan in activated.values()],
            [plan.max_concurrent_calls for _, plan in activated.values()],
            [plan.active_until for _, plan in activated.values()],
            [plan.min_billable_sec for _, plan in activated.values()],
        )
    expired = _newest(events, PlanExpired)
    if expired:
        await connection.execute(
            EXPIRE,
            list(expired),
            [sequence for sequence, _ in expired.values()],
            [plan.expired_at for _, plan in expired.values()],
        )


def _newest(events: Sequence[Event], kind: type[PlanEvent]) -> dict[UUID, tuple[int, PlanEvent]]:
    newest: dict[UUID, tuple[int, PlanEvent]] = {}
    for event in events:
        if isinstance(event.data, kind) and event.sequence > newest.get(event.org_id, (0, None))[0]:
            newest[event.org_id] = (event.sequence, event.data)
    return newest
