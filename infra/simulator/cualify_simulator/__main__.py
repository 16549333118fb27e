"""`python -m cualify_simulator`: serves until SIGTERM or SIGINT, then stops at once."""

import asyncio
import gc
import signal
import sys

import orjson
from aiohttp import web

from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings

SHUTDOWN_SEC = 0.05

GARBAGE_THRESHOLDS = (50_000, 50, 1_000)
"""Nothing here makes cycles that last, and walking all kept executions for them would stop the clock for a while."""


async def serve(settings: Settings) -> None:
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told_to_stop.set)

    runner = web.AppRunner(build_app(settings), access_log=None, shutdown_timeout=SHUTDOWN_SEC)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=1_024).start()
        _log(
            "simulator_started",
            addresses=[list(address[:2]) for address in runner.addresses],
            speed=settings.simulator_speed,
        )
        await told_to_stop.wait()
    finally:
        await runner.cleanup()
    _log("simulator_stopped")


def _log(event: str, **facts: object) -> None:
    sys.stderr.write(orjson.dumps({"event": event, **facts}).decode() + "\n")


if __name__ == "__main__":
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    asyncio.run(serve(Settings()))
