"""One request's libcurl handle with our rules, and what came back through it.

libcurl asks `_open_socket` about each address that it is about to dial: whatever the spelling of the host, and whoever
resolved it. All handles ask, so a kept connection is one that was allowed.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, TypeAlias

import certifi
import pycurl  # type: ignore[import-untyped, unused-ignore]

from cualify_shared.values import quick_value
from cualify_webhook_dispatcher import failures
from cualify_webhook_dispatcher.addresses import Network, is_allowed
from cualify_webhook_dispatcher.names import USABLE_SEC, Addresses
from cualify_webhook_dispatcher.urls import may_be_plain

MAX_ANSWER_BYTES = 16 * 1024
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


def nothing(*_: Any) -> None:
    """For a request that is not under way."""


class Handle:
    """A curl easy handle with our rules, used for one request after another, and what came back for the present one."""

    def __init__(self, timeout_ms: int, allowed: tuple[Network, ...], resolve: tuple[str, ...]) -> None:
        self._allowed, self._timeout_ms, self._hurried = allowed, timeout_ms, False
        self._body, self._size, self._blocked = list[bytes](), 0, False
        self._lines: list[bytes] = []
        self._url = ""
        self.began, self.done = 0.0, nothing
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
