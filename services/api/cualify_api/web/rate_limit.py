"""120 requests a minute and org, sliding, exact over every replica: the plan's number, over all routes and keys.

One question to the database decides for all requests that queued while the last was under way, across orgs, by the
database's clock. A refused request does not count, and one made when `Retry-After` says so passes. A batch that loses
its connection is asked again: what the first had taken, its answer lost, counts twice for a minute. More than the limit
never passes.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import structlog
from prometheus_client import Counter as Metric

from cualify_api.web.again import Again
from cualify_api.web.errors import Problem, RawHeaders
from cualify_shared.batch import MicroBatch
from cualify_shared.database import Connection, Pool, is_passing
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)

QUOTA: Final = 120
"""Of an org without a plan; else the plan's."""
WINDOW_SEC: Final = 60
FORGET_EVERY_SEC: Final = 10.0
REFUSED: Final = Metric("cualify_requests_limited_total", "Requests refused because their org had used its minute.")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What became of one request, and what its answer says about the window."""

    quota: int
    remaining: int
    reset_sec: int
    """After which the oldest request of the window no longer counts."""
    retry_after_sec: int | None = None
    """Set where the request was refused."""

    @property
    def is_given(self) -> bool:
        """Whether the request may go on."""
        return self.retry_after_sec is None

    def headers(self) -> RawHeaders:
        """`RateLimit-Policy` and `RateLimit` as the IETF's draft has them, and the older three beside them."""
        quota, remaining, reset = b"%d" % self.quota, b"%d" % self.remaining, b"%d" % self.reset_sec
        return [
            (b"ratelimit-policy", b'"org";q=%b;w=60' % quota),
            (b"ratelimit", b'"org";r=%b;t=%b' % (remaining, reset)),
            (b"x-ratelimit-limit", quota),
            (b"x-ratelimit-remaining", remaining),
            (b"x-ratelimit-reset", reset),
        ]

    def or_refuse(self) -> None:
        """Raises Problem where the request was refused."""
        if self.retry_after_sec is not None:
            REFUSED.inc()
            raise Problem(
                "too_many_requests",
                f"your org has made {self.quota} requests in the last {WINDOW_SEC} s",
                headers={"Retry-After": str(self.retry_after_sec)},
            )


RateLimit: TypeAlias = MicroBatch[UUID, Allowance]


def rate_limit(pool: Pool) -> RateLimit:
    """The batch that every request to `/api/v1` goes through, but those that are decided with a batch of their own."""

    again = Again("limit requests")

    async def taken(org_ids: Sequence[UUID]) -> list[Allowance]:
        async with pool.acquire() as connection:
            return await take(connection, org_ids)

    async def apply(org_ids: Sequence[UUID]) -> list[Allowance]:
        return await again.do(lambda: taken(org_ids))

    return MicroBatch("limit requests", apply)


TAKE = """
SELECT org_id, quota, used, granted, frees_sec, passes_sec
FROM take_requests($1::uuid[], $2::bigint[], $3::bigint)
"""


async def take(connection: Connection, org_ids: Sequence[UUID]) -> list[Allowance]:
    """An allowance for each request, named by its org, first come first served. Not to be called in a transaction:
    the orgs' windows stay locked until its end."""
    wanted = Counter(org_ids)
    rows = await connection.fetch(TAKE, list(wanted), list(wanted.values()), QUOTA)
    by_org = {row["org_id"]: _Taken(**row) for row in rows}
    return [by_org[org_id].next() for org_id in org_ids]


@dataclass(slots=True)
class _Taken:
    """What an org may still have of a batch."""

    org_id: UUID
    quota: int
    used: int
    granted: int
    frees_sec: float
    passes_sec: float | None

    def next(self) -> Allowance:
        reset_sec = max(1, math.ceil(self.frees_sec))
        if self.granted == 0:
            return Allowance(self.quota, 0, reset_sec, max(1, math.ceil(self.passes_sec or 0)))
        self.granted -= 1
        self.used += 1
        return Allowance(self.quota, self.quota - self.used, reset_sec)


FORGET = """
DELETE FROM rate_log
WHERE at < clock_timestamp() - interval '90 seconds'
"""


async def forget(pool: Pool, stop: asyncio.Event) -> None:
    """The loop that removes what no window reaches back to any more."""
    while not await until_set(stop, FORGET_EVERY_SEC):
        try:
            await pool.execute(FORGET)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("rate_log_not_cleared", error=repr(error))
