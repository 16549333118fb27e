"""One POST: what it refuses to do, and when it ends."""

import asyncio
import socket
from ipaddress import ip_network
from time import monotonic

import pytest
from aiohttp import web

from cualify_webhook_dispatcher import failures
from cualify_webhook_dispatcher.addresses import is_allowed, networks
from cualify_webhook_dispatcher.handle import MAX_ANSWER_BYTES, Answer, Failure
from cualify_webhook_dispatcher.names import Names
from cualify_webhook_dispatcher.send import Sender
from cualify_webhook_dispatcher.urls import UrlRefused, check
from tests.webhook_dispatcher.conftest import LOOPBACK, Receive
from tests.webhook_dispatcher.receiver import answer_ok, answers

REFUSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::5efe:a00:1",
    "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:808:808",
    "fec0::1",
    "ff02::1",
    "localhost",
    "127.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
]
ALLOWED = [
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700::1111",
    "2a00:1450:4001::200e",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_global_is_refused(address: str) -> None:
    assert not is_allowed(address, allowed=())


@pytest.mark.parametrize("address", ALLOWED)
def test_a_global_address_is_allowed(address: str) -> None:
    assert is_allowed(address, allowed=())


def test_the_operators_list_allows_what_it_names_and_no_mapped_form_of_it() -> None:
    named = networks("127.0.0.0/8, ::1/128")
    assert is_allowed("127.0.0.1", allowed=named)
    assert is_allowed("::1", allowed=named)
    assert not is_allowed("::ffff:127.0.0.1", allowed=named)
    assert not is_allowed("10.0.0.1", allowed=named)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_no_spelling_of_loopback_is_connected_to(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        sender = Sender(timeout_sec=2, allowed=())
        url = f"https://{host}:{server.getsockname()[1]}/"
        outcome = await sender.post(url, headers=[], content=b"{}")
        assert isinstance(outcome, Failure)
        assert outcome.code == "blocked_address"
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(server.accept)
        await sender.aclose()


async def test_plain_http_goes_only_to_addresses_that_the_operator_names(receive: Receive) -> None:
    receiver = await receive(answer_ok)
    sender = Sender(timeout_sec=2, allowed=LOOPBACK)
    by_name = await sender.post(receiver.url.replace("127.0.0.1", "localhost"), headers=[], content=b"{}")
    by_address = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(by_name, Failure)
    assert by_name.code == "bad_url"
    assert isinstance(by_address, Answer)
    assert len(receiver.got) == 1
    await sender.aclose()


async def test_a_request_says_no_more_than_it_must(receive: Receive) -> None:
    receiver = await receive(answer_ok)
    sender = Sender(timeout_sec=2, allowed=LOOPBACK)
    await sender.post(receiver.url, headers=["webhook-id: evt_1"], content=b'{"a":1}' * 1000)
    (got,) = receiver.got
    assert {name.lower(): value for name, value in got.headers.items() if name != "Host"} == {
        "user-agent": "Cualify-Webhooks/1",
        "content-type": "application/json",
        "content-length": "7000",
        "accept": "*/*",
        "accept-encoding": "identity",
        "webhook-id": "evt_1",
    }
    assert got.content == b'{"a":1}' * 1000
    await sender.aclose()


async def test_a_redirect_is_a_failure_and_not_followed(receive: Receive) -> None:
    target = await receive(answer_ok)
    receiver = await receive(answers(307, headers={"Location": target.url}))
    sender = Sender(timeout_sec=2, allowed=LOOPBACK)
    outcome = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(outcome, Answer)
    assert failures.of_status(outcome.status) == "redirect"
    assert outcome.redirect_to == target.url
    assert not target.got
    await sender.aclose()


async def test_a_body_that_drips_ends_at_the_deadline(receive: Receive) -> None:
    async def drip(request: web.Request, _: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b".")
            await asyncio.sleep(0.05)
        return response

    receiver = await receive(drip)
    sender = Sender(timeout_sec=0.4, allowed=LOOPBACK)
    began = monotonic()
    outcome = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(outcome, Failure)
    assert outcome.code == "timeout_body"
    assert 0.35 < monotonic() - began < 1
    await sender.aclose()


async def test_a_server_that_does_not_answer_ends_at_the_deadline(receive: Receive) -> None:
    async def hang(_: web.Request, __: int) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    receiver = await receive(hang)
    sender = Sender(timeout_sec=0.3, allowed=LOOPBACK)
    outcome = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(outcome, Failure)
    assert outcome.code == "timeout_headers"
    await sender.aclose()


async def test_an_answer_is_read_to_16_kib_and_counts(receive: Receive) -> None:
    async def long(_: web.Request, __: int) -> web.StreamResponse:
        return web.Response(body=b"x" * 5_000_000)

    receiver = await receive(long)
    sender = Sender(timeout_sec=2, allowed=LOOPBACK)
    outcome = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(outcome, Answer)
    assert outcome.status == 200
    assert len(outcome.body) == MAX_ANSWER_BYTES
    again = await sender.post(receiver.url, headers=[], content=b"{}")
    assert isinstance(again, Answer)
    await sender.aclose()


async def test_nothing_listening_and_a_dropped_connection_have_their_codes() -> None:
    def nobody(_: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sender = Sender(timeout_sec=2, allowed=LOOPBACK, names=Names(look_up=nobody))
    dropped = await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
    server.close()
    await server.wait_closed()
    refused = await sender.post(f"http://127.0.0.1:{port}/", headers=[], content=b"{}")
    tls = await sender.post(f"https://127.0.0.1:{port}/", headers=[], content=b"{}")
    unknown = await sender.post("https://no-such-host.invalid/", headers=[], content=b"{}")
    codes = [outcome.code for outcome in (dropped, refused, tls, unknown) if isinstance(outcome, Failure)]
    assert codes == ["connection_closed", "connect_refused", "connect_refused", "dns_nxdomain"]
    await sender.aclose()


async def test_the_environments_proxy_is_not_used(receive: Receive, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, receiver = await receive(answer_ok), await receive(answer_ok)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    sender = Sender(timeout_sec=2, allowed=LOOPBACK)
    await sender.post(receiver.url, headers=[], content=b"{}")
    assert (len(proxy.got), len(receiver.got)) == (0, 1)
    await sender.aclose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https://"),
        ("https://user:pass@example.com/", "credentials"),
        ("https:///path", "host"),
        ("https://exa mple.com/", "spaces"),
        ("https://[::1/", "not a URL"),
        ("https://example.com:99999/", "not a URL"),
        ("https://example.com/" + "x" * 2048, "2048"),
        ("https://127.0.0.1/", "private"),
        ("https://localhost/", "private"),
        ("https://169.254.169.254/latest", "private"),
        ("https://[::ffff:8.8.8.8]/", "private"),
        ("https://no-such-host.invalid/", "resolve"),
    ],
)
async def test_a_url_that_may_not_be_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(UrlRefused, match=says):
        await check(url, allowed=(), names=Names())


async def test_a_public_address_and_a_named_one_are_taken() -> None:
    await check("https://8.8.8.8/hook", allowed=(), names=Names())
    await check("http://127.0.0.1:8080/hook", allowed=(ip_network("127.0.0.0/8"),), names=Names())
