"""Plans: on which terms an org may place calls. Each change is a new version, and an event of its own."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_billing import ledger
from cualify_shared import faults, outbox
from cualify_shared.clock import now
from cualify_shared.database import Connection, Row
from cualify_shared.events import Event
from cualify_shared.events.wallet import PlanActivated


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an org has agreed to. Without `active_until` it holds until it is replaced."""

    plan: str
    rate_paise_per_sec: int
    pulse_sec: int
    rate_limit_per_minute: int
    max_concurrent_calls: int
    active_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A version of an org's plan."""

    org_id: UUID
    version: int
    terms: Terms
    active_from: datetime

    def is_active(self, at: datetime) -> bool:
        """Whether calls may be placed on it at that instant."""
        return self.terms.active_until is None or at < self.terms.active_until


@dataclass(frozen=True, slots=True)
class Activation:
    """The plan that counts now. `repeated`: it counted already, and nothing was written."""

    plan: Plan
    repeated: bool


async def activate(connection: Connection, *, org_id: UUID, terms: Terms) -> Activation:
    """Puts an org on these terms and says so in `plan.activated`, unless they are the active ones already."""
    await ledger.lock_wallet(connection, org_id)
    at, latest = now(), await latest_plan(connection, org_id)
    if latest is not None and latest.terms == terms and latest.is_active(at):
        return Activation(latest, repeated=True)
    plan = Plan(org_id=org_id, version=latest.version + 1 if latest else 1, terms=terms, active_from=at)
    await _insert(connection, plan)
    faults.point("billing.plan_written")
    await outbox.put(connection, [_activated_event(plan, sequence=await ledger.take_sequence(connection, org_id))])
    return Activation(plan, repeated=False)


LATEST = """
SELECT
    org_id, version, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls,
    active_from, active_until
FROM plans
WHERE org_id = $1
ORDER BY version DESC
LIMIT 1
"""


async def latest_plan(connection: Connection, org_id: UUID) -> Plan | None:
    """The plan that the org got last, whether it is still active or not."""
    row = await connection.fetchrow(LATEST, org_id)
    return None if row is None else _plan(row)


INSERT = """
INSERT INTO plans (
    org_id, version, plan, rate_paise_per_sec, pulse_sec, rate_limit_per_minute, max_concurrent_calls,
    active_from, active_until
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def _insert(connection: Connection, plan: Plan) -> None:
    terms = plan.terms
    await connection.execute(
        INSERT,
        plan.org_id,
        plan.version,
        terms.plan,
        terms.rate_paise_per_sec,
        terms.pulse_sec,
        terms.rate_limit_per_minute,
        terms.max_concurrent_calls,
        plan.active_from,
        terms.active_until,
    )


def _plan(row: Row) -> Plan:
    values = dict(row)
    own = {name: values.pop(name) for name in ("org_id", "version", "active_from")}
    return Plan(**own, terms=Terms(**values))


def _activated_event(plan: Plan, *, sequence: int) -> Event:
    terms = plan.terms
    return Event(
        data=PlanActivated(
            org_id=plan.org_id,
            plan=terms.plan,
            rate_paise_per_sec=terms.rate_paise_per_sec,
            pulse_sec=terms.pulse_sec,
            rate_limit_per_minute=terms.rate_limit_per_minute,
            max_concurrent_calls=terms.max_concurrent_calls,
            active_from=plan.active_from,
            active_until=terms.active_until,
        ),
        org_id=plan.org_id,
        key=plan.org_id,
        subject=f"wallet/{plan.org_id}",
        sequence=sequence,
    )
