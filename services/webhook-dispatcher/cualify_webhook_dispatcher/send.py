"""One POST to a customer's server, by libcurl, hardened: the URL is the customer's, and so is what answers.

- libcurl asks `_open_socket` about each address it is about to dial: no spelling of a host and no rebinding passes.
- Names are looked up by `names`, and libcurl is told the addresses: one inner address, and none of them is dialed.
- One deadline from the name's resolution to the body's last byte; of the body at most 16 KiB are read.
- No proxy, redirect, credentials, cookies or decompression; https, and http only where the operator allows it.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any, TypeAlias

import certifi
import pycurl  # type: ignore[import-untyped, unused-ignore]

from cualify_shared.values import quick_value
from cualify_webhook_dispatcher import failures
from cualify_webhook_dispatcher.addresses import Network, is_allowed, literal
from cualify_webhook_dispatcher.names import REMEMBERED, USABLE_SEC, Addresses, Names
from cualify_webhook_dispatcher.sockets import Sockets
from cualify_webhook_dispatcher.urls import host_and_port, may_be_plain

MAX_ANSWER_BYTES = 16 * 1024
_GRACE_SEC = 5.0
_TICK_SEC = 1.0
_IDLE_HANDLES = 256
_IDLE_CONNECTIONS = 1024
_ADDRESSES = 16
"""Of one name that libcurl is told."""
_HEADERS = ["Content-Type: application/json", "Accept: */*", "Accept-Encoding: identity", "Expect:"]
_INCOMPLETE_CHAIN = (20, 21)
"""OpenSSL's X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY and …_VERIFY_LEAF_SIGNATURE."""


@quick_value
class Answer:
    """The server answered to the end, or to the 16 KiB that we read."""

    status: int
    body: bytes
    duration: timedelta
    retry_after: str | None = None
    redirect_to: str | None = None


@quick_value
class Failure:
    """No whole answer; `code` is one of `failures.HOW_TO_MEND`."""

    code: str
    duration: timedelta
    retry_after: str | None = None


Done: TypeAlias = Callable[[Answer | Failure], None]


