"""One shape for every service: what comes by HTTP or Kafka, what runs all day; started, watched, drained.

SERVICE = Service("billing", package="cualify_billing", settings=BillingSettings, parts=parts)
if __name__ == "__main__":
    SERVICE.run()
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import asyncpg
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from faststream.security import BaseSecurity
from pydantic import ValidationError

from cualify_shared.database import MigrationError, Pool, create_pool, migrate
from cualify_shared.health import Health, Loop
from cualify_shared.http_protocol import BoundedHttp
from cualify_shared.kafka_security import security_of
from cualify_shared.logs import set_up_logs
from cualify_shared.operator_routes import operator_routes
from cualify_shared.outbox import Relay
from cualify_shared.reads import Read, Reader, Reading, Subscription
from cualify_shared.settings import ServiceSettings

log = structlog.get_logger(__name__)
T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound=ServiceSettings)

__all__ = ["Context", "Loop", "Parts", "Read", "Service"]


class CannotStart(Exception):
    """What the environment says can't be used; the message names the variable."""


@dataclass(frozen=True, slots=True)
class Context(Generic[SettingsT]):
    """What a service's parts are built from."""

    settings: SettingsT
    pool: Pool
    committed: Callable[[], None]
    """To be called after a COMMIT that wrote to the outbox; the reads do it by themselves."""
    stop: asyncio.Event


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is made of."""

    app: FastAPI = field(default_factory=lambda: FastAPI(openapi_url=None, docs_url=None, redoc_url=None))
    reads: Sequence[Read] = ()
    loops: Sequence[Loop] = ()


@dataclass(frozen=True, slots=True)
class Service(Generic[SettingsT]):
    """A service by its name, its settings and a function that builds its parts."""

    name: str
    package: str
    settings: type[SettingsT]
    parts: Callable[[Context[SettingsT]], Parts]
    database_settings: Mapping[str, str] = field(default_factory=dict)
    """PostgreSQL's, for each session of the pool."""

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Exits with one line where the environment or the database forbids to start."""
        try:
            settings = self.settings()  # type: ignore[call-arg, unused-ignore]
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)
            )
            sys.exit(f"{self.name}: these environment variables are missing or wrong: {wrong}")
        set_up_logs(service=self.name, level=settings.log_level)
        try:
            uvloop.run(self._serve(settings))
        except (CannotStart, MigrationError) as error:
            log.critical("cannot_start", why=str(error))
            sys.exit(2)

    async def _serve(self, settings: SettingsT) -> None:
        stop = asyncio.Event()
        _on_signals(stop)
        dsn, security = settings.database_url.get_secret_value(), _security_of(settings)
        pool = await _unless_stopped(stop, self._open(settings, dsn))
        if pool is None:
            return
        relay = Relay(
            dsn=dsn,
            service=self.name,
            bootstrap_servers=settings.kafka_bootstrap_servers,
            topic_prefix=settings.kafka_topic_prefix,
            security=security,
        )
        parts = self.parts(Context(settings, pool, relay.wake, stop))
        readers = {read.topic.name: Reader(read, pool=pool, stop=stop, committed=relay.wake) for read in parts.reads}
        reading = self._reading(settings, list(readers.values()), security)
        health = Health(pool=pool, relay=relay, reading=reading)
        server = _server(settings, self._app(parts, health, pool, readers, settings))
        # The stopping order: no new work (HTTP, Kafka), then the loops finish theirs, then the outbox is emptied.
        loops_stop, relay_stop = asyncio.Event(), asyncio.Event()
        for loop in parts.loops:
            health.start(loop, loops_stop)
        if reading is not None:
            health.start(Loop("read", reading.run), stop)
        health.start(Loop("relay", relay.run), relay_stop)
        health.start(Loop("http", lambda event: _serve_http(server, event)), stop)
        _spare_the_collector()
        log.info("service_started", port=settings.port, loops=[loop.name for loop in parts.loops], reads=list(readers))
        await stop.wait()
        health.stopping = True
        await self._drain(settings, health, pool, loops_stop, relay_stop)

    async def _open(self, settings: SettingsT, dsn: str) -> Pool:
        """The database, at this code's schema."""
        try:
            pool = await create_pool(
                dsn, application_name=self.name, size=settings.database_pool_size, settings=self.database_settings
            )
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CannotStart(f"DATABASE_URL: {type(error).__name__}: {error}") from None
        await migrate(dsn, package=self.package)
        return pool

    async def _drain(
        self,
        settings: SettingsT,
        health: Health,
        pool: Pool,
        loops_stop: asyncio.Event,
        relay_stop: asyncio.Event,
    ) -> None:
        log.info("service_stopping", drain_sec=settings.drain_sec)
        asyncio.get_running_loop().call_later(settings.drain_sec + 5, os._exit, 1)
        await health.join(("http", "read"), seconds=settings.drain_sec)
        loops_stop.set()
        await health.join(health.names() - {"relay"}, seconds=settings.drain_sec)
        relay_stop.set()
        late = await health.join(health.names(), seconds=3)
        pool.terminate()
        log.info("service_stopped", unfinished=late)
        if late:
            os._exit(1)

    def _reading(self, settings: SettingsT, readers: Sequence[Reader], security: BaseSecurity) -> Reading | None:
        if not readers:
            return None
        return Reading(
            readers,
            Subscription(
                service=self.name,
                bootstrap_servers=settings.kafka_bootstrap_servers,
                topic_prefix=settings.kafka_topic_prefix,
                embedded=settings.kafka_embedded,
                replica=settings.replica,
                drain_sec=settings.drain_sec,
                stalled_after_sec=settings.stalled_after_sec,
                security=security,
            ),
        )

    def _app(
        self, parts: Parts, health: Health, pool: Pool, readers: dict[str, Reader], settings: SettingsT
    ) -> FastAPI:
        parts.app.router.routes.extend(
            operator_routes(
                health=health,
                pool=pool,
                readers=readers,
                internal_token=settings.internal_token.get_secret_value(),
                topic_prefix=settings.kafka_topic_prefix,
            )
        )
        return parts.app


def _security_of(settings: ServiceSettings) -> BaseSecurity:
    try:
        return security_of(settings)
    except OSError as error:
        raise CannotStart(f"KAFKA_CA_FILE: {error}") from None


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None if told to stop before."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return await working
    working.cancel()
    return None


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service owns the signals, one owner for all that runs here."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(settings: ServiceSettings, app: FastAPI) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=BoundedHttp,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=int(settings.drain_sec),
        )
    )


async def _serve_http(server: _Server, stop: asyncio.Event) -> None:
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving


def _spare_the_collector() -> None:
    """What is there now stays: it is not looked through again. Batches make and drop thousands of values at a time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
