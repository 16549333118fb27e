"""Upserting a contact: idempotent on (org, phone number), exact however many requests come at once."""

from typing import Any
from uuid import UUID

from cualify_api.calls.schemas import METADATA_BYTES, METADATA_KEYS, bounded_metadata
from cualify_api.contacts import queries
from cualify_api.contacts.contact import Contact, updated
from cualify_api.web.auth import Caller
from cualify_api.web.errors import Problem
from cualify_shared.clock import now
from cualify_shared.database import Connection
from cualify_shared.ids import new_id

TRIES = 5


async def upsert(connection: Connection, who: Caller, given: dict[str, Any], *, request_id: str) -> Contact:
    """The contact as it is now, written in the running transaction.

    Raises:
        Problem: the merged metadata is too large; the contact was deleted again and again meanwhile.
    """
    phone_e164: str = given["phone_e164"]
    for _ in range(TRIES):
        before = await queries.locked(connection, who.org_id, phone_e164)
        after = _after(before, who.org_id, given)
        if before is not None:
            await queries.change(connection, after)
        elif not await queries.add(connection, after):
            continue
        await _note_consent(connection, before, after, who, request_id=request_id)
        return after
    raise Problem("conflict", "this contact is being created and deleted at the same time; try again")


def _after(before: Contact | None, org_id: UUID, given: dict[str, Any]) -> Contact:
    at = now()
    new = Contact(id=new_id(), org_id=org_id, phone_e164=given["phone_e164"], metadata={}, created_at=at, updated_at=at)
    after = updated(before or new, given, at=at)
    _check_size(after.metadata)
    return after


def _check_size(metadata: dict[str, Any]) -> None:
    """Each request's metadata is within the bounds; merged it must be so too."""
    try:
        bounded_metadata(metadata)
    except ValueError:
        message = f"metadata, merged with what is there, has at most {METADATA_KEYS} keys and {METADATA_BYTES} bytes"
        details = {"formErrors": [], "fieldErrors": {"metadata": [message]}}
        raise Problem("invalid_request", message, param="metadata", details=details) from None


async def _note_consent(
    connection: Connection, before: Contact | None, after: Contact, who: Caller, *, request_id: str
) -> None:
    """A row of the history where consent is captured in another way than before: a repeat is no new consent."""
    left = [] if before is None else [before.consent_capture]
    await queries.count(connection, after.org_id, left=left, entered=[after.consent_capture])
    if after.consent_capture is not None and left != [after.consent_capture]:
        await queries.add_consent(connection, after, key_prefix=who.key_prefix, request_id=request_id)
