"""What benchmarks share: CPU time of processes with all below them, and a steady load of POSTs."""

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil


def cpu_sec(pid: int) -> float:
    """User and system time of a process, of those below it, and of those below that have ended."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    ended = process.cpu_times()
    return sum(one.user + one.system for one in times) + ended.children_user + ended.children_system


def machine() -> str:
    """For the head of a report."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average before {load:.1f}"


@dataclass(frozen=True, slots=True)
class Load:
    """How a load went."""

    count: int
    seconds: float

    @property
    def per_sec(self) -> float:
        """Requests a second."""
        return self.count / self.seconds


async def post_all(ask: Callable[[int], Awaitable[None]], *, count: int, at_once: int) -> Load:
    """Runs `ask(0)` to `ask(count - 1)`, so many at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return Load(count, time.perf_counter() - began)
