"""The whole platform on one machine: servers, services and simulator started in order, watched, and stopped in reverse.

A service that dies is named and started again a second later. Nothing outlives the launcher, however it ends.
"""

import asyncio
import fcntl
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

from cualify_local import children
from cualify_local.children import Child, Program
from cualify_local.environment import BILLING, SERVICES, SIMULATOR, Addresses, Secrets, choose_ports, programs
from cualify_local.kafka.broker import Kafka
from cualify_local.kafka.choose import start_kafka, stop_kafka
from cualify_local.postgres import Postgres, create_databases, start_postgres, stop_postgres
from cualify_local.postgres_files import remove_data
from cualify_local.razorpay import LocalRazorpay
from cualify_local.settings import Prefer, StackSettings
from cualify_shared.events import TOPICS
from cualify_shared.events.create_topics import create_topics

READY_WITHIN_SEC = 90
RESTART_AFTER_SEC = 1.0
Say = Callable[[str], None]
T = TypeVar("T")


class StackFailed(Exception):
    """The stack can't come up. The message is for a person: what failed and where to look."""


@dataclass(slots=True)
class Stack:
    """A running stack. Use as `async with Stack(...) as stack:`.

    `postgres` and `kafka` may be given by whoever has them already (tests share theirs); then they aren't ours to stop.
    `prefix` keeps several stacks apart on shared servers. `extra_env` adds to single services' environments.
    """

    settings: StackSettings
    folder: Path
    say: Say
    prefer: Prefer = "embedded"
    prefix: str = ""
    durable: bool = True
    postgres: Postgres | None = None
    kafka: Kafka | None = None
    extra_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secret: Secrets = field(default_factory=Secrets)
    razorpay: LocalRazorpay = field(init=False, default_factory=LocalRazorpay)
    addresses: Addresses = field(init=False)
    databases: dict[str, str] = field(init=False, default_factory=dict)
    running: dict[str, Child] = field(init=False, default_factory=dict)
    programs: dict[str, Program] = field(init=False, default_factory=dict)
    on_pids_changed: Callable[[], None] = field(init=False, default=lambda: None)
    _down: set[str] = field(init=False, default_factory=set)
    _exit: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._exit.aclose()

    async def _start(self) -> None:
        self.addresses = choose_ports(self.settings)
        self._take_folder()
        await asyncio.to_thread(_make_fresh, self.folder)
        await asyncio.gather(self._start_postgres(), self._start_kafka(), self._start_razorpay())
        self.programs = programs(
            self.settings,
            addresses=self.addresses,
            secret=self.secret,
            databases=self.databases,
            kafka=self._kafka_environment(),
            logs=self.folder,
            razorpay=self.razorpay,
            extra=self.extra_env,
        )
        self._exit.push_async_callback(self._stop_services)
        begun = time.monotonic()
        for name in self.programs:
            self.running[name] = children.start(self.programs[name])
        await self._until_ready()
        self.say(f"{', '.join(SERVICES)} and the simulator are ready ({time.monotonic() - begun:.1f} s)")
        watch = asyncio.create_task(self._watch(), name="watch")
        self._exit.callback(watch.cancel)

    def _take_folder(self) -> None:
        """Else a second stack would wipe the data under the first."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = self._exit.enter_context(self.folder.with_name(f"{self.folder.name}.lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackFailed(f"a stack runs in {self.folder} already: stop it, or set LOCAL_DIR to another") from None

    async def _start_postgres(self) -> None:
        begun = time.monotonic()
        if self.postgres is None:
            self.postgres = await _off_loop(
                lambda: start_postgres(self.folder / "postgres", self.folder / "postgres.log", durable=self.durable)
            )
            self._exit.callback(stop_postgres, self.postgres)
        self.databases = await create_databases(self.postgres.admin_url, SERVICES, prefix=self.prefix)
        self.say(f"PostgreSQL is ready, a database for each service ({time.monotonic() - begun:.1f} s)")

    async def _start_razorpay(self) -> None:
        """In this process: it lives as long as the stack."""
        self.razorpay.webhook_url = f"{self.addresses.url(BILLING)}/webhooks/razorpay"
        await self.razorpay.start()
        self._exit.push_async_callback(self.razorpay.stop)

    async def _start_kafka(self) -> None:
        begun = time.monotonic()
        if self.kafka is None:
            partitions = {self.prefix + topic.name: topic.partitions for topic in TOPICS}
            self.kafka = await _off_loop(
                lambda: start_kafka(
                    self.folder / "kafka", self.folder / "kafka.log", prefer=self.prefer, topics=partitions
                )
            )
            self._exit.callback(stop_kafka, self.kafka)
        if self.kafka.kind == "embedded" and self.settings.dispatchers > 1:
            raise StackFailed("the embedded broker has one process a service: KAFKA=jvm or docker for more DISPATCHERS")
        if self.kafka.kind != "embedded":
            await create_topics(self.kafka.bootstrap_servers, prefix=self.prefix)
        self.say(f"Kafka is ready: {self.kafka.kind} ({time.monotonic() - begun:.1f} s)")

    def _kafka_environment(self) -> dict[str, str]:
        assert self.kafka is not None
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "KAFKA_EMBEDDED": str(self.kafka.kind == "embedded").lower(),
        }

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_SEC
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            await asyncio.gather(*(self._until_one_is_ready(http, name, deadline) for name in self.programs))

    async def _until_one_is_ready(self, http: aiohttp.ClientSession, name: str, deadline: float) -> None:
        path = "/healthz" if name == SIMULATOR else "/readyz"
        while time.monotonic() < deadline:
            if not self.running[name].is_running:
                raise StackFailed(
                    f"{name} ended at once; its log, {self.programs[name].log}, ends:\n{self._tail(name)}"
                )
            if await _answers_ok(http, self.addresses.url(name) + path):
                return
            await asyncio.sleep(0.05)
        raise StackFailed(
            f"{name} is not ready after {READY_WITHIN_SEC} s; see {self.programs[name].log}:\n{self._tail(name)}"
        )

    async def ready(self, names: Sequence[str] | None = None) -> None:
        """Waits until these services, or all, say they are ready, after one was killed for instance."""
        names = names or [name for name in self.running if name != SIMULATOR]
        deadline = time.monotonic() + READY_WITHIN_SEC
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            for name in names:
                while not (
                    self.running[name].is_running and await _answers_ok(http, self.addresses.url(name) + "/readyz")
                ):
                    if time.monotonic() > deadline:
                        raise StackFailed(f"{name} is not ready; see {self.programs[name].log}:\n{self._tail(name)}")
                    await asyncio.sleep(0.05)

    def kill(self, name: str) -> None:
        """`kill -9`. It is started again a second later, unless `hold` said otherwise."""
        children.kill(self.running[name])

    async def stop(self, name: str) -> int:
        """SIGTERM, and stays down until `resume`. Returns the exit code."""
        self._down.add(name)
        return await _off_loop(lambda: children.stop(self.running[name]))

    def hold(self, name: str) -> None:
        """Leaves a service down when it dies."""
        self._down.add(name)

    def resume(self, name: str, *, env: Mapping[str, str] | None = None) -> None:
        """Starts a service that is down, with another environment if one is given."""
        if env is not None:
            program = self.programs[name]
            self.programs[name] = Program(name=program.name, args=program.args, log=program.log, env=env)
        self._down.discard(name)
        if not self.running[name].is_running:
            self.running[name] = children.start(self.programs[name])
            self.on_pids_changed()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for name, child in list(self.running.items()):
                if name not in self._down and not child.is_running:
                    await self._start_again(name, child)

    async def _start_again(self, name: str, child: Child) -> None:
        self.say(f"{name} died ({_how(child)}); starting it again. Its log: {self.programs[name].log}")
        await asyncio.sleep(RESTART_AFTER_SEC)
        if name in self._down:
            return
        try:
            self.running[name] = children.start(self.programs[name])
            self.on_pids_changed()
        except OSError as error:  # a full disk; the next look tries again
            self.say(f"{name} can't be started: {error}")

    async def _stop_services(self) -> None:
        """The simulator goes last: the services may still be talking to it while they drain."""
        self._down.update(self.running)
        await asyncio.gather(*(self._stop_one(name, grace_sec=20) for name in self.running if name != SIMULATOR))
        await self._stop_one(SIMULATOR, grace_sec=5)

    async def _stop_one(self, name: str, *, grace_sec: float) -> None:
        if child := self.running.get(name):
            await asyncio.to_thread(children.stop, child, grace_sec)

    def _tail(self, name: str) -> str:
        return children.tail(self.programs[name].log, 8)


def _make_fresh(folder: Path) -> None:
    """An empty folder. Nothing of an earlier stack is kept: without its broker's events its databases would lie."""
    remove_data(folder / "postgres")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _how(child: Child) -> str:
    code = child.exit_code
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


async def _answers_ok(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _off_loop(work: Callable[[], T]) -> Awaitable[T]:
    return asyncio.to_thread(work)
