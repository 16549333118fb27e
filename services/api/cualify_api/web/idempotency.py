"""`Idempotency-Key`: the first answer is kept with a fingerprint of the body, and given again to the same request.

Kept are accepted requests and refusals that were decided (402, 403, 404); never a 400, a 429 or a 5xx. The row is
written in the transaction that decides, under a lock of the org's, so no request for a call finds another in flight.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from cualify_api.web.errors import Problem
from cualify_shared.database import Connection, Pool

LONGEST: Final = 255
FORGOTTEN_AT_ONCE: Final = 1_000
REPLAYED: Final = {"Idempotency-Replayed": "true"}


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What a key was answered with."""

    org_id: UUID
    key: str
    fingerprint: bytes
    status: int
    answer: dict[str, Any]
    call_id: UUID | None


def idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The header, if sent. Raises Problem where it is empty, too long, or has characters beyond printable ASCII."""
    sent = headers.get(b"idempotency-key")
    if sent is None:
        return None
    key = str(sent, "latin-1")
    if not 1 <= len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise Problem(
            "invalid_request", f"Idempotency-Key has 1 to {LONGEST} printable characters", param="Idempotency-Key"
        )
    return key


def fingerprint(content: Any) -> bytes:
    """SHA-256 of a parsed body: the order of its keys and its white space make no difference."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()


READ = """
SELECT org_id, key, fingerprint, status, answer, call_id
FROM idempotency_keys
WHERE (org_id, route, key) IN (SELECT k.org_id, $1::text, k.key FROM unnest($2::uuid[], $3::text[]) AS k (org_id, key))
"""


async def first_answers(
    connection: Connection, route: str, keys: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], FirstAnswer]:
    """What is known of these (org, key) pairs."""
    if not keys:
        return {}
    rows = await connection.fetch(READ, route, [org_id for org_id, _ in keys], [key for _, key in keys])
    return {(row["org_id"], row["key"]): FirstAnswer(**row) for row in rows}


KEEP = """
INSERT INTO idempotency_keys (org_id, route, key, fingerprint, status, answer, call_id, created_at)
SELECT org_id, $1::text, key, fingerprint, status, answer, call_id, $2::timestamptz
FROM unnest($3::uuid[], $4::text[], $5::bytea[], $6::smallint[], $7::jsonb[], $8::uuid[])
     AS k (org_id, key, fingerprint, status, answer, call_id)
"""


async def keep(connection: Connection, route: str, answers: Sequence[FirstAnswer], *, at: datetime) -> None:
    """Stores first answers in the running transaction."""
    if not answers:
        return
    await connection.execute(
        KEEP,
        route,
        at,
        [one.org_id for one in answers],
        [one.key for one in answers],
        [one.fingerprint for one in answers],
        [one.status for one in answers],
        [one.answer for one in answers],
        [one.call_id for one in answers],
    )


FORGET = """
DELETE FROM idempotency_keys
WHERE (org_id, route, key) IN (
    SELECT k.org_id, k.route, k.key
    FROM idempotency_keys AS k
    LEFT JOIN calls AS c ON c.id = k.call_id
    WHERE k.created_at < $1::timestamptz
      AND (c.id IS NULL OR c.terminal_at IS NOT NULL)
    ORDER BY k.created_at
    LIMIT $2
)
"""


async def forget(pool: Pool, *, older_than: datetime) -> int:
    """Removes up to 1,000 keys that are old enough and whose call is over; how many it were."""
    removed = await pool.execute(FORGET, older_than, FORGOTTEN_AT_ONCE)
    return int(removed.rpartition(" ")[2])
