"""Contacts in the database. Every query begins with the org."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cualify_api.contacts.contact import Contact
from cualify_api.web.paging import Cursor
from cualify_shared.database import Connection, Row

_COLUMNS: Final = """
    id, org_id, phone_e164, name, email, language_pref, metadata, consent_capture, created_at, updated_at
"""

GET = "SELECT" + _COLUMNS + "FROM contacts WHERE org_id = $1 AND id = $2"


async def get(connection: Connection, org_id: UUID, contact_id: UUID) -> Contact | None:
    """An org's contact; None also where it is another org's."""
    return _maybe(await connection.fetchrow(GET, org_id, contact_id))


LOCK = "SELECT" + _COLUMNS + "FROM contacts WHERE org_id = $1 AND phone_e164 = $2 FOR UPDATE"


async def locked(connection: Connection, org_id: UUID, phone_e164: str) -> Contact | None:
    """The contact of a phone number, locked until the transaction ends."""
    return _maybe(await connection.fetchrow(LOCK, org_id, phone_e164))


ADD = """
INSERT INTO contacts (
    id, org_id, phone_e164, name, email, language_pref, metadata, consent_capture, created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT ON CONSTRAINT a_phone_number_is_one_contact_of_an_org DO NOTHING
RETURNING true
"""


async def add(connection: Connection, contact: Contact) -> bool:
    """Whether it was inserted: somebody else may have inserted that number meanwhile."""
    added = await connection.fetchval(
        ADD,
        contact.id,
        contact.org_id,
        contact.phone_e164,
        contact.name,
        contact.email,
        contact.language_pref,
        contact.metadata,
        contact.consent_capture,
        contact.created_at,
        contact.updated_at,
    )
    return bool(added)


CHANGE = """
UPDATE contacts
SET name = $3, email = $4, language_pref = $5, metadata = $6, consent_capture = $7, updated_at = $8
WHERE org_id = $1 AND id = $2
"""


async def change(connection: Connection, contact: Contact) -> None:
    """Writes back a contact that this transaction has locked."""
    await connection.execute(
        CHANGE,
        contact.org_id,
        contact.id,
        contact.name,
        contact.email,
        contact.language_pref,
        contact.metadata,
        contact.consent_capture,
        contact.updated_at,
    )


REMOVE = """
DELETE FROM contacts
WHERE org_id = $1 AND id = $2
RETURNING consent_capture
"""


REMOVE_ANSWERS = """
DELETE FROM idempotency_keys
WHERE org_id = $1 AND route = $2 AND status IS NOT NULL
"""


async def remove(connection: Connection, org_id: UUID, contact_id: UUID, *, route: str) -> bool:
    """Whether there was such a contact; its total is lowered with it.

    Answers kept for idempotency keys of `route` may show the contact and can't be told apart, so all of the org's go.
    An upsert asked again under such a key is done again, which makes no difference.
    """
    row = await connection.fetchrow(REMOVE, org_id, contact_id)
    if row is not None:
        await connection.execute(REMOVE_ANSWERS, org_id, route)
        await count(connection, org_id, left=[row["consent_capture"]], entered=[])
    return row is not None


ADD_CONSENT = """
INSERT INTO contact_consents (org_id, contact_id, consent_capture, at, key_prefix, request_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def add_consent(connection: Connection, contact: Contact, *, key_prefix: str, request_id: str) -> None:
    """Notes how consent is captured from now on, and by which request that was said."""
    await connection.execute(
        ADD_CONSENT, contact.org_id, contact.id, contact.consent_capture, contact.updated_at, key_prefix, request_id
    )


CONSENTS = """
SELECT consent_capture, at
FROM contact_consents
WHERE org_id = $1 AND contact_id = $2
ORDER BY id
LIMIT 1000
"""


async def consents(connection: Connection, org_id: UUID, contact_id: UUID) -> list[Row]:
    """The history, oldest first."""
    return await connection.fetch(CONSENTS, org_id, contact_id)


COUNT = """
INSERT INTO contact_counts (org_id, consent_capture, contacts)
SELECT $1, consent_capture, change
FROM unnest($2::text[], $3::bigint[]) AS d (consent_capture, change)
ORDER BY consent_capture
ON CONFLICT (org_id, consent_capture) DO UPDATE SET contacts = contact_counts.contacts + excluded.contacts
"""


async def count(
    connection: Connection, org_id: UUID, *, left: Iterable[str | None], entered: Iterable[str | None]
) -> None:
    """Keeps the totals: contacts left one kind of consent and entered another; None is no consent."""
    changes = Counter(kind or "" for kind in entered)
    changes.subtract(kind or "" for kind in left)
    real = {kind: change for kind, change in changes.items() if change}
    if real:
        await connection.execute(COUNT, org_id, list(real), list(real.values()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of an org's contacts a list shows."""

    consent_capture: str | None
    phone_e164: str | None
    updated_after: datetime


_MATCHES: Final = """
WHERE org_id = $1
  AND ($2::text IS NULL OR consent_capture = $2)
  AND ($3::text IS NULL OR phone_e164 = $3)
  AND updated_at >= $4
"""

LIST = (
    "SELECT"
    + _COLUMNS
    + "FROM contacts"
    + _MATCHES
    + """
  AND (created_at, id) < ($5::timestamptz, $6::uuid)
ORDER BY created_at DESC, id DESC
LIMIT $7 OFFSET $8
"""
)

TOTAL_MATCHING = "SELECT count(*) FROM contacts" + _MATCHES

TOTAL = """
SELECT coalesce(sum(contacts), 0)::bigint
FROM contact_counts
WHERE org_id = $1 AND ($2::text IS NULL OR consent_capture = $2)
"""


async def listed(
    connection: Connection, org_id: UUID, wanted: Wanted, *, start: Cursor, limit: int, offset: int
) -> list[Contact]:
    """Up to `limit` contacts after `start`, newest first."""
    given = (wanted.consent_capture, wanted.phone_e164, wanted.updated_after)
    rows = await connection.fetch(LIST, org_id, *given, start.at, start.id, limit, offset)
    return [Contact(**row) for row in rows]


async def total(connection: Connection, org_id: UUID, wanted: Wanted, *, counted: bool) -> int:
    """How many there are. `counted`: the kept totals can't tell, the index has to."""
    if counted:
        given = (wanted.consent_capture, wanted.phone_e164, wanted.updated_after)
        found: int = await connection.fetchval(TOTAL_MATCHING, org_id, *given)
    else:
        found = await connection.fetchval(TOTAL, org_id, wanted.consent_capture)
    return found


def _maybe(row: Row | None) -> Contact | None:
    return None if row is None else Contact(**row)
