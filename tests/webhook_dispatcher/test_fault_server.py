"""Every code of failure from a server that fails so; slots come free, memory is flat; no way to an inner address."""

import asyncio
import gc
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from time import monotonic

import certifi
import psutil
import pycurl  # type: ignore[import-untyped, unused-ignore]
import pytest
import pytest_asyncio

from cualify_webhook_dispatcher import failures, schedule
from cualify_webhook_dispatcher.handle import MAX_ANSWER_BYTES, Answer, Failure
from cualify_webhook_dispatcher.send import Sender
from tests.webhook_dispatcher.conftest import AT, LOOPBACK
from tests.webhook_dispatcher.fault_server import (
    HOST,
    Authorities,
    Serve,
    asked,
    authorities,
    drips,
    drips_headers,
    endless_headers,
    fifty_megabytes,
    gzip_bomb,
    issued,
    never,
    resets,
    says,
    serving,
    status,
    then_hangs,
)

TIMEOUT_SEC = 0.5


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return authorities(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture(loop_scope="session")
async def sender(trusted: Authorities, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sender]:
    monkeypatch.setattr(certifi, "where", lambda: str(trusted.bundle))
    made = Sender(timeout_sec=TIMEOUT_SEC, allowed=LOOPBACK)
    yield made
    await made.aclose()


def code_of(outcome: Answer | Failure) -> str | None:
    return failures.of_status(outcome.status) if isinstance(outcome, Answer) else outcome.code


SERVERS: list[tuple[str | None, Callable[[], Serve]]] = [
    (None, lambda: status(204)),
    ("redirect", lambda: status(301, "Location: http://127.0.0.1:1/")),
    ("http_4xx", lambda: status(404)),
    ("http_410", lambda: status(410)),
    ("http_429", lambda: status(429, "Retry-After: 7")),
    ("http_5xx", lambda: status(503)),
    ("timeout_headers", lambda: never),
    ("timeout_body", lambda: drips),
    ("connection_closed", lambda: resets),
    ("connection_closed", lambda: says(b"")),
    ("bad_answer", lambda: says(b"SSH-2.0-OpenSSH_9.6\r\n" * 40)),
    ("bad_answer", lambda: status(999)),
    ("redirect", lambda: says(b"HTTP/1.1 302 X\r\nLocation: http://\xff\xfe/\r\nContent-Length: 0\r\n\r\n")),
    ("timeout_headers", lambda: then_hangs(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")),
    ("timeout_headers", lambda: then_hangs(b"HTTP/1.1 200 OK\r\nContent-Le")),
]


@pytest.mark.parametrize(("code", "serve"), SERVERS, ids=[f"{n} {code}" for n, (code, _) in enumerate(SERVERS)])
async def test_each_way_to_fail_has_its_code_and_ends_in_time(
    sender: Sender, code: str | None, serve: Callable[[], Serve]
) -> None:
    async with serving(serve()) as port:
        began = monotonic()
        outcome = await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
        assert code_of(outcome) == code
        assert monotonic() - began < TIMEOUT_SEC + 0.4
    assert code is None or failures.HOW_TO_MEND[code]


def test_every_code_is_produced_by_a_test_here_or_among_the_names() -> None:
    told = "".join((Path(__file__).parent / f"test_{name}.py").read_text() for name in ("fault_server", "names"))
    assert {code for code in failures.HOW_TO_MEND if f'"{code}"' not in told} == set()
    assert len(failures.HOW_TO_MEND) <= 20
    assert all(text.endswith(".") and len(text) < 120 for text in failures.HOW_TO_MEND.values())


async def test_a_url_that_libcurl_takes_for_none_has_its_code(sender: Sender) -> None:
    for url in ("https://127.0.0.1:99999/", "ftp://127.0.0.1/", "http://localhost:1/", "https://"):
        assert code_of(await sender.post(url, headers=[], content=b"{}")) == "bad_url", url


async def test_no_answer_whatever_its_bytes_holds_its_slot(sender: Sender) -> None:
    whole = (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: Sun, 31 May 2026 14:22:11 GMT\r\n"
        b"Location: http://127.0.0.1:1/\xc3\xa9\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\nbody"
    )
    chance = random.Random(20_260_531)

    async def spoiled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        content = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            content[chance.randrange(len(content))] = chance.choice(b"\x00\x80\xff\r\n :,0919-;=\t")
        writer.write(content)

    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    try:
        async with serving(spoiled) as port:
            url = f"http://127.0.0.1:{port}/"
            outcomes = await asyncio.gather(*(sender.post(url, headers=[], content=b"{}") for _ in range(400)))
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert raised == []
    assert sender._busy == {}
    for outcome in outcomes:
        assert code_of(outcome) is None or code_of(outcome) in failures.HOW_TO_MEND
        if outcome.retry_after is not None:
            schedule.retry_after_sec(outcome.retry_after, now=AT)


async def test_each_way_for_tls_to_be_wrong_has_its_code(
    trusted: Authorities, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(certifi, "where", lambda: str(trusted.bundle))
    good = issued("good", by=trusted.between)
    cases: dict[str, tuple[str | None, ssl.SSLContext]] = {
        "good": (None, trusted.context(tmp_path, good)),
        "expired": ("tls_certificate", trusted.context(tmp_path, issued("old", by=trusted.between, days=-1))),
        "wrong host": (
            "tls_certificate",
            trusted.context(tmp_path, issued("other", by=trusted.between, host="other.example.test")),
        ),
        "no intermediate": ("tls_chain_incomplete", trusted.context(tmp_path, good, chain=False)),
        "self-signed": ("tls_certificate", trusted.context(tmp_path, issued("self"), chain=False)),
    }
    for what, (code, tls) in cases.items():
        async with serving(status(204), tls=tls) as port:
            sender = Sender(timeout_sec=2, allowed=LOOPBACK, resolve=[f"{HOST}:{port}:127.0.0.1"])
            outcome = await sender.post(f"https://{HOST}:{port}/", headers=[], content=b"{}")
            assert code_of(outcome) == code, what
            await sender.aclose()


@pytest.mark.parametrize(
    "said", [b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["alert", "no TLS"]
)
async def test_a_handshake_that_fails_has_its_code(sender: Sender, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(5)
        writer.write(said)
        await writer.drain()
        await reader.read()

    async with serving(serve) as port:
        outcome = await sender.post(f"https://127.0.0.1:{port}/", headers=[], content=b"{}")
    assert code_of(outcome) == "tls_failed"


async def test_a_server_that_takes_the_connection_and_never_shakes_hands_is_a_timeout_of_tls(sender: Sender) -> None:
    async with serving(never) as port:
        outcome = await sender.post(f"https://127.0.0.1:{port}/", headers=[], content=b"{}")
    assert code_of(outcome) == "timeout_tls"


async def test_a_port_that_does_not_accept_is_a_timeout_of_connecting(sender: Sender) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        await asyncio.sleep(0.05)
        outcome = await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
        for filler in fillers:
            filler.close()
    assert code_of(outcome) == "timeout_connect"


async def test_a_host_without_a_route_has_its_code() -> None:
    nowhere = ip_network("255.255.255.255/32")  # The kernel refuses it: nothing leaves the machine.
    sender = Sender(timeout_sec=1, allowed=(nowhere,))
    assert code_of(await sender.post("https://255.255.255.255/", headers=[], content=b"{}")) == "connect_failed"
    await sender.aclose()


async def test_a_connection_that_its_server_has_closed_meanwhile_is_replaced_and_nothing_spins(sender: Sender) -> None:
    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await status(204)(reader, writer)

    turns = 0
    ready = sender._on_ready

    def counted() -> None:
        nonlocal turns
        turns += 1
        ready()

    sender._on_ready = counted  # type: ignore[method-assign]
    async with serving(answers_once) as port:
        for n in range(1, 6):
            assert code_of(await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")) is None
            await asyncio.sleep(0.05)
            assert turns < n * 8, "a closed connection that nobody waits for is looked at once"


async def test_a_gzip_bomb_is_not_unpacked(sender: Sender) -> None:
    async with serving(gzip_bomb()) as port:
        outcome = await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
    assert isinstance(outcome, Answer)
    assert len(outcome.body) <= MAX_ANSWER_BYTES
    assert outcome.body[:2] == b"\x1f\x8b"


async def test_memory_stays_flat_and_slots_come_free_whatever_servers_do() -> None:
    sender = Sender(timeout_sec=TIMEOUT_SEC, allowed=LOOPBACK)
    async with (
        serving(fifty_megabytes) as huge,
        serving(gzip_bomb()) as bomb,
        serving(drips) as drip,
        serving(resets) as reset,
        serving(endless_headers) as heads,
        serving(drips_headers) as drops,
    ):
        ports = (huge, bomb, drip, reset, heads, drops)

        async def round_() -> None:
            began = monotonic()
            await asyncio.gather(
                *(
                    sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
                    for port in ports
                    for _ in range(15)
                )
            )
            assert monotonic() - began < TIMEOUT_SEC + 3

        await round_()
        gc.collect()
        before, files = psutil.Process().memory_info().rss, psutil.Process().num_fds()
        for _ in range(4):
            await round_()
        gc.collect()
        assert psutil.Process().memory_info().rss - before < 30_000_000
        assert psutil.Process().num_fds() <= files + 60
        assert sender._busy == {}
        assert sum(len(handle._lines) + handle._size for handle in sender._idle) == 0, "and nothing is kept of answers"
    await sender.aclose()


INNER = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:7f00:1",
    "::ffff:a00:1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:a00:1",
]
SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "%31%32%37.0.0.1",
    "127。0。0。1",
    "①②⑦.0.0.1",
]


class Watching:
    """Whether anything tries to connect: a listener on every loopback address, both families."""

    def __init__(self) -> None:
        self.server = socket.create_server(("0.0.0.0", 0))
        self.port = self.server.getsockname()[1]
        self.server.setblocking(False)
        self.server6: socket.socket | None
        try:
            self.server6 = socket.create_server(("::", self.port), family=socket.AF_INET6)
            self.server6.setblocking(False)
        except OSError:
            self.server6 = None

    def connected(self) -> int:
        count = 0
        for one in filter(None, (self.server, self.server6)):
            try:
                while True:
                    one.accept()[0].close()
                    count += 1
            except BlockingIOError:
                pass
        return count

    def close(self) -> None:
        for one in filter(None, (self.server, self.server6)):
            one.close()


async def test_no_name_that_resolves_to_an_inner_address_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(INNER) >= 60
    watching, dialed = Watching(), []
    made = socket.socket

    def noted(*arguments: object, **more: object) -> socket.socket:
        dialed.append(arguments)
        return made(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", noted)
    for n, address in enumerate(INNER):
        host = f"rebound-{n}.example.test"
        shown = f"[{address}]" if ":" in address else address
        sender = Sender(timeout_sec=1, allowed=(), resolve=[f"{host}:{watching.port}:{shown}"])
        outcome = await sender.post(f"https://{host}:{watching.port}/", headers=[], content=b"{}")
        assert code_of(outcome) == "blocked_address", address
        await sender.aclose()
    assert dialed == [], "not even a socket was made"
    assert watching.connected() == 0
    watching.close()


async def test_no_spelling_of_an_inner_address_is_connected_to() -> None:
    watching = Watching()
    sender = Sender(timeout_sec=1, allowed=())
    for spelling in SPELLINGS:
        outcome = await sender.post(f"https://{spelling}:{watching.port}/", headers=[], content=b"{}")
        assert code_of(outcome) in ("blocked_address", "bad_url", "dns_nxdomain", "timeout_dns"), spelling
    assert watching.connected() == 0
    await sender.aclose()
    watching.close()


GOOD = (ip_network("127.0.0.2/32"),)
"""Stands for the public internet: nothing here may leave the machine."""


async def test_a_name_with_an_inner_address_before_a_good_one_is_not_connected_to_at_all() -> None:
    watching = Watching()
    resolve = [f"mixed.example.test:{watching.port}:127.0.0.1,127.0.0.2"]
    sender = Sender(timeout_sec=0.5, allowed=GOOD, resolve=resolve)
    outcome = await sender.post(f"https://mixed.example.test:{watching.port}/", headers=[], content=b"{}")
    assert code_of(outcome) == "blocked_address"
    assert watching.connected() == 0
    await sender.aclose()
    watching.close()


async def test_a_name_that_is_bound_anew_to_an_inner_address_is_refused_on_the_next_connection() -> None:
    watching = Watching()
    url, name = f"https://turns.example.test:{watching.port}/", f"turns.example.test:{watching.port}"
    sender = Sender(timeout_sec=0.3, allowed=GOOD, resolve=[f"{name}:127.0.0.2"])
    assert code_of(await sender.post(url, headers=[], content=b"{}")) == "timeout_tls"
    assert watching.connected() == 1, "the good address was dialed"
    sender._idle[-1].curl.setopt(pycurl.RESOLVE, [f"+{name}:127.0.0.1"])
    assert code_of(await sender.post(url, headers=[], content=b"{}")) == "blocked_address"
    assert watching.connected() == 0
    await sender.aclose()
    watching.close()
