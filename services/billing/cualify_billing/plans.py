"""Plans: on which terms an org may place calls. Each change is a new version, and an event of its own.

A plan that renews ends at the month's turn in Kolkata and goes on as a new version; one that ends otherwise is said to
have expired; a change that was scheduled takes its place at the turn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from uuid import UUID

from cualify_billing import ledger
from cualify_billing.india import month_turn_after
from cualify_shared import faults, outbox
from cualify_shared.clock import now
from cualify_shared.database import Connection, Row
from cualify_shared.events import EventData
from cualify_shared.events.wallet import PlanActivated, PlanExpired

TURN_LOCK = 0x7475726E


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an org has agreed to. Without `active_until` it holds until it is replaced."""

    plan: str
    rate_paise_per_sec: int
    pulse_sec: int
    min_billable_sec: int = 0
    rate_limit_per_minute: int
    max_concurrent_calls: int
    renews_monthly: bool = False
    active_until: datetime | None

    def beginning(self, at: datetime) -> "Terms":
        """The terms as they hold from an instant: what renews, ends with that instant's month."""
        return replace(self, active_until=month_turn_after(at)) if self.renews_monthly else self


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


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Terms that replace an org's plan at a month's turn."""

    terms: Terms
    starts_at: datetime


@dataclass(frozen=True, slots=True)
class Turned:
    """What happened to an org's plan when it was due."""

    org_id: UUID
    plan: str
    what: str


async def activate(connection: Connection, *, org_id: UUID, terms: Terms, at: datetime | None = None) -> Activation:
    """Puts an org on these terms and says so in `plan.activated`, unless they are the active ones already."""
    await ledger.lock_wallet(connection, org_id)
    at, latest = at or now(), await latest_plan(connection, org_id)
    terms = terms.beginning(at)
    if latest is not None and latest.terms == terms and latest.is_active(at):
        return Activation(latest, repeated=True)
    plan = await _begin(connection, org_id, latest, terms, at)
    await _set_turn(connection, org_id)
    return Activation(plan, repeated=False)


SCHEDULE = """
INSERT INTO scheduled_plans (
    org_id, plan, rate_paise_per_sec, pulse_sec, min_billable_sec, rate_limit_per_minute, max_concurrent_calls,
    renews_monthly, starts_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (org_id) DO UPDATE SET
    plan = excluded.plan, rate_paise_per_sec = excluded.rate_paise_per_sec, pulse_sec = excluded.pulse_sec,
    min_billable_sec = excluded.min_billable_sec, rate_limit_per_minute = excluded.rate_limit_per_minute,
    max_concurrent_calls = excluded.max_concurrent_calls, renews_monthly = excluded.renews_monthly,
    starts_at = excluded.starts_at
"""


async def schedule(connection: Connection, *, org_id: UUID, terms: Terms, at: datetime) -> Scheduled:
    """Has these terms replace the org's plan at the next month's turn; a change scheduled before is forgotten."""
    await ledger.lock_wallet(connection, org_id)
    starts_at = month_turn_after(at)
    values = asdict(terms)
    del values["active_until"]
    await connection.execute(SCHEDULE, org_id, *(values[name] for name in _SCHEDULED_TERMS), starts_at)
    await _set_turn(connection, org_id)
    return Scheduled(terms, starts_at)


_SCHEDULED_TERMS = (
    *("plan", "rate_paise_per_sec", "pulse_sec", "min_billable_sec", "rate_limit_per_minute"),
    *("max_concurrent_calls", "renews_monthly"),
)

FORGET_SCHEDULED = """
DELETE FROM scheduled_plans
WHERE org_id = $1
"""


async def forget_scheduled(connection: Connection, org_id: UUID) -> bool:
    """Takes a scheduled change back; whether there was one."""
    await ledger.lock_wallet(connection, org_id)
    gone: str = await connection.execute(FORGET_SCHEDULED, org_id)
    await _set_turn(connection, org_id)
    return gone != "DELETE 0"


DUE = """
SELECT org_id
FROM plan_turns
WHERE due_at <= $1
ORDER BY due_at, org_id
LIMIT $2
"""


async def turn_due(connection: Connection, *, at: datetime, most: int = 100) -> list[Turned]:
    """Renews, replaces or expires what is due, up to so many orgs. One replica does it at a time."""
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", TURN_LOCK):
        return []
    due = [row["org_id"] for row in await connection.fetch(DUE, at, most)]
    if not due:
        return []
    await ledger.lock_wallets(connection, due)
    return [turned for org_id in due for turned in await _turn(connection, org_id, at)]


async def _turn(connection: Connection, org_id: UUID, at: datetime) -> Sequence[Turned]:
    latest, next_one = await latest_plan(connection, org_id), await scheduled_plan(connection, org_id)
    turned: list[Turned] = []
    if next_one is not None and next_one.starts_at <= at:
        await connection.execute(FORGET_SCHEDULED, org_id)
        await _begin(connection, org_id, latest, next_one.terms.beginning(at), at)
        turned.append(Turned(org_id, next_one.terms.plan, "changed"))
    elif latest is not None and not latest.is_active(at):
        if latest.terms.renews_monthly:
            await _begin(connection, org_id, latest, latest.terms.beginning(at), at)
            turned.append(Turned(org_id, latest.terms.plan, "renewed"))
        else:
            turned += await _expire(connection, latest)
    await _set_turn(connection, org_id)
    return turned


