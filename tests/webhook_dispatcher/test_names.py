"""Names: looked up once for all, used on while the resolver is away, and none that hangs holds up another."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from time import monotonic

import pytest

from cualify_webhook_dispatcher import names, urls
from cualify_webhook_dispatcher.handle import Failure
from cualify_webhook_dispatcher.names import AT_ONCE, SLOW_AT_ONCE, Names, system_look_up
from cualify_webhook_dispatcher.send import Sender
from tests.webhook_dispatcher.conftest import LOOPBACK
from tests.webhook_dispatcher.fault_server import never, serving

GOOD = "good.example.test"
TIMEOUT_SEC = 0.5


class Resolver:
    """Knows what a test tells it; a name it is to be silent about waits until the test has ended."""

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str]] = {GOOD: ["127.0.0.1"]}
        self.silent: Callable[[str], bool] = lambda host: False
        self.error = socket.EAI_NONAME
        self.asked: list[str] = []
        self.hanging = self.most_hanging = 0
        self.released = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> Sequence[str]:
        with self._lock:
            self.asked.append(host)
        if self.silent(host):
            with self._lock:
                self.hanging += 1
                self.most_hanging = max(self.most_hanging, self.hanging)
            self.released.wait()
            with self._lock:
                self.hanging -= 1
        if host not in self.known:
            raise socket.gaierror(self.error, "told so by the test")
        return self.known[host]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.released.set()


@asynccontextmanager
async def sending(resolver: Resolver, *, timeout_sec: float = TIMEOUT_SEC) -> AsyncIterator[Sender]:
    sender = Sender(timeout_sec=timeout_sec, allowed=LOOPBACK, names=Names(look_up=resolver))
    yield sender
    began = monotonic()
    await sender.aclose()
    assert monotonic() - began < 0.5, "a look-up that hangs is not waited for"


async def code_at(sender: Sender, host: str, port: int = 1) -> str | None:
    outcome = await sender.post(f"https://{host}:{port}/", headers=[], content=b"{}")
    return outcome.code if isinstance(outcome, Failure) else None


async def test_a_resolver_that_never_answers_is_a_timeout_of_the_name(resolver: Resolver) -> None:
    resolver.silent = lambda host: True
    async with sending(resolver) as sender:
        began = monotonic()
        assert await code_at(sender, "silent.example.test") == "timeout_dns"
        assert TIMEOUT_SEC <= monotonic() - began < TIMEOUT_SEC + 0.4


async def test_a_name_that_is_not_there_and_one_whose_servers_fail_say_so(resolver: Resolver) -> None:
    async with sending(resolver) as sender:
        assert await code_at(sender, "nowhere.example.test") == "dns_nxdomain"
        resolver.error = socket.EAI_AGAIN
        assert await code_at(sender, "nowhere.example.test") == "timeout_dns", "its servers were silent, or failed"


async def test_names_that_hang_do_not_hold_up_another(resolver: Resolver) -> None:
    resolver.silent = lambda host: host != GOOD
    async with sending(resolver, timeout_sec=4) as sender:
        hanging = [asyncio.create_task(code_at(sender, f"silent-{n}.example.test")) for n in range(AT_ONCE)]
        await until(lambda: resolver.hanging == AT_ONCE)
        assert await code_at(sender, GOOD) == "connect_refused", "at the latest when those have hung for a second"
        resolver.released.set()
        assert set(await asyncio.gather(*hanging)) == {"dns_nxdomain"}


async def test_names_that_hung_share_a_few_threads_the_next_time(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "SLOW_AFTER_SEC", 0.1)
    resolver.silent = lambda host: host != GOOD
    hosts = [f"silent-{n}.example.test" for n in range(SLOW_AT_ONCE + 20)]
    async with sending(resolver) as sender:
        assert {await one for one in [asyncio.create_task(code_at(sender, host)) for host in hosts]} == {"timeout_dns"}
        resolver.released.set()
        await until(lambda: not sender.names._waiting)
        resolver.released.clear()
        resolver.most_hanging = 0
        again = [asyncio.create_task(code_at(sender, host)) for host in hosts]
        await until(lambda: resolver.hanging == SLOW_AT_ONCE)
        assert await code_at(sender, GOOD) == "connect_refused"
        await asyncio.gather(*again)
        assert resolver.most_hanging == SLOW_AT_ONCE


async def test_a_name_is_looked_up_once_for_all_who_wait(resolver: Resolver) -> None:
    async with sending(resolver) as sender:
        codes = await asyncio.gather(*(code_at(sender, GOOD) for _ in range(50)))
        codes += [await code_at(sender, GOOD), await code_at(sender, GOOD, 2)]
        assert set(codes) == {"connect_refused"}
        assert resolver.asked == [GOOD]


async def test_what_the_name_took_is_part_of_the_one_deadline(resolver: Resolver) -> None:
    resolver.silent = lambda host: True
    async with serving(never) as port, sending(resolver) as sender:
        began = monotonic()
        asked = asyncio.create_task(code_at(sender, GOOD, port))
        await until(lambda: resolver.hanging == 1)
        await asyncio.sleep(TIMEOUT_SEC / 2)
        resolver.released.set()
        assert await asked == "timeout_tls"
        assert monotonic() - began < TIMEOUT_SEC + 0.2
        began = monotonic()
        assert await code_at(sender, GOOD, port) == "timeout_tls"
        assert monotonic() - began >= TIMEOUT_SEC, "the next one on that handle has the whole of it"


async def test_one_inner_address_among_good_ones_and_none_is_dialed(resolver: Resolver) -> None:
    resolver.known["mixed.example.test"] = ["127.0.0.2", "10.0.0.1"]
    sender = Sender(timeout_sec=TIMEOUT_SEC, allowed=(ip_network("127.0.0.2/32"),), names=Names(look_up=resolver))
    with socket.create_server(("127.0.0.2", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        assert await code_at(sender, "mixed.example.test", port) == "blocked_address"
        assert await code_at(sender, "mixed.example.test", port) == "blocked_address"
        with pytest.raises(BlockingIOError):
            server.accept()
        resolver.known["good.example.test"] = ["127.0.0.2"]
        assert await code_at(sender, GOOD, port) == "timeout_tls"
        server.accept()[0].close()
    await sender.aclose()


async def test_a_known_name_is_used_on_while_the_resolver_is_away(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "FRESH_SEC", 0.0)
    async with sending(resolver) as sender:
        assert await code_at(sender, GOOD) == "connect_refused"
        resolver.silent = lambda host: True
        assert [await code_at(sender, GOOD) for _ in range(3)] == ["connect_refused"] * 3
        await until(lambda: resolver.hanging == 1)
        resolver.known.clear()
        resolver.error = socket.EAI_AGAIN
        resolver.released.set()
        await until(lambda: not sender.names._waiting)
        resolver.silent = lambda host: False
        asked = len(resolver.asked)
        assert [await code_at(sender, GOOD) for _ in range(3)] == ["connect_refused"] * 3
        assert len(resolver.asked) == asked, "it is asked again after five seconds"


async def test_a_name_that_has_moved_is_followed_and_one_that_is_gone_is_not_used(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "FRESH_SEC", 0.0)
    async with sending(resolver) as sender:
        with socket.create_server(("127.0.0.2", 0)) as there:
            there.setblocking(False)
            port = there.getsockname()[1]
            assert await code_at(sender, GOOD, port) == "connect_refused"
            resolver.known[GOOD] = ["127.0.0.2"]
            await code_at(sender, GOOD, port)  # This one begins to look.
            await until(lambda: not sender.names._waiting)
            assert await code_at(sender, GOOD, port) == "timeout_tls"
            there.accept()[0].close()
            resolver.known.clear()
            await code_at(sender, GOOD, port)
            await until(lambda: not sender.names._waiting)
            assert await code_at(sender, GOOD, port) == "dns_nxdomain"


async def test_an_answer_that_comes_too_late_changes_no_other_request(resolver: Resolver) -> None:
    resolver.silent = lambda host: host.startswith("late")
    resolver.known |= {"late.example.test": ["127.0.0.1"], "late-too.example.test": ["127.0.0.1"]}
    done: list[object] = []
    async with sending(resolver) as sender:
        assert await code_at(sender, "late.example.test") == "timeout_dns"
        abort = sender.start("https://late-too.example.test:1/", headers=[], content=b"", done=done.append)
        abort()
        waiting = asyncio.create_task(code_at(sender, "nowhere.example.test"))
        resolver.released.set()
        assert await waiting == "dns_nxdomain"
        await until(lambda: not sender.names._waiting)
        assert sender._busy == {}
        assert sender._resolving == {}
        assert done == []


async def test_without_a_thread_to_be_had_the_attempt_fails_and_nothing_is_stuck(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with sending(resolver) as sender:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            assert await code_at(sender, GOOD) == "timeout_dns"
        assert await code_at(sender, GOOD) == "connect_refused"


async def test_a_url_whose_name_hangs_is_refused_in_time_and_others_are_not(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "RESOLVE_WITHIN_SEC", 0.2)
    resolver.silent = lambda host: host != GOOD
    known = Names(look_up=resolver)
    for n in range(40):
        known.refresh(f"silent-{n}.example.test")
    with pytest.raises(urls.UrlRefused, match="resolve within"):
        await urls.check("https://silent-0.example.test/", allowed=LOOPBACK, names=known)
    await urls.check(f"https://{GOOD}/", allowed=LOOPBACK, names=known)


def test_the_systems_resolver_knows_localhost() -> None:
    assert {"127.0.0.1", "::1"} & set(system_look_up("localhost"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)
