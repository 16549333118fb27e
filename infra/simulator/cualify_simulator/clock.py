"""Simulated time: what lasts a second in a call's life lasts a `speed`-th of a second here.

Only waiting is faster. Every time stamp the simulator gives out is the wall clock's, so that a client may ask for
"everything created since I dialed" with its own clock.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")


class Clock:
    """Must be made inside the running event loop, whose timers it sets."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed_sec(self) -> float:
        """Simulated seconds since some fixed moment: the base for `at`."""
        return self._loop.time() * self._speed

    def at(self, elapsed_sec: float, act: Callable[[*Ts], object], *args: *Ts) -> asyncio.TimerHandle:
        """Runs `act` when `elapsed_sec()` reaches the given value; steps of one life set this way never drift."""
        return self._loop.call_at(elapsed_sec / self._speed, act, *args)

    def after(self, sec: float, act: Callable[[*Ts], object], *args: *Ts) -> asyncio.TimerHandle:
        return self._loop.call_later(sec / self._speed, act, *args)

    def real_sec(self, simulated_sec: float) -> float:
        return simulated_sec / self._speed
