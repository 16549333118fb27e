"""The dialer: places the calls, and finds out how each one ended. `python -m cualify_dialer.main`"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from cualify_dialer import metrics
from cualify_dialer.accounts import accounts
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.callbacks import Callbacks
from cualify_dialer.consume import call_requests
from cualify_dialer.dial import Dialing, Lines
from cualify_dialer.model import Pace
from cualify_dialer.providers import Provider
from cualify_dialer.recover import Recovering
from cualify_dialer.retain import Retaining
from cualify_dialer.settings import DialerSettings
from cualify_shared.service import Context, Loop, Parts, Service


def parts(ctx: Context[DialerSettings]) -> Parts:
    """The callbacks' route, the topic `call.requests`, and the loops `dial`, `recover`, `callbacks`, `retain`."""
    settings = ctx.settings
    pace = Pace(
        look_up_every_sec=settings.look_up_every_sec,
        settle_unknown_sec=settings.settle_unknown_sec,
        give_up_after_sec=settings.give_up_after_sec,
    )
    urls = CallbackUrls(public_url=settings.public_url, token=settings.callback_token.get_secret_value())
    has = accounts(settings)
    providers: dict[str, Provider] = {name: account.provider for name, account in has.items()}
    for name in providers:
        metrics.BREAKERS_OPENED.labels(name)  # at 0 from the start: the first one has to be seen as an increase

    def look_again() -> None:
        dialing.wake()
        recovering.wake()

    dialing = Dialing(
        pool=ctx.pool,
        providers=providers,
        pace=pace,
        lines=Lines(
            providers={name: account.capacity for name, account in has.items()},
            org_lines=settings.org_max_concurrent_calls,
            simulators=frozenset({"bolna"} if settings.bolna_is_simulator else ()),
        ),
        urls=urls,
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
        urls=urls,
        guards={name: account.guard for name, account in has.items()},
        pace=pace,
        committed=ctx.committed,
        hinted=recovering.wake,
    )
    retaining = Retaining(pool=ctx.pool, days=settings.keep_provider_events_days)

    async def dial(stop: asyncio.Event) -> None:
        async with opened(providers.values()):
            await dialing.run(stop)

    async def recover(stop: asyncio.Event) -> None:
        async with opened(providers.values()):
            await recovering.run(stop)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    callbacks.serve(app)
    return Parts(
        app=app,
        reads=[call_requests(pace=pace, changed=look_again)],
        loops=[
            Loop("dial", dial),
            Loop("recover", recover),
            Loop("callbacks", callbacks.run),
            Loop("retain", retaining.run),
        ],
    )


@asynccontextmanager
async def opened(providers: Iterable[Provider]) -> AsyncIterator[None]:
    """The connections to all of them."""
    async with AsyncExitStack() as stack:
        for provider in providers:
            await stack.enter_async_context(provider.open())
        yield


SERVICE = Service("dialer", package="cualify_dialer", settings=DialerSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
