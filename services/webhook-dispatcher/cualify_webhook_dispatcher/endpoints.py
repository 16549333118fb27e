"""An org's endpoints: registered, listed, deleted, swept. `org_id` comes first in what customers reach."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from cualify_shared import outbox
from cualify_shared.database import Pool, Row
from cualify_shared.events.envelope import Event
from cualify_shared.events.webhook import WebhookEndpointPaused
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import queries, sign
from cualify_webhook_dispatcher.jobs import Endpoint
from cualify_webhook_dispatcher.secrets import CannotOpen, Secrets

log = structlog.get_logger(__name__)

MAX_PER_ORG = 20


@dataclass(frozen=True, slots=True)
class Registered:
    """The endpoint as it is shown, and its secret, shown this once."""

    shown: dict[str, Any]
    secret: str


@dataclass(frozen=True, slots=True)
class TooMany:
    """The org has as many as it may have."""


LOCK_ORG = """
SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))
"""

REGISTER = """
INSERT INTO endpoints (id, org_id, url, events, secret_sealed, secret_key_id)
SELECT $2::uuid, $1::uuid, $3::text, $4::text[], $5::bytea, $6::text
WHERE (SELECT count(*) FROM endpoints WHERE org_id = $1::uuid AND deleted_at IS NULL) < $7::integer
RETURNING id, url, events, active, created_at
"""


REGISTERED = """
SELECT id, url, events, active, created_at, secret_sealed, secret_key_id
FROM endpoints
WHERE org_id = $1 AND id = $2
"""


async def register(
    pool: Pool, secrets: Secrets, *, org_id: UUID, url: str, events: list[str], endpoint_id: UUID | None = None
) -> Registered | TooMany:
    """A new endpoint with a secret of its own, or the one of this id: who asks again did not hear the first answer.

    Two at once can't pass the limit together.
    """
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ORG, str(org_id))
        known = None if endpoint_id is None else await connection.fetchrow(REGISTERED, org_id, endpoint_id)
        if known is not None and known["secret_sealed"] is not None:
            return _again(secrets, known, org_id)
        if endpoint_id is None or known is not None:
            endpoint_id = new_id()
        secret = sign.new_secret()
        sealed = secrets.seal(secret, endpoint_id=endpoint_id, org_id=org_id)
        row = await connection.fetchrow(REGISTER, org_id, endpoint_id, url, events, sealed, secrets.key_id, MAX_PER_ORG)
    return TooMany() if row is None else Registered(dict(row), secret)


def _again(secrets: Secrets, row: Row, org_id: UUID) -> Registered:
    secret = secrets.open(row["secret_sealed"], key_id=row["secret_key_id"], endpoint_id=row["id"], org_id=org_id)
    return Registered({name: row[name] for name in ("id", "url", "events", "active", "created_at")}, secret)


LIST = """
SELECT id, url, events, active, created_at, last_delivery_at, last_status, paused_reason, failing_since,
       opened_at IS NOT NULL AS is_open, not_before
FROM endpoints
WHERE org_id = $1 AND deleted_at IS NULL
ORDER BY created_at DESC, id DESC
LIMIT $2 OFFSET $3
"""

COUNT = """
SELECT count(*)
FROM endpoints
WHERE org_id = $1 AND deleted_at IS NULL
"""


async def listed(pool: Pool, *, org_id: UUID, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
    """A page, newest first, and how many there are."""
    async with pool.acquire() as connection:
        rows = await connection.fetch(LIST, org_id, limit, offset)
        return [dict(row) for row in rows], int(await connection.fetchval(COUNT, org_id))


DELETE = """
UPDATE endpoints
SET deleted_at = clock_timestamp(), secret_sealed = NULL, next_due_at = NULL,
    old_secret_sealed = NULL, old_secret_key_id = NULL, old_secret_until = NULL
WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id
"""


async def delete(pool: Pool, *, org_id: UUID, endpoint_id: UUID) -> bool:
    """Whether the org had it. From the COMMIT on nothing of it is claimed, and its secret is gone."""
    return await pool.fetchval(DELETE, org_id, endpoint_id) is not None


CHANGE = """
UPDATE endpoints
SET url = coalesce($3::text, url),
    events = coalesce($4::text[], events),
    events_before = CASE WHEN $4::text[] <> events THEN events ELSE events_before END,
    events_changed_at = CASE WHEN $4::text[] <> events THEN date_trunc('milliseconds', clock_timestamp())
                             ELSE events_changed_at END,
    active = coalesce($5::boolean, active),
    paused_reason = CASE WHEN $5::boolean IS NULL THEN paused_reason
                         WHEN NOT $5::boolean THEN coalesce(paused_reason, 'customer') END,
    failures_in_a_row = CASE WHEN $6::boolean THEN 0 ELSE failures_in_a_row END,
    failing_since = CASE WHEN $6::boolean THEN NULL ELSE failing_since END,
    opened_at = CASE WHEN $6::boolean THEN NULL ELSE opened_at END,
    probes = CASE WHEN $6::boolean THEN 0 ELSE probes END,
    not_before = CASE WHEN $6::boolean THEN NULL ELSE not_before END,
    recovered_at = CASE WHEN $6::boolean THEN now() ELSE recovered_at END,
    next_due_at = CASE WHEN $6::boolean THEN now() ELSE next_due_at END,
    event_sequence = event_sequence + $7::integer
WHERE org_id = $1 AND id = $2
RETURNING id, url, events, active, created_at, paused_reason, event_sequence
"""

LOCK_ONE = """
SELECT id, url, active
FROM endpoints
WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL
FOR NO KEY UPDATE
"""


async def change(
    pool: Pool, *, org_id: UUID, endpoint_id: UUID, url: str | None, events: list[str] | None, active: bool | None
) -> dict[str, Any] | None:
    """The endpoint as it is shown, or None if the org does not have it.

    Resuming it, or giving it another URL, makes it well again: what it was kept from goes out, slowly at first. Other
    events count from now on: what happened before is told by what it was registered for then.
    """
    async with pool.acquire() as connection, connection.transaction():
        was = await connection.fetchrow(LOCK_ONE, org_id, endpoint_id)
        if was is None:
            return None
        stays = was["active"] if active is None else active
        fresh = (active is True and not was["active"]) or (stays and url is not None and url != was["url"])
        pausing = was["active"] and active is False
        row = await connection.fetchrow(CHANGE, org_id, endpoint_id, url, events, active, fresh, int(pausing))
        assert row is not None
        if fresh:
            await queries.bring_forward(connection, [endpoint_id])
        if pausing:
            await outbox.put(connection, [_paused_by_customer(endpoint_id, org_id, row["event_sequence"])])
    return {name: row[name] for name in SHOWN}


async def resume(pool: Pool, *, org_id: UUID, endpoint_id: UUID) -> None:
    """Resumes it if it is paused."""
    await change(pool, org_id=org_id, endpoint_id=endpoint_id, url=None, events=None, active=True)


SHOWN = ("id", "url", "events", "active", "created_at", "paused_reason")


def _paused_by_customer(endpoint_id: UUID, org_id: UUID, sequence: int) -> Event:
    data = WebhookEndpointPaused(endpoint_id=endpoint_id, org_id=org_id, reason="customer")
    return Event(data=data, org_id=org_id, key=endpoint_id, subject=f"endpoint/{endpoint_id}", sequence=sequence)


ROTATE = """
UPDATE endpoints
SET old_secret_sealed = secret_sealed,
    old_secret_key_id = secret_key_id,
    old_secret_until = now() + $5::interval,
    secret_sealed = $3,
    secret_key_id = $4
WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL
RETURNING id, url, events, active, created_at, paused_reason, old_secret_until
"""

OLD_SECRET_SIGNS_FOR = timedelta(hours=24)


async def rotate(pool: Pool, secrets: Secrets, *, org_id: UUID, endpoint_id: UUID) -> Registered | None:
    """A new secret; the one until now signs beside it for a day. The one before that signs no more."""
    secret = sign.new_secret()
    sealed = secrets.seal(secret, endpoint_id=endpoint_id, org_id=org_id)
    row = await pool.fetchrow(ROTATE, org_id, endpoint_id, sealed, secrets.key_id, OLD_SECRET_SIGNS_FOR)
    return None if row is None else Registered(dict(row), secret)


ONE = """
SELECT id, org_id, url, secret_sealed, secret_key_id, old_secret_sealed, old_secret_key_id, old_secret_until,
       recovered_at
