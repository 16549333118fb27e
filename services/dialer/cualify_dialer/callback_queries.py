"""The SQL of what providers tell us: whose it is, and what is kept of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_shared.database import Connection

PUT_PROVIDER_EVENTS = """
INSERT INTO provider_events (provider, body_sha256, body, execution_id, status, call_id)
SELECT *
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::text[], $5::text[], $6::uuid[])
ON CONFLICT ON CONSTRAINT a_provider_says_a_thing_once DO NOTHING
RETURNING body_sha256
"""

WHOSE = """
SELECT ref, provider, call_id, number, execution_id, state, started_at IS NOT NULL AS is_answered,
       disconnected_at IS NOT NULL AS is_disconnected
FROM attempts
WHERE ref = ANY($1::text[]) OR execution_id = ANY($2::text[])
"""

MAKE_DUE = """
WITH hinted AS (
    SELECT ref
    FROM attempts
    WHERE ref = ANY($1::text[]) AND state <> 'ended' AND look_up_at > $2::timestamptz
    ORDER BY ref
    FOR UPDATE
)
UPDATE attempts
SET look_up_at = $2::timestamptz
FROM hinted
WHERE attempts.ref = hinted.ref
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """An attempt as it was a moment ago, unlocked."""

    ref: str
    provider: str
    call_id: UUID
    number: int
    execution_id: str | None
    state: str
    is_answered: bool
    is_disconnected: bool


@dataclass(frozen=True, slots=True)
class Whose:
    """To which attempts callbacks belong. A provider speaks of its own only, so each key begins with its name."""

    by_ref: dict[tuple[str, str], Owner]
    by_execution: dict[tuple[str, str], Owner]


async def whose(connection: Connection, *, refs: Sequence[str], execution_ids: Sequence[str]) -> Whose:
    """Finds attempts by our references and by the provider's ids."""
    owners = [Owner(*row) for row in await connection.fetch(WHOSE, refs, execution_ids)]
    return Whose(
        by_ref={(owner.provider, owner.ref): owner for owner in owners},
        by_execution={(owner.provider, owner.execution_id): owner for owner in owners if owner.execution_id},
    )


async def make_due(connection: Connection, refs: Sequence[str], *, now: datetime) -> None:
    """Has these attempts looked up now. Alone in its transaction: it locks them in the order of all, and no job."""
    await connection.execute(MAKE_DUE, refs, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A callback as it came, and whose it is, if anybody's."""

    provider: str
    sha256: bytes
    body: bytes
    execution_id: str | None
    status: str | None
    call_id: UUID | None


async def put_provider_events(connection: Connection, events: Sequence[ProviderEvent]) -> set[bytes]:
    """Keeps what came; returns the hashes of what had not come before."""
    rows = await connection.fetch(
        PUT_PROVIDER_EVENTS,
        [event.provider for event in events],
        [event.sha256 for event in events],
        [event.body for event in events],
        [event.execution_id for event in events],
        [event.status for event in events],
        [event.call_id for event in events],
    )
    return {row["body_sha256"] for row in rows}


FORGET_PROVIDER_EVENTS = """
DELETE FROM provider_events
WHERE id IN (
    SELECT id
    FROM provider_events
    WHERE received_at < $1::timestamptz
    ORDER BY received_at
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
)
RETURNING id
"""


async def forget_provider_events(connection: Connection, *, before: datetime, limit: int) -> int:
    """Deletes the oldest of what came before that time; says how many that were."""
    return len(await connection.fetch(FORGET_PROVIDER_EVENTS, before, limit))
