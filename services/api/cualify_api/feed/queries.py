"""What customers were told, in the database: per org in the order of commits, numbered without gaps."""

from collections.abc import Sequence
from uuid import UUID

from cualify_shared.database import Connection, Pool, Row
from cualify_shared.events import Event
from cualify_shared.events.customer import public_data, public_name

ADD = """
WITH told AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::jsonb[], $7::timestamptz[])
         WITH ORDINALITY AS t (id, org_id, subject_id, sequence, type, data, at, n)
), feed AS (
    INSERT INTO org_feeds (org_id, last)
    SELECT org_id, count(*)
    FROM told
    GROUP BY org_id
    ORDER BY org_id
    ON CONFLICT (org_id) DO UPDATE SET last = org_feeds.last + excluded.last
    RETURNING org_id, last
)
INSERT INTO customer_events (id, org_id, subject_id, sequence, type, data, at, position)
SELECT t.id, t.org_id, t.subject_id, t.sequence, t.type, t.data, t.at,
       feed.last - count(*) OVER (PARTITION BY t.org_id)
           + row_number() OVER (PARTITION BY t.org_id ORDER BY t.n)
FROM told AS t
JOIN feed ON feed.org_id = t.org_id
"""


async def add(connection: Connection, events: Sequence[Event]) -> None:
    """Takes the next positions of the orgs' feeds, and with them their locks: call it once, last in a transaction.

    A position is taken under the org's lock and that is held until COMMIT, so nobody who has seen a position can have
    missed a lower one.
    """
    await connection.execute(
        ADD,
        [event.id for event in events],
        [event.org_id for event in events],
        [event.key for event in events],
        [event.sequence for event in events],
        [public_name(event.type.name) for event in events],
        [public_data(event.data) for event in events],
        [event.time for event in events],
    )


POSITION = """
SELECT position
FROM customer_events
WHERE org_id = $1 AND id = $2
"""


async def position(pool: Pool, org_id: UUID, event_id: UUID) -> int | None:
    """Where an event stands in its org's feed; None where it is no event of the org's."""
    found: int | None = await pool.fetchval(POSITION, org_id, event_id)
    return found


AFTER = """
SELECT id, org_id, sequence, type, data, at
FROM customer_events
WHERE org_id = $1 AND position > $2
ORDER BY position
LIMIT $3
"""


async def after(pool: Pool, org_id: UUID, position: int, *, limit: int) -> list[Row]:
    """The next events of an org's feed, oldest first."""
    return await pool.fetch(AFTER, org_id, position, limit)
