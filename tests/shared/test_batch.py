"""Micro-batches: what waited goes together, one bad item fails alone, and a limit is a limit."""

import asyncio
from collections.abc import Sequence

import pytest

from cualify_shared.batch import MicroBatch, Overloaded


async def test_what_queued_while_a_batch_was_in_flight_is_the_next_batch() -> None:
    sizes: list[int] = []
    first_is_in, let_go = asyncio.Event(), asyncio.Event()

    async def apply(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        first_is_in.set()
        await let_go.wait()
        return [item * 2 for item in items]

    batch, stop = MicroBatch("test", apply, max_size=64), asyncio.Event()
    running = asyncio.create_task(batch.run(stop))
    first = asyncio.create_task(batch.submit(0))
    await first_is_in.wait()
    rest = [asyncio.create_task(batch.submit(n)) for n in range(1, 101)]
    await asyncio.sleep(0)
    let_go.set()
    assert await asyncio.gather(first, *rest) == [n * 2 for n in range(101)]
    assert sizes == [1, 64, 36]
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_one_bad_item_never_fails_the_others() -> None:
    async def apply(items: Sequence[int]) -> Sequence[int]:
        if 13 in items:
            raise ValueError("thirteen")
        return items

    batch, stop = MicroBatch("test", apply), asyncio.Event()
    futures = [batch.hand_in(n) for n in range(20)]
    stop.set()
    await batch.run(stop)
    assert [f.result() for n, f in enumerate(futures) if n != 13] == [n for n in range(20) if n != 13]
    with pytest.raises(ValueError, match="thirteen"):
        futures[13].result()


async def test_a_passing_error_fails_the_batch_at_once_and_is_not_tried_one_by_one() -> None:
    tries = 0

    async def apply(items: Sequence[int]) -> Sequence[int]:
        nonlocal tries
        tries += 1
        raise ConnectionError("the database is away")

    batch, stop = MicroBatch("test", apply), asyncio.Event()
    futures = [batch.hand_in(n) for n in range(20)]
    stop.set()
    await batch.run(stop)
    assert tries == 1
    assert all(isinstance(f.exception(), ConnectionError) for f in futures)


async def test_more_than_the_limit_is_refused_and_not_queued() -> None:
    async def apply(items: Sequence[int]) -> Sequence[int]:
        return items

    batch = MicroBatch("test", apply, max_waiting=2)
    batch.hand_in(1)
    batch.hand_in(2)
    with pytest.raises(Overloaded):
        await batch.submit(3)


async def test_a_caller_that_goes_away_does_not_undo_its_item() -> None:
    applied: list[int] = []

    async def apply(items: Sequence[int]) -> Sequence[int]:
        applied.extend(items)
        return items

    batch, stop = MicroBatch("test", apply), asyncio.Event()
    waiting = asyncio.create_task(batch.submit(1))
    await asyncio.sleep(0)
    waiting.cancel()
    stop.set()
    await batch.run(stop)
    assert applied == [1]
