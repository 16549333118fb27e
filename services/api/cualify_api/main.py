"""The api: takes calls in, and says what customers see."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from cualify_api.app import make_app, workings
from cualify_api.calls.tell import TellLate
from cualify_api.consume import reads
from cualify_api.settings import ApiSettings
from cualify_api.web import idempotency
from cualify_shared.clock import now
from cualify_shared.database import Pool, is_passing
from cualify_shared.service import Context, Loop, Parts, Service
from cualify_shared.waiting import until_set

log = structlog.get_logger(__name__)
KEYS_KEPT: Final = timedelta(hours=24)
FORGET_EVERY_SEC: Final = 60.0


def parts(ctx: Context[ApiSettings]) -> Parts:
    """Builds what runs."""
    settings, pool = ctx.settings, ctx.pool
    inside = workings(settings, pool, committed=ctx.committed, stop=ctx.stop)
    late = TellLate(pool, complete_within_sec=settings.complete_within_sec, committed=ctx.committed)
    return Parts(
        app=make_app(settings, pool, inside),
        reads=reads(inside.waiting),
        loops=(
            *inside.loops(pool),
            Loop("tell late", late.run),
            Loop("forget idempotency keys", lambda stop: forget(pool, stop)),
        ),
    )


async def forget(pool: Pool, stop: asyncio.Event) -> None:
    """The loop that removes idempotency keys which are a day old and whose call is over."""
    while not await until_set(stop, FORGET_EVERY_SEC):
        try:
            await forget_once(pool, stop)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("forget_failed", error=repr(error))


async def forget_once(pool: Pool, stop: asyncio.Event) -> None:
    """Removes all of them, a thousand at a time: there may be more in a minute than one statement should take."""
    while await idempotency.forget(pool, older_than=now() - KEYS_KEPT) and not stop.is_set():
        pass


SERVICE = Service("api", package="cualify_api", settings=ApiSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