FROM endpoints
WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL
"""


async def one(pool: Pool, *, org_id: UUID, endpoint_id: UUID) -> Endpoint | None:
    """An org's endpoint, with what signs for it."""
    row = await pool.fetchrow(ONE, org_id, endpoint_id)
    return None if row is None else queries.endpoint_of(row)


FORGET_OLD_SECRETS = """
UPDATE endpoints
SET old_secret_sealed = NULL, old_secret_key_id = NULL, old_secret_until = NULL
WHERE id IN (
    SELECT id
    FROM endpoints
    WHERE old_secret_until < now()
    ORDER BY id
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING id
"""


async def forget_old_secrets(pool: Pool, *, at_most: int) -> int:
    """Forgets secrets that a rotation has replaced and that sign no more. How many."""
    return len(await pool.fetch(FORGET_OLD_SECRETS, at_most))


SEALED_UNDER_ANOTHER_KEY = """
SELECT id, org_id, secret_sealed, secret_key_id, old_secret_sealed, old_secret_key_id
FROM endpoints
WHERE deleted_at IS NULL AND id > $3
  AND (
      (secret_key_id <> $1 AND secret_key_id = ANY($2::text[]))
      OR (old_secret_key_id <> $1 AND old_secret_key_id = ANY($2::text[]))
  )
ORDER BY id
LIMIT $4
FOR NO KEY UPDATE SKIP LOCKED
"""

SEAL_AGAIN = """
UPDATE endpoints e
SET secret_sealed = s.sealed,
    secret_key_id = s.key_id,
    old_secret_sealed = s.old_sealed,
    old_secret_key_id = s.old_key_id
FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[], $5::text[])
     AS s (id, sealed, key_id, old_sealed, old_key_id)
WHERE e.id = s.id
"""


async def seal_again(pool: Pool, secrets: Secrets, *, after: UUID, at_most: int) -> UUID | None:
    """Seals under the present key what is sealed under an older one that is known: a batch of endpoints behind `after`.

    The last of them, or None when there are no more. A secret that does not open is told in the log and left alone.
    """
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(SEALED_UNDER_ANOTHER_KEY, secrets.key_id, secrets.known_keys, after, at_most)
        columns = [(row["id"], *_anew(secrets, row, "secret"), *_anew(secrets, row, "old_secret")) for row in rows]
        await connection.execute(SEAL_AGAIN, *([column[n] for column in columns] for n in range(5)))
    return rows[-1]["id"] if rows else None


def _anew(secrets: Secrets, row: Row, which: str) -> tuple[bytes | None, str | None]:
    """A secret as it is to rest from now on, and the name of the key."""
    sealed, key_id = row[f"{which}_sealed"], row[f"{which}_key_id"]
    if sealed is None or key_id == secrets.key_id or key_id not in secrets.known_keys:
        return sealed, key_id
    ids = {"endpoint_id": row["id"], "org_id": row["org_id"]}
    try:
        return secrets.seal(secrets.open(sealed, key_id=key_id, **ids), **ids), secrets.key_id
    except CannotOpen:
        log.exception("secret_does_not_open", endpoint_id=str(row["id"]))
        return sealed, key_id


SWEEP_DELIVERIES = """
DELETE FROM deliveries d
USING (
    SELECT p.event_id, p.endpoint_id
    FROM endpoints e
    JOIN deliveries p ON p.endpoint_id = e.id
    WHERE e.deleted_at IS NOT NULL
    LIMIT $1
) gone
WHERE d.event_id = gone.event_id AND d.endpoint_id = gone.endpoint_id
RETURNING d.event_id
"""

SWEEP_ENDPOINTS = """
WITH swept AS (
    DELETE FROM endpoints e
    WHERE e.deleted_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM deliveries d WHERE d.endpoint_id = e.id)
    RETURNING e.id
)
DELETE FROM replays r
USING swept s
WHERE r.endpoint_id = s.id
"""


async def sweep(pool: Pool, *, at_most: int) -> int:
    """Removes deleted endpoints' deliveries, sent ones too, then their rows and replays. How many deliveries went.

    Nothing else would find them: what is kept for its time is found by its endpoint.
    """
    swept = len(await pool.fetch(SWEEP_DELIVERIES, at_most))
    if swept < at_most:
        await pool.execute(SWEEP_ENDPOINTS)
    return swept
