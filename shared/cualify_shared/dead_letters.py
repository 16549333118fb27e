"""Records that can't be handled: parked with their bytes unchanged, shown to operators, sent through again."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from cualify_shared.database import Connection, Row


class KafkaRecord(Protocol):
    """What of a record matters here, as it came: nothing of it is trusted yet. aiokafka's own is one."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class Record:
    """A record that was parked."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


PARK = """
INSERT INTO dead_letters (topic, partition, "offset", key, payload, headers, error)
SELECT topic, partition, "offset", key, payload, headers::json, error
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bytea[], $5::bytea[], $6::text[], $7::text[])
     AS r (topic, partition, "offset", key, payload, headers, error)
ON CONFLICT ON CONSTRAINT a_record_is_parked_once DO NOTHING
"""


async def park(connection: Connection, letters: Sequence[tuple[KafkaRecord, str]]) -> None:
    """Parks records, each with what is wrong with it, in the transaction that handles the rest of their batch."""
    if not letters:
        return
    records = [record for record, _ in letters]
    await connection.execute(
        PARK,
        [r.topic for r in records],
        [r.partition for r in records],
        [r.offset for r in records],
        [r.key for r in records],
        [r.value for r in records],
        [_headers_to_json(r) for r in records],
        [_storable(error) for _, error in letters],
    )


LIST = """
SELECT id, topic, partition, "offset", error, status, parked_at, settled_at
FROM dead_letters
WHERE status = $1
ORDER BY id
LIMIT $2
"""


async def listed(connection: Connection, *, status: str, limit: int) -> list[dict[str, Any]]:
    """The oldest parked (or redriven) records, without their bytes."""
    return [dict(row) for row in await connection.fetch(LIST, status, limit)]


SHOW = """
SELECT id, topic, partition, "offset", key, payload, headers, error, status, parked_at, settled_at
FROM dead_letters
WHERE id = $1
"""

LOCK = SHOW + "FOR UPDATE"


async def shown(connection: Connection, letter_id: int) -> dict[str, Any] | None:
    """One record whole, its bytes in base64."""
    row = await connection.fetchrow(SHOW, letter_id)
    if row is None:
        return None
    return {**dict(row), "key": _base64(row["key"]), "payload": _base64(row["payload"])}


async def locked(connection: Connection, letter_id: int) -> tuple[Record, str] | None:
    """A record and its status, locked until the transaction ends."""
    row = await connection.fetchrow(LOCK, letter_id)
    return None if row is None else (_record(row), row["status"])


SETTLE = """
UPDATE dead_letters
SET status = $2, error = $3, settled_at = CASE WHEN $2 = 'parked' THEN NULL ELSE clock_timestamp() END
WHERE id = $1
"""


async def settle(connection: Connection, letter_id: int, *, status: str, error: str) -> None:
    """Says how a redrive went."""
    await connection.execute(SETTLE, letter_id, status, _storable(error))


COUNT_PARKED = """
SELECT count(*)
FROM dead_letters
WHERE status = 'parked'
"""


def _record(row: Row) -> Record:
    headers = tuple((name, None if value is None else base64.b64decode(value)) for name, value in row["headers"])
    return Record(row["topic"], row["partition"], row["offset"], row["key"], row["payload"], headers)


def _headers_to_json(record: KafkaRecord) -> str:
    """As text: asyncpg takes a list inside a jsonb[] for another dimension of the array."""
    return orjson.dumps([[name, _base64(value)] for name, value in record.headers]).decode()


def _storable(error: str) -> str:
    """Text that PostgreSQL takes, whatever somebody's exception says."""
    return error[:2000].encode("utf-8", "replace").decode().replace("\0", "�")


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
