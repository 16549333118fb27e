"""A contact, and what an upsert makes of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from cualify_shared.clock import rfc3339

ConsentCapture = Literal["pre_call", "website_form", "manual", "imported"]
CONSENTS: Final[tuple[ConsentCapture, ...]] = ("pre_call", "website_form", "manual", "imported")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One row of `contacts`."""

    id: UUID
    org_id: UUID
    phone_e164: str
    name: str | None = None
    email: str | None = None
    language_pref: str | None = None
    metadata: dict[str, Any]
    consent_capture: str | None = None
    created_at: datetime
    updated_at: datetime


def updated(contact: Contact, given: Mapping[str, Any], *, at: datetime) -> Contact:
    """`contact` with what was given: fields replace, absent ones stay, metadata keys merge and null removes one."""
    fields = {name: value for name, value in given.items() if name not in ("phone_e164", "metadata")}
    metadata = merged(contact.metadata, given.get("metadata", {}))
    # Two replicas' clocks may differ by a little; an update is never before what it updates.
    return replace(contact, **fields, metadata=metadata, updated_at=max(at, contact.updated_at))


def merged(metadata: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `changes` over those of `metadata`; a null removes its key."""
    return {name: value for name, value in {**metadata, **changes}.items() if value is not None}


def view(contact: Contact) -> dict[str, Any]:
    """A contact as customers see it. JSON-ready."""
    return {
        "id": str(contact.id),
        "phone_e164": contact.phone_e164,
        "name": contact.name,
        "email": contact.email,
        "language_pref": contact.language_pref,
        "metadata": contact.metadata,
        "consent_capture": contact.consent_capture,
        "created_at": rfc3339(contact.created_at),
        "updated_at": rfc3339(contact.updated_at),
    }
