"""Waiting with a limit: for an event, for something to close, for a little longer after each failure."""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any

import structlog

log = structlog.get_logger(__name__)

BACK_SOON_SEC = 1.0
"""The longest pause while a server is away: what waits for it is late by no more than this when it is back."""


async def until_set(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` was set within so many seconds."""
    if event.is_set():
        return True
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def until_any(*events: asyncio.Event, seconds: float) -> None:
    """Returns when one of the events is set, or after so many seconds."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def within(closing: Awaitable[Any], seconds: float) -> None:
    """Closes something that may hang or fail, and goes on either way: what mattered was committed before."""
    try:
        await asyncio.wait_for(closing, seconds)
    except Exception as error:
        log.warning("closing_failed", error=repr(error))


def pauses(*, first_sec: float = 0.1, longest_sec: float = 30.0) -> Iterator[float]:
    """0.1, 0.2, 0.4 … 30, 30, 30: seconds to wait after each failure in a row."""
    pause = first_sec
    while True:
        yield pause
        pause = min(pause * 2, longest_sec)
