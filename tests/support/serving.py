"""A uvicorn server in the test's own loop, without the tenths of a second that its main loop sleeps at both ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

CLOSED_WITHIN_SEC = 5.0


@asynccontextmanager
async def serving(config: uvicorn.Config) -> AsyncIterator[str]:
    """The address of the server, which takes nothing new after that and has answered what it took."""
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)  # Sets the headers that every answer has.
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for listening in server.servers:
            listening.close()
        state = server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        async with asyncio.timeout(CLOSED_WITHIN_SEC):
            while state.connections or state.tasks:
                await asyncio.sleep(0.002)
