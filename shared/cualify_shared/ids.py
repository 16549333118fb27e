"""Identifiers. The ones we make are UUIDv7: sorted by the time they were made, so that indexes stay warm."""

from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DatabaseUUID
from uuid_utils import uuid7


def new_id() -> UUID:
    """A fresh UUIDv7."""
    return UUID(bytes=uuid7().bytes)


def quick_id() -> UUID:
    """The same as rows have them: four times as quick to make and to print. orjson does not take it."""
    return DatabaseUUID(uuid7().bytes)


def new_hex() -> str:
    """32 hex digits of a fresh UUIDv7, for names that are text anyway."""
    return uuid7().hex


def provider_ref(*, prefix: str, call_id: UUID, attempt: int) -> str:
    """The name a provider carries an attempt under, known before it is asked: `boln_<hex>`, then `boln_<hex>_2`."""
    return f"{prefix}_{call_id.hex}" if attempt == 1 else f"{prefix}_{call_id.hex}_{attempt}"


def notification_id(event_id: UUID) -> str:
    """The id a customer sees on a webhook and in the pull feed: `evt_<hex>`."""
    return f"evt_{event_id.hex}"
