"""`python -m cualify_local demo|up`: what `make demo` and `make up` run."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from pydantic import ValidationError
from rich.console import Console

from cualify_local.demo import demo
from cualify_local.environment import PortTaken
from cualify_local.kafka.broker import KafkaUnavailable
from cualify_local.postgres import PostgresUnavailable
from cualify_local.settings import StackSettings
from cualify_local.stack import StackFailed
from cualify_local.up import up

Command: TypeAlias = Callable[[StackSettings, Console], Awaitable[int]]
COMMANDS: dict[str, Command] = {"demo": demo, "up": up}
INTERRUPTED = 130
WIDTH_OF_A_LOG = 130


def main(words: list[str]) -> int:
    """Exit code: 0 done, 1 failed (one line says why), 2 wrong words, 130 interrupted."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_LOG)
    command = COMMANDS.get(words[0]) if len(words) == 1 else None
    if command is None:
        console.print(f"say one of: {', '.join(COMMANDS)}")
        return 2
    try:
        settings = StackSettings()
        return asyncio.run(_until_told(command, settings, console))
    except ValidationError as error:
        console.print("; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()))
    except (StackFailed, PortTaken, KafkaUnavailable, PostgresUnavailable, OSError, TimeoutError) as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}", highlight=False)
    return 1


async def _until_told(command: Command, settings: StackSettings, console: Console) -> int:
    """Runs a command; SIGINT or SIGTERM cancels it, and what it has started is stopped in order before this returns."""
    running = asyncio.ensure_future(command(settings, console))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return 0 if command is up else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
