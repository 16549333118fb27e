"""What billing does at its own pace: each loop asks what is due, does a bounded piece of it, and asks again."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cualify_shared.health import Loop
from cualify_shared.waiting import pauses, until_set

log = structlog.get_logger(__name__)


def every(seconds: float, name: str, do: Callable[[], Awaitable[bool]]) -> Loop:
    """A loop that calls `do`, at once again where that says that more is due. A failure is told, and tried again."""

    async def run(stop: asyncio.Event) -> None:
        failures = pauses(first_sec=0.5, longest_sec=60)
        while not stop.is_set():
            try:
                more = await do()
                failures = pauses(first_sec=0.5, longest_sec=60)
                pause = 0.0 if more else seconds
            except Exception:
                log.exception("loop_failed", loop=name)
                pause = next(failures)
            await until_set(stop, pause)

    return Loop(name, run)
