"""Micro-batches: what queued while the last batch was in flight is the next. No timer, no delay when idle."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from cualify_shared import metrics
from cualify_shared.database import is_passing
from cualify_shared.waiting import until_any

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """More is waiting than can be served in a decent time; the caller should come back later."""


class MicroBatch(Generic[Item, Answer]):
    """Gathers single submissions and applies them together.

    `apply` takes up to `max_size` items and returns one answer each, in order, after its COMMIT. If it raises, each
    item is applied alone, so that one bad item never fails the others.
    """

    def __init__(
        self,
        name: str,
        apply: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        max_size: int = 500,
        max_waiting: int = 20_000,
    ) -> None:
        self.name = name
        self._apply, self._max_size, self._max_waiting = apply, max_size, max_waiting
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._arrived = asyncio.Event()

    async def submit(self, item: Item) -> Answer:
        """Waits until the item's batch is committed. Cancelling the wait does not undo it.

        Raises:
            Overloaded: `max_waiting` items are waiting already.
        """
        return await asyncio.shield(self.hand_in(item))

    def hand_in(self, item: Item) -> asyncio.Future[Answer]:
        """The same without waiting: the future is done after the COMMIT."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(self.name)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return future

    async def run(self, stop: asyncio.Event) -> None:
        """Applies batches until told to stop, then what is still waiting."""
        while True:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_size], self._waiting[self._max_size :]
                await self._settle(batch)
            if stop.is_set():
                return
            self._arrived.clear()
            await until_any(self._arrived, stop, seconds=60)

    async def _settle(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            with metrics.BATCH_SEC.labels(self.name).time():
                answers = await self._apply([item for item, _ in batch])
        except Exception as error:
            if len(batch) == 1 or is_passing(error):
                for _, future in batch:
                    _fail(future, error)
                return
            for one in batch:
                await self._settle([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _fail(future: asyncio.Future[Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # Marks it as seen: whoever submitted may have gone.
