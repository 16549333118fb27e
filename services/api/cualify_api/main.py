"""The api: takes calls in, and says what customers see."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from cualify_api.app import make_app
from cualify_api.calls.place import placing
from cualify_api.calls.stream import Streams
from cualify_api.calls.tell import TellLate
from cualify_api.consume import reads
from cualify_api.settings import ApiSettings
from cualify_api.web import idempotency
from cualify_api.web.auth import Keys
from cualify_api.web.upstream import Upstreams
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
    place = placing(pool, token_key=settings.callee_token_key.get_secret_value().encode(), committed=ctx.committed)
    keys = Keys(pool, pepper=settings.key_pepper.get_secret_value())
    upstreams = Upstreams(token=settings.internal_token.get_secret_value())
    late = TellLate(pool, complete_within_sec=settings.complete_within_sec, committed=ctx.committed)
    return Parts(
        app=make_app(settings, pool, placing=place, keys=keys, upstreams=upstreams, streams=Streams(stop=ctx.stop)),
        reads=reads(),
        loops=(
            Loop("place", place.run),
            Loop("tell late", late.run),
            Loop("note key use", keys.note_use),
            Loop("forget idempotency keys", lambda stop: forget(pool, stop)),
            Loop("upstreams", upstreams.run),
        ),
    )


async def forget(pool: Pool, stop: asyncio.Event) -> None:
    """Removes idempotency keys that are a day old and whose call is over."""
    while not await until_set(stop, FORGET_EVERY_SEC):
        try:
            await idempotency.forget(pool, older_than=now() - KEYS_KEPT)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("forget_failed", error=repr(error))


SERVICE = Service("api", package="cualify_api", settings=ApiSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
