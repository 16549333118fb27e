"""The loop that has billing post what was set aside: it asks until billing answers, for ever, under the same id."""

import asyncio
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never, get_args

import structlog
from prometheus_client import Counter

from cualify_api.wallet import reductions
from cualify_api.wallet.reductions import Reduction
from cualify_api.web.errors import Problem
from cualify_api.web.upstream import Upstream
from cualify_shared import faults
from cualify_shared.database import Pool, is_passing
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)
ASKED = Counter(
    "cualify_reductions_asked_total", "Times that billing was asked to lower a wallet, by its answer.", ["answer"]
)
LOOK_EVERY_SEC: Final = 1.0
AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Posted:
    """The money has left the wallet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It never will, under this id."""

    why: str


@dataclass(frozen=True, slots=True)
class Disputed:
    """Billing knows this id with another body."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nobody knows yet: ask again."""


Answer: TypeAlias = Posted | Refused | Disputed | NoAnswer

for _kind in get_args(Answer):
    ASKED.labels(_kind.__name__)  # at 0 from the start: the first one has to be seen as an increase


class Reduce:
    """Asks billing, and writes down what it says."""

    def __init__(self, pool: Pool, billing: Upstream) -> None:
        self._pool, self._billing = pool, billing

    async def run(self, stop: asyncio.Event) -> None:
        """Looks once a second; waiting chargebacks first, as releases may have made room for them."""
        while not await until_set(stop, LOOK_EVERY_SEC):
            try:
                await self.once()
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("reduce_failed", error=repr(error))

    async def once(self) -> None:
        """One look."""
        for org_id in await reductions.covered(self._pool):
            async with self._pool.acquire() as connection, connection.transaction():
                await reductions.take_up(connection, org_id)
        due = await reductions.claim(self._pool, limit=AT_ONCE)
        await asyncio.gather(*(self.settle(one) for one in due))

    async def settle(self, reduction: Reduction) -> None:
        """Asks billing once for what is set aside."""
        faults.point("api.reduction.set_aside")
        answer = await self._ask(reduction)
        faults.point("api.reduction.answered")
        await self._record(reduction, answer)
        ASKED.labels(type(answer).__name__).inc()
        level = log.error if isinstance(answer, Disputed) else log.info
        level("reduction_asked", reduction_id=reduction.id, org_id=str(reduction.org_id), answer=repr(answer))

    async def _ask(self, reduction: Reduction) -> Answer:
        body = {
            "refund_id": reduction.id,
            "kind": reduction.kind,
            "amount_paise": reduction.amount_paise,
            "payment_id": reduction.payment_id,
            "reason": reduction.reason,
        }
        try:
            await self._billing.ask("POST", f"/internal/orgs/{reduction.org_id}/refunds", body=body)
            return Posted()
        except Problem as problem:
            return _answer_of(problem)

    async def _record(self, reduction: Reduction, answer: Answer) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            match answer:
                case Posted():
                    await reductions.posted(connection, reduction.id)
                case Refused(why):
                    await reductions.refused(connection, reduction, why=why)
                case Disputed():
                    await reductions.disputed(connection, reduction.id)
                case NoAnswer():
                    pass
                case _:
                    assert_never(answer)


def _answer_of(problem: Problem) -> Answer:
    if problem.code != "conflict":
        return NoAnswer()
    details = problem.details or {}
    return Refused(str(details.get("reason"))) if details.get("outcome") == "refused" else Disputed()
