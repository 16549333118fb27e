"""The dialer: places the calls, and finds out how each one ended. `python -m cualify_dialer.main`"""

import asyncio

from fastapi import FastAPI

from cualify_dialer.callbacks import Callbacks
from cualify_dialer.consume import call_requests
from cualify_dialer.dial import Dialing, Lines
from cualify_dialer.model import Pace
from cualify_dialer.providers import Provider
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.recover import Recovering
from cualify_dialer.settings import DialerSettings
from cualify_shared.service import Context, Loop, Parts, Service


def parts(ctx: Context[DialerSettings]) -> Parts:
    """The callbacks' route, the topic `call.requests`, and the loops `dial`, `recover`, `callbacks`."""
    settings = ctx.settings
    pace = Pace(look_up_every_sec=settings.look_up_every_sec, settle_unknown_sec=settings.settle_unknown_sec)
    bolna = Bolna(
        url=settings.bolna_url,
        api_key=settings.bolna_api_key.get_secret_value(),
        timeout_sec=settings.provider_timeout_sec,
    )
    providers: dict[str, Provider] = {bolna.name: bolna}

    def look_again() -> None:
        dialing.wake()
        recovering.wake()

    dialing = Dialing(
        pool=ctx.pool,
        providers=providers,
        pace=pace,
        lines=Lines(
            max_concurrent_calls=settings.max_concurrent_calls, provider_timeout_sec=settings.provider_timeout_sec
        ),
        committed=ctx.committed,
        changed=look_again,
        drain_sec=settings.drain_sec,
    )
    recovering = Recovering(
        pool=ctx.pool,
        providers=providers,
        pace=pace,
        provider_timeout_sec=settings.provider_timeout_sec,
        committed=ctx.committed,
        changed=look_again,
        drain_sec=settings.drain_sec,
    )
    callbacks = Callbacks(
        pool=ctx.pool,
        providers=providers,
        token=settings.callback_token.get_secret_value(),
        pace=pace,
        committed=ctx.committed,
        hinted=recovering.wake,
    )

    async def dial(stop: asyncio.Event) -> None:
        async with bolna.open_for_calls():
            await dialing.run(stop)

    async def recover(stop: asyncio.Event) -> None:
        async with bolna.open_for_reading():
            await recovering.run(stop)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    callbacks.serve(app)
    return Parts(
        app=app,
        reads=[call_requests(pace=pace, queued=dialing.wake)],
        loops=[Loop("dial", dial), Loop("recover", recover), Loop("callbacks", callbacks.run)],
    )


SERVICE = Service("dialer", package="cualify_dialer", settings=DialerSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
