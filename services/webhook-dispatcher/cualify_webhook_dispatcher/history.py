"""What was delivered: an endpoint's deliveries with filters and a cursor, and one with its request and its answers.

Secrets and signatures are never shown; bodies are null once their time is over.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cualify_shared.database import Pool, Row
from cualify_shared.ids import notification_id
from cualify_webhook_dispatcher import failures
from cualify_webhook_dispatcher.payloads import marked_out_of_order
from cualify_webhook_dispatcher.recording import redirects_to


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries; None is any. `after` is a cursor: the event behind which the page begins."""

    status: str | None = None
    event: str | None = None
    call_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: UUID | None = None


LIST = """
SELECT d.event_id, d.endpoint_id, d.subject_id, d.sequence, d.state, d.behind, d.out_of_order, d.attempts, d.due_at,
       d.created_at, d.finished_at, d.replay_id, n.type, n.occurred_at, e.active, e.opened_at IS NOT NULL AS is_open,
       e.not_before
FROM endpoints e
JOIN deliveries d ON d.endpoint_id = e.id
JOIN notifications n ON n.event_id = d.event_id
WHERE e.org_id = $1 AND e.id = $2 AND e.deleted_at IS NULL
  AND ($3::uuid IS NULL OR d.event_id < $3::uuid)
  AND ($4::text IS NULL OR d.state = $4::text)
  AND ($5::text IS NULL OR n.type = $5::text)
  AND ($6::uuid IS NULL OR d.subject_id = $6::uuid)
  AND ($7::timestamptz IS NULL OR n.occurred_at >= $7::timestamptz)
  AND ($8::timestamptz IS NULL OR n.occurred_at < $8::timestamptz)
ORDER BY d.event_id DESC
LIMIT $9
"""


async def listed(
    pool: Pool, *, org_id: UUID, endpoint_id: UUID, wanted: Filter, limit: int
) -> tuple[list[dict[str, Any]], UUID | None]:
    """A page, newest event first, and the cursor of the next page if there is one."""
    rows = await pool.fetch(
        LIST,
        org_id,
        endpoint_id,
        wanted.after,
        wanted.status,
        wanted.event,
        wanted.call_id,
        wanted.since,
        wanted.until,
        limit + 1,
    )
    page = rows[:limit]
    return [_shown(row) for row in page], page[-1]["event_id"] if len(rows) > limit else None


ONE = """
SELECT d.event_id, d.endpoint_id, d.subject_id, d.sequence, d.state, d.behind, d.out_of_order, d.attempts, d.due_at,
       d.created_at, d.finished_at, d.replay_id, n.type, n.occurred_at, e.active, e.opened_at IS NOT NULL AS is_open,
       e.not_before, e.url, n.body
FROM endpoints e
JOIN deliveries d ON d.endpoint_id = e.id
JOIN notifications n ON n.event_id = d.event_id
WHERE e.org_id = $1 AND e.id = $2 AND e.deleted_at IS NULL AND d.event_id = $3
"""

ATTEMPTS = """
SELECT n, at, duration_ms, status_code, failure_code, response
FROM attempts
WHERE event_id = $1 AND endpoint_id = $2
ORDER BY n
"""


async def one(pool: Pool, *, org_id: UUID, endpoint_id: UUID, event_id: UUID) -> dict[str, Any] | None:
    """A delivery with its request and every attempt; None if the org has no such delivery."""
    async with pool.acquire() as connection:
        row = await connection.fetchrow(ONE, org_id, endpoint_id, event_id)
        attempts = await connection.fetch(ATTEMPTS, event_id, endpoint_id) if row else []
    if row is None:
        return None
    return {**_shown(row), "request": _request(row), "attempts": [_attempt(one, row) for one in attempts]}


def _shown(row: Row) -> dict[str, Any]:
    pending = row["state"] == "pending"
    return {
        "event_id": notification_id(row["event_id"]),
        "event": row["type"],
        "subject_id": row["subject_id"],
        "sequence": row["sequence"],
        "status": row["state"],
        "waits_for": _waits_for(row) if pending else None,
        "attempts_made": row["attempts"],
        "out_of_order": row["out_of_order"],
        "replay_id": row["replay_id"],
        "occurred_at": row["occurred_at"],
        "finished_at": row["finished_at"],
        "next_attempt_at": max(filter(None, (row["due_at"], row["not_before"]))) if pending and row["active"] else None,
    }


def _waits_for(row: Row) -> str:
    if not row["active"]:
        return "resume"
    if row["is_open"]:
        return "endpoint_recovery"
    return "earlier_event" if row["behind"] else "next_attempt"


def _request(row: Row) -> dict[str, Any]:
    return {
        "url": row["url"],
        "headers": {
            "content-type": "application/json",
            "webhook-id": notification_id(row["event_id"]),
            "webhook-timestamp": "of the attempt, in Unix seconds",
            "webhook-signature": "not kept",
        },
        "body": _sent(row),
        "body_masked": row["body"] is None,
    }


def _sent(row: Row) -> str | None:
    if row["body"] is None:
        return None
    body: bytes = marked_out_of_order(row["body"]) if row["out_of_order"] else row["body"]
    return body.decode()


def _attempt(attempt: Row, row: Row) -> dict[str, Any]:
    code, response = attempt["failure_code"], None if row["body"] is None else attempt["response"]
    where, response = redirects_to(response) if response and code == "redirect" else (None, response)
    return {
        "n": attempt["n"],
        "at": attempt["at"],
        "duration_ms": attempt["duration_ms"],
        "status_code": attempt["status_code"],
        "failure_code": code,
        "how_to_mend": failures.HOW_TO_MEND.get(code) if code else None,
        "redirects_to": where,
        "response_body": response.decode("utf-8", "replace") if response else None,
    }
