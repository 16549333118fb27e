"""The journal: what this provider did, in order. It is the oracle for "nobody is ever rung twice".

Entries are numbered from 1 without a gap. Only the newest `capacity` are kept; a reader who comes too late sees it,
because the first entry given is not the one after the one it asked from.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    CREATE = "create"  # a POST /call that made an execution, however it was answered
    RING = "ring"  # the phone rang, or would have
    ANSWERED = "answered"
    DISCONNECTED = "disconnected"  # the line dropped; post-processing follows
    ENDED = "ended"  # the execution's one terminal status
    CALLBACK = "callback"  # one attempt to deliver one callback
    REFUSED = "refused"  # a request that breaks the protocol, or is refused by the script
    THROTTLED = "throttled"
    STOP_REFUSED = "stop_refused"  # the call was already being dialed


FIELDS = ("to_e164", "cualify_ref", "execution_id", "status", "answer", "attempt", "duration_sec", "reason")


class Journal:
    def __init__(self, capacity: int, now: Callable[[], datetime]) -> None:
        self._capacity = capacity
        self._now = now
        # Plain tuples of atoms: the garbage collector forgets them, and a million cost about 150 MB.
        self._rows: list[tuple[Any, ...]] = []
        self.last_n = 0

    def note(
        self,
        kind: Kind,
        *,
        to_e164: str | None = None,
        cualify_ref: str | None = None,
        execution_id: str | None = None,
        status: str | None = None,
        answer: str | None = None,
        attempt: int | None = None,
        duration_sec: float | None = None,
        reason: str | None = None,
    ) -> None:
        at = self._now().timestamp()
        row = (at, kind.value, to_e164, cualify_ref, execution_id, status, answer, attempt, duration_sec, reason)
        if len(self._rows) < self._capacity:
            self._rows.append(row)
        else:
            self._rows[self.last_n % self._capacity] = row
        self.last_n += 1

    def after(self, n: int, limit: int) -> list[dict[str, Any]]:
        """At most `limit` kept entries that follow entry `n`, oldest first."""
        oldest_n = self.last_n - len(self._rows) + 1
        first = max(n + 1, oldest_n)
        return [self._entry(number) for number in range(first, min(first + limit, self.last_n + 1))]

    def _entry(self, n: int) -> dict[str, Any]:
        at, kind, *rest = self._rows[(n - 1) % self._capacity]
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
        return {"n": n, "at": stamp, "kind": kind, **dict(zip(FIELDS, rest, strict=True))}
