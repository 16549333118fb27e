"""A provider that does not answer is left alone for a while, by all replicas; then one call tries whether it is back.

Only what says something of the provider counts: a request that could not be sent or whose outcome is unknown is a
failure, any answer that could be understood, a refusal and a 429 too, is a success. The folding is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cualify_dialer.providers import Accepted, Answer, NotSent, Refused, Throttled, Unknown
from cualify_shared.database import Connection

FAILURES_ENOUGH = 5
FIRST_PAUSE_SEC = 5.0
LONGEST_PAUSE_SEC = 300.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Failures in a row; until when nothing is sent; until when a probe may be on its way."""

    failures: int = 0
    open_until: datetime | None = None
    probing_until: datetime | None = None

    def admits(self, now: datetime) -> int | None:
        """How many calls may be begun: None is no limit, 1 the probe."""
        if self.open_until is None:
            return None
        if now < self.open_until or (self.probing_until is not None and now < self.probing_until):
            return 0
        return 1

    def after(self, answer: Answer, *, now: datetime) -> "Breaker":
        """What an answer to a dial makes of it. What was under way when it opened does not open it further."""
        match answer:
            case Accepted() | Refused() | Throttled():
                return Breaker()
            case NotSent(by_us=True):
                return self
            case NotSent() | Unknown():
                if self.open_until is not None and self.probing_until is None:
                    return self
                failures = self.failures + 1
                if failures < FAILURES_ENOUGH:
                    return Breaker(failures)
                pause_sec = FIRST_PAUSE_SEC * 2 ** min(failures - FAILURES_ENOUGH, 20)
                return Breaker(failures, now + timedelta(seconds=min(pause_sec, LONGEST_PAUSE_SEC)))


def is_failure(answer: Answer) -> bool:
    """Whether it says that the provider can't be relied on."""
    return isinstance(answer, Unknown) or (isinstance(answer, NotSent) and not answer.by_us)


FARES_WELL = """
UPDATE provider_breakers
SET failures = 0,
    open_until = NULL,
    probing_until = NULL
WHERE provider = ANY($1::text[]) AND failures > 0
"""

MAKE_BREAKERS = """
INSERT INTO provider_breakers (provider)
SELECT unnest($1::text[])
ON CONFLICT (provider) DO NOTHING
"""

LOCK_BREAKERS = """
SELECT provider, failures, open_until, probing_until
FROM provider_breakers
WHERE provider = ANY($1::text[])
ORDER BY provider
FOR UPDATE
"""

WRITE_BREAKER = """
UPDATE provider_breakers
SET failures = $2::integer,
    open_until = $3::timestamptz,
    probing_until = $4::timestamptz
WHERE provider = $1::text
"""

PROBING = """
UPDATE provider_breakers
SET probing_until = $2::timestamptz
WHERE provider = $1::text
"""


async def note(connection: Connection, answers: Mapping[str, Sequence[Answer]], *, now: datetime) -> list[str]:
    """Folds answers, by provider, into the breakers; returns the providers whose breaker has opened."""
    failing = sorted(name for name, given in answers.items() if any(map(is_failure, given)))
    well = sorted(name for name in answers if name not in failing)
    if well:
        await connection.execute(FARES_WELL, well)
    if not failing:
        return []
    await connection.execute(MAKE_BREAKERS, failing)
    opened: list[str] = []
    for row in await connection.fetch(LOCK_BREAKERS, failing):
        before = after = Breaker(row["failures"], row["open_until"], row["probing_until"])
        for answer in answers[row["provider"]]:
            after = after.after(answer, now=now)
        if after != before:
            await connection.execute(
                WRITE_BREAKER, row["provider"], after.failures, after.open_until, after.probing_until
            )
        if after.open_until is not None and after.open_until != before.open_until:
            opened.append(row["provider"])
    return opened


async def probing(connection: Connection, provider: str, *, until: datetime) -> None:
    """One call is on its way to find out; nobody else tries until then."""
    await connection.execute(PROBING, provider, until)