class Sender:
    """Sends from one event loop, many at once. `aclose` ends whatever is under way.

    libcurl watches its sockets through one epoll (or kqueue) of their own, which is a single reader to the event loop:
    a turn of the loop moves everything that can move. A tick a second looks whether something was missed.
    """

    def __init__(
        self,
        *,
        timeout_sec: float,
        allowed: Sequence[Network],
        names: Names | None = None,
        resolve: Sequence[str] = (),
    ) -> None:
        """`resolve` gives libcurl addresses past all else, as `host:port:address`: for tests."""
        self._timeout_ms, self._allowed, self._resolve = int(timeout_sec * 1000), tuple(allowed), tuple(resolve)
        self.names = names or Names()
        self._given = {":".join(one.split(":")[:2]) for one in resolve}
        self._fresh: dict[str, float] = {}
        """URLs of which libcurl knows what `names` knows, until when."""
        self._resolving: dict[_Handle, asyncio.TimerHandle] = {}
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _IDLE_CONNECTIONS)
        self._sockets = Sockets()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._sockets.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._idle: list[_Handle] = []
        self._busy: dict[Any, _Handle] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._timer_at = inf
        self._kicking = False
        self._tick: asyncio.TimerHandle | None = None

    def start(self, url: str, *, headers: Sequence[str], content: bytes, done: Done) -> Callable[[], None]:
        """Sends once. `done` is called within the deadline, whatever the server does; not before this returns.

        libcurl repeats the request by itself if a kept connection turns out dead; receivers dedupe on `webhook-id`.
        Returns what aborts the request: then `done` is never called, and the connection is cut.
        """
        loop = self._loop or self._begin()
        handle = self._idle.pop() if self._idle else _Handle(self._timeout_ms, self._allowed, self._resolve)
        try:
            handle.prepare(url, headers=headers, content=content, done=done)
        except (pycurl.error, ValueError, UnicodeError):
            loop.call_soon(done, Failure("bad_url", timedelta()))
            return _nothing
        if self._fresh.get(url, 0.0) > handle.began:
            self._add(handle)
        else:
            self._find(handle, url)
        return partial(self._abort, handle)

    async def post(self, url: str, *, headers: Sequence[str], content: bytes) -> Answer | Failure:
        """The same for one who waits."""
        future: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()

        def done(outcome: Answer | Failure) -> None:
            if not future.done():
                future.set_result(outcome)

        abort = self.start(url, headers=headers, content=content, done=done)
        try:
            return await future
        except asyncio.CancelledError:
            abort()
            raise

    async def aclose(self) -> None:
        """Ends what is under way and closes the connections."""
        for handle in [*self._busy.values(), *self._resolving]:
            self._abort(handle)
        for timer in (self._timer, self._tick):
            if timer is not None:
                timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._sockets.fileno())
            self._loop = None
        self._idle.clear()
        self._multi.close()
        self._sockets.close()

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sockets.fileno(), self._on_ready)
        return self._loop

    def _add(self, handle: "_Handle") -> None:
        assert self._loop is not None
        self._busy[handle.curl] = handle
        self._multi.add_handle(handle.curl)
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK_SEC, self._on_tick)

    def _find(self, handle: "_Handle", url: str) -> None:
        """Begins the request when its host's addresses are known: at once as a rule."""
        assert self._loop is not None
        host, port = host_and_port(url)
        if not host or literal(host) is not None or f"{host}:{port}" in self._given:
            self._note(url, inf)
            self._add(handle)
            return
        found, known = partial(self._found, handle, host, port), self.names.known(host, at=handle.began)
        if known is None:
            self._resolving[handle] = self._loop.call_later(self._timeout_ms / 1000, self._not_found, handle)
            self.names.resolve(host, found)
            return
        if known.fresh_until > handle.began:
            self._note(url, known.fresh_until)
        else:
            self.names.refresh(host)
        self._resolving[handle] = self._loop.call_later(0, found, known.addresses, True)

    def _found(self, handle: "_Handle", host: str, port: int, addresses: Addresses, sure: bool) -> None:
        timer = self._resolving.pop(handle, None)
        if timer is None:
            return  # It was given up, or cut off.
        timer.cancel()
        if addresses and all(is_allowed(address, allowed=self._allowed) for address in addresses):
            handle.go_to(host, port, addresses)
            self._add(handle)
            return
        code = "blocked_address" if addresses else "dns_nxdomain" if sure else "timeout_dns"
        handle.done(Failure(code, handle.passed()))

    def _not_found(self, handle: "_Handle") -> None:
        del self._resolving[handle]
        handle.done(Failure("timeout_dns", handle.passed()))

    def _note(self, url: str, until: float) -> None:
        if len(self._fresh) >= REMEMBERED:
            self._fresh.clear()
        self._fresh[url] = until

    def _abort(self, handle: "_Handle") -> None:
        timer = self._resolving.pop(handle, None)
        if timer is not None:
            timer.cancel()
            handle.curl.close()
            return
        if self._busy.pop(handle.curl, None) is None:
            return
        self._multi.remove_handle(handle.curl)
        handle.curl.close()

    def _set_timer(self, timeout_ms: int) -> None:
        """libcurl tells twice a request: at once, when one is added, and then the earliest deadline, which moves on.

        One turn kicks off all that were added; a timer that is set too early looks again when it is time.
        """
        if self._loop is None:
            return
        if timeout_ms == 0:
            if not self._kicking:
                self._kicking = True
                self._loop.call_soon(self._kick)
            return
        self._due = monotonic() + timeout_ms / 1000 if timeout_ms > 0 else inf
        if self._due < self._timer_at:
            self._set_timer_anew()

    def _set_timer_anew(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf
        if self._loop is not None and self._due < inf:
            self._timer_at = self._due
            self._timer = self._loop.call_later(max(0.0, self._due - monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        if self._due <= monotonic():
            self._due = inf  # Unless libcurl sets it anew.
            self._kick()
        self._set_timer_anew()

    def _kick(self) -> None:
        self._kicking = False
        if self._loop is None:
            return
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._reap()

    def _on_ready(self) -> None:
        action = self._multi.socket_action
        for fd, events in self._sockets.ready():
            action(fd, events)
        self._reap()

    def _on_tick(self) -> None:
        self._tick = None
        if not self._busy or self._loop is None:
            return
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._reap()
        latest = monotonic() - self._timeout_ms / 1000 - _GRACE_SEC
        for handle in [one for one in self._busy.values() if one.began < latest]:
            # libcurl did not keep its own deadline.
            self._abort(handle)
            handle.done(Failure("timeout_headers", timedelta(seconds=monotonic() - handle.began)))
        if self._busy:
            self._tick = self._loop.call_later(_TICK_SEC, self._on_tick)

    def _reap(self) -> None:
        left = 1
        while left:
            left, good, bad = self._multi.info_read(1000)
            for curl in good:
                self._finish(curl, pycurl.E_OK)
            for curl, code, _ in bad:
                self._finish(curl, code)

    def _finish(self, curl: Any, code: int) -> None:
        handle = self._busy.pop(curl, None)
        self._multi.remove_handle(curl)
        if handle is None:
            return
        outcome = handle.outcome(code)
        done = handle.done
        handle.forget_answer()
        if len(self._idle) < _IDLE_HANDLES:
            self._idle.append(handle)
        done(outcome)


def _nothing(*_: Any) -> None:
    """For a request that is not under way."""


class _Handle:
    """A curl easy handle with our rules, used for one request after another, and what came back for the present one."""

    def __init__(self, timeout_ms: int, allowed: tuple[Network, ...], resolve: tuple[str, ...]) -> None:
        self._allowed, self._timeout_ms, self._hurried = allowed, timeout_ms, False
        self._body, self._size, self._blocked = list[bytes](), 0, False
        self._lines: list[bytes] = []
        self._url = ""
        self.began, self.done = 0.0, _nothing
        self.curl = _hardened(timeout_ms)
        if resolve:
            self.curl.setopt(pycurl.RESOLVE, list(resolve))
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        # A builtin: libcurl calls it for each line, and no Python runs.
        self.curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)

    def prepare(self, url: str, *, headers: Sequence[str], content: bytes, done: Done) -> None:
        """Raises pycurl.error or ValueError for a URL that can't be one."""
        self._blocked = False
        if self._hurried:
            self.curl.setopt(pycurl.TIMEOUT_MS, self._timeout_ms)
            self._hurried = False
        if url != self._url:
            plain = pycurl.PROTO_HTTP if may_be_plain(url, allowed=self._allowed) else 0
            self.curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | plain)
            self.curl.setopt(pycurl.URL, url)
            self._url = url
        self.curl.setopt(pycurl.HTTPHEADER, [*_HEADERS, *headers])
        self.curl.setopt(pycurl.POSTFIELDS, content)
        self.began, self.done = monotonic(), done

    def go_to(self, host: str, port: int, addresses: Addresses) -> None:
        """Says where the host is. What it took to find out is taken from the deadline."""
        listed = ",".join(f"[{one}]" if ":" in one else one for one in addresses[:_ADDRESSES])
        # With a plus libcurl forgets it in time, by DNS_CACHE_TIMEOUT; it looks hosts up without their last dot.
        self.curl.setopt(pycurl.RESOLVE, [f"+{host.removesuffix('.')}:{port}:{listed}"])
        passed_ms = int((monotonic() - self.began) * 1000)
        if passed_ms:
            self.curl.setopt(pycurl.TIMEOUT_MS, max(1, self._timeout_ms - passed_ms))
            self._hurried = True

    def passed(self) -> timedelta:
        """Since it began."""
        return timedelta(seconds=monotonic() - self.began)

    def forget_answer(self) -> None:
        """An idle handle keeps none of it: a server may have sent 300 kB of headers."""
        self._lines.clear()
        if self._size:
            self._body, self._size = [], 0

    def outcome(self, code: int) -> Answer | Failure:
        """What happened, from libcurl's code and what was seen on the way."""
        duration = timedelta(seconds=monotonic() - self.began)
        cut_short = code == pycurl.E_WRITE_ERROR and self._size > MAX_ANSWER_BYTES
        if code != pycurl.E_OK and not cut_short:
            return Failure(self._failure_code(code), duration, self._retry_after())
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        body = b"".join(self._body)[:MAX_ANSWER_BYTES] if self._body else b""
        if 200 <= status < 300:
            return Answer(status, body, duration)
        # Raw: the other server's bytes, and what is not UTF-8 would raise.
        redirect_to = self.curl.getinfo_raw(pycurl.REDIRECT_URL)
        return Answer(
            status, body, duration, self._retry_after(), redirect_to and redirect_to.decode("utf-8", "replace")
        )

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        # A name that has one inner address is not trusted with its others either.
        known = address.family in (socket.AF_INET, socket.AF_INET6)
        if self._blocked or not known or not is_allowed(address.addr[0], allowed=self._allowed):
            self._blocked = True
            return pycurl.SOCKET_BAD
        return socket.socket(address.family, address.socktype, address.protocol)

    def _on_body(self, part: bytes) -> int | None:
        self._body.append(part)
        self._size += len(part)
        return None if self._size <= MAX_ANSWER_BYTES else 0

    def _retry_after(self) -> str | None:
        found: str | None = None
        for line in self._lines:
            if line[:5] == b"HTTP/":
                found = None
            elif line[:12].lower() == b"retry-after:":
                found = line[12:].decode("latin-1").strip()
        return found

    @property
    def _headers_ended(self) -> bool:
        if not self._lines or self._lines[-1] not in (b"\r\n", b"\n"):
            return False
        # After 100 Continue or 103 Early Hints the answer's own headers are still to come.
        status_lines = [line for line in self._lines if line[:5] == b"HTTP/"]
        return bool(status_lines) and status_lines[-1][8:10] != b" 1"

    def _failure_code(self, code: int) -> str:
        if self._blocked and code in (pycurl.E_COULDNT_CONNECT, pycurl.E_OPERATION_TIMEDOUT):
            return "blocked_address"
        if code == pycurl.E_COULDNT_CONNECT:
            refused = self.curl.getinfo(pycurl.OS_ERRNO) == errno.ECONNREFUSED
            return "connect_refused" if refused else "connect_failed"
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            incomplete = self.curl.getinfo(pycurl.SSL_VERIFYRESULT) in _INCOMPLETE_CHAIN
            return "tls_chain_incomplete" if incomplete else "tls_certificate"
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return self._stage_of_timeout()
        if code == pycurl.E_UNSUPPORTED_PROTOCOL and self.curl.getinfo(pycurl.REQUEST_SIZE) > 0:
            return "bad_answer"  # It was asked, and what it said is no HTTP.
        return _CODES.get(code, "bad_answer")

    def _stage_of_timeout(self) -> str:
        if self._headers_ended:
            return "timeout_body"
        # libcurl sets PRETRANSFER_TIME at the end too, so it tells nothing here.
        if self.curl.getinfo(pycurl.REQUEST_SIZE) > 0:
            return "timeout_headers"
        if self.curl.getinfo(pycurl.CONNECT_TIME) > 0:
            return "timeout_tls"
        return "timeout_connect" if self.curl.getinfo(pycurl.NAMELOOKUP_TIME) > 0 else "timeout_dns"


def _hardened(timeout_ms: int) -> Any:
    curl = pycurl.Curl()
    for option, value in (
        (pycurl.POST, 1),
        (pycurl.TIMEOUT_MS, timeout_ms),
        (pycurl.CONNECTTIMEOUT_MS, timeout_ms),
        (pycurl.NOSIGNAL, 1),
        (pycurl.PROXY, ""),
        (pycurl.NOPROXY, "*"),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.REDIR_PROTOCOLS, 0),
        (pycurl.NETRC, pycurl.NETRC_IGNORED),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.HTTP_CONTENT_DECODING, 0),
        (pycurl.SSL_VERIFYPEER, 1),
        (pycurl.SSL_VERIFYHOST, 2),
        (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
        (pycurl.CAINFO, certifi.where()),
        (pycurl.USERAGENT, "Cualify-Webhooks/1"),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.DNS_CACHE_TIMEOUT, int(USABLE_SEC)),
    ):
        curl.setopt(option, value)
    return curl


_CODES = {
    pycurl.E_COULDNT_RESOLVE_HOST: "dns_nxdomain",
    pycurl.E_SSL_CONNECT_ERROR: "tls_failed",
    pycurl.E_SSL_CIPHER: "tls_failed",
    pycurl.E_GOT_NOTHING: "connection_closed",
    pycurl.E_RECV_ERROR: "connection_closed",
    pycurl.E_SEND_ERROR: "connection_closed",
    pycurl.E_PARTIAL_FILE: "connection_closed",
    pycurl.E_UNSUPPORTED_PROTOCOL: "bad_url",
    pycurl.E_URL_MALFORMAT: "bad_url",
}
assert set(_CODES.values()) <= failures.HOW_TO_MEND.keys()