EXPIRE = """
INSERT INTO plan_expiries (org_id, version, expired_at)
VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
RETURNING version
"""


async def _expire(connection: Connection, plan: Plan) -> list[Turned]:
    ended_at = plan.terms.active_until
    assert ended_at is not None, "only what ends can have ended"
    if await connection.fetchval(EXPIRE, plan.org_id, plan.version, ended_at) is None:
        return []
    faults.point("billing.plan_expired")
    await _say(connection, plan.org_id, PlanExpired(org_id=plan.org_id, plan=plan.terms.plan, expired_at=ended_at))
    return [Turned(plan.org_id, plan.terms.plan, "expired")]


LATEST = """
SELECT
    org_id, version, plan, rate_paise_per_sec, pulse_sec, min_billable_sec, rate_limit_per_minute,
    max_concurrent_calls, renews_monthly, active_from, active_until
FROM plans
WHERE org_id = $1
ORDER BY version DESC
LIMIT 1
"""


async def latest_plan(connection: Connection, org_id: UUID) -> Plan | None:
    """The plan that the org got last, whether it is still active or not."""
    row = await connection.fetchrow(LATEST, org_id)
    return None if row is None else _plan(row)


SCHEDULED = """
SELECT
    plan, rate_paise_per_sec, pulse_sec, min_billable_sec, rate_limit_per_minute, max_concurrent_calls,
    renews_monthly, starts_at
FROM scheduled_plans
WHERE org_id = $1
"""


async def scheduled_plan(connection: Connection, org_id: UUID) -> Scheduled | None:
    """What replaces the org's plan at the month's turn."""
    row = await connection.fetchrow(SCHEDULED, org_id)
    if row is None:
        return None
    values = dict(row)
    starts_at = values.pop("starts_at")
    return Scheduled(Terms(**values, active_until=None), starts_at)


INSERT = """
INSERT INTO plans (
    org_id, version, plan, rate_paise_per_sec, pulse_sec, min_billable_sec, rate_limit_per_minute,
    max_concurrent_calls, renews_monthly, active_from, active_until
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""


async def _begin(connection: Connection, org_id: UUID, latest: Plan | None, terms: Terms, at: datetime) -> Plan:
    plan = Plan(org_id=org_id, version=latest.version + 1 if latest else 1, terms=terms, active_from=at)
    values = asdict(terms)
    own = (values[name] for name in _SCHEDULED_TERMS)
    await connection.execute(INSERT, org_id, plan.version, *own, plan.active_from, terms.active_until)
    faults.point("billing.plan_written")
    await _say(connection, org_id, _activated(plan))
    return plan


SET_TURN = """
WITH due AS (
    SELECT least(
        (SELECT starts_at FROM scheduled_plans WHERE org_id = $1),
        (
            SELECT active_until
            FROM (SELECT version, active_until FROM plans WHERE org_id = $1 ORDER BY version DESC LIMIT 1) AS latest
            WHERE NOT EXISTS (SELECT FROM plan_expiries WHERE org_id = $1 AND version = latest.version)
        )
    ) AS at
),
gone AS (
    DELETE FROM plan_turns
    WHERE org_id = $1 AND (SELECT at FROM due) IS NULL
)
INSERT INTO plan_turns (org_id, due_at)
SELECT $1::uuid, at
FROM due
WHERE at IS NOT NULL
ON CONFLICT (org_id) DO UPDATE SET due_at = excluded.due_at
"""


async def _set_turn(connection: Connection, org_id: UUID) -> None:
    """Notes when something is due to happen next; the wallet is locked, so nobody else notes another."""
    await connection.execute(SET_TURN, org_id)


async def _say(connection: Connection, org_id: UUID, data: EventData) -> None:
    sequence = await ledger.take_sequence(connection, org_id)
    await outbox.put(connection, [ledger.wallet_event(data, org_id=org_id, sequence=sequence)])


def _plan(row: Row) -> Plan:
    values = dict(row)
    own = {name: values.pop(name) for name in ("org_id", "version", "active_from")}
    return Plan(**own, terms=Terms(**values))


def _activated(plan: Plan) -> PlanActivated:
    terms = plan.terms
    return PlanActivated(
        org_id=plan.org_id,
        plan=terms.plan,
        rate_paise_per_sec=terms.rate_paise_per_sec,
        pulse_sec=terms.pulse_sec,
        min_billable_sec=terms.min_billable_sec,
        rate_limit_per_minute=terms.rate_limit_per_minute,
        max_concurrent_calls=terms.max_concurrent_calls,
        active_from=plan.active_from,
        # A plan that renews has no end that anybody should act on: it goes on until the ledger says otherwise.
        active_until=None if terms.renews_monthly else terms.active_until,
    )
