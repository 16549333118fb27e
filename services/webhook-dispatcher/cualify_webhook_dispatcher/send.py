"""One POST to a customer's server, by libcurl, hardened: the URL is the customer's, and so is what answers.

- libcurl asks `_open_socket` about each address it is about to dial: no spelling of a host and no rebinding passes.
- One deadline from the name's resolution to the body's last byte; of the body at most 16 KiB are read.
- No proxy, redirect, credentials, cookies or decompression; https, and http only where the operator allows it.
"""

import asyncio
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any

import certifi
import pycurl  # type: ignore[import-untyped, unused-ignore]

from cualify_webhook_dispatcher import failures
from cualify_webhook_dispatcher.addresses import Network, is_allowed
from cualify_webhook_dispatcher.urls import may_be_plain

MAX_ANSWER_BYTES = 16 * 1024
_GRACE_SEC = 5.0
_IDLE_HANDLES = 256
_IDLE_CONNECTIONS = 1024
_HEADERS = ["Content-Type: application/json", "Accept: */*", "Accept-Encoding: identity", "Expect:"]
_INCOMPLETE_CHAIN = (20, 21)
"""OpenSSL's X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY and …_VERIFY_LEAF_SIGNATURE."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The server answered to the end, or to the 16 KiB that we read."""

    status: int
    body: bytes
    duration: timedelta
    retry_after: str | None = None
    redirect_to: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """No whole answer; `code` is one of `failures.HOW_TO_MEND`."""

    code: str
    duration: timedelta


class Sender:
    """Sends from one event loop. `aclose` ends whatever is under way."""

    def __init__(self, *, timeout_sec: float, allowed: Sequence[Network]) -> None:
        self._timeout_ms, self._allowed = int(timeout_sec * 1000), tuple(allowed)
        self._multi: Any = pycurl.AsyncCurlMulti()  # type: ignore[attr-defined, unused-ignore]
        self._multi.setopt(pycurl.M_MAXCONNECTS, _IDLE_CONNECTIONS)
        self._idle: list[_Handle] = []

    async def post(self, url: str, *, headers: Sequence[str], content: bytes) -> Answer | Failure:
        """Sends once. Returns within the deadline, whatever the server does.

        libcurl repeats the request by itself if a kept connection turns out dead; receivers dedupe on `webhook-id`.
        """
        handle = self._idle.pop() if self._idle else _Handle(self._timeout_ms, self._allowed)
        began = monotonic()
        try:
            handle.prepare(url, headers=headers, content=content)
            async with asyncio.timeout(self._timeout_ms / 1000 + _GRACE_SEC):
                await self._multi.perform(handle.curl)
            code = int(pycurl.E_OK)
        except pycurl.error as error:
            code = int(error.args[0])
        except TimeoutError:
            # libcurl did not keep its own deadline. The multi lets go of the handle a tick later: it is not used again.
            return Failure("timeout_headers", timedelta(seconds=monotonic() - began))
        outcome = handle.outcome(code, timedelta(seconds=monotonic() - began))
        if len(self._idle) < _IDLE_HANDLES:
            self._idle.append(handle)
        return outcome

    async def aclose(self) -> None:
        """Ends what is under way and closes the connections."""
        await self._multi.aclose()
        self._idle.clear()


class _Handle:
    """A curl easy handle with our rules, used for one request after another, and what came back for the present one."""

    def __init__(self, timeout_ms: int, allowed: tuple[Network, ...]) -> None:
        self._allowed = allowed
        self._body, self._size, self._blocked, self._headers_ended = list[bytes](), 0, False, False
        self._retry_after: str | None = None
        self.curl = _hardened(timeout_ms)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._on_header)

    def prepare(self, url: str, *, headers: Sequence[str], content: bytes) -> None:
        """Raises pycurl.error for a URL that can't be one."""
        self._body, self._size, self._blocked, self._headers_ended = [], 0, False, False
        self._retry_after = None
        plain = pycurl.PROTO_HTTP if may_be_plain(url, allowed=self._allowed) else 0
        self.curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | plain)
        self.curl.setopt(pycurl.URL, url)
        self.curl.setopt(pycurl.HTTPHEADER, [*_HEADERS, *headers])
        self.curl.setopt(pycurl.POSTFIELDS, content)

    def outcome(self, code: int, duration: timedelta) -> Answer | Failure:
        """What happened, from libcurl's code and what was seen on the way."""
        cut_short = code == pycurl.E_WRITE_ERROR and self._size > MAX_ANSWER_BYTES
        if code != pycurl.E_OK and not cut_short:
            return Failure(self._failure_code(code), duration)
        return Answer(
            status=self.curl.getinfo(pycurl.RESPONSE_CODE),
            body=b"".join(self._body)[:MAX_ANSWER_BYTES],
            duration=duration,
            retry_after=self._retry_after,
            redirect_to=self.curl.getinfo(pycurl.REDIRECT_URL),
        )

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        if address.family not in (socket.AF_INET, socket.AF_INET6) or not is_allowed(
            address.addr[0], allowed=self._allowed
        ):
            self._blocked = True
            return pycurl.SOCKET_BAD
        return socket.socket(address.family, address.socktype, address.protocol)

    def _on_body(self, part: bytes) -> int | None:
        self._body.append(part)
        self._size += len(part)
        return None if self._size <= MAX_ANSWER_BYTES else 0

    def _on_header(self, line: bytes) -> None:
        if line[:5] == b"HTTP/":
            self._headers_ended, self._retry_after = False, None
        elif line in (b"\r\n", b"\n"):
            self._headers_ended = True
        elif line[:12].lower() == b"retry-after:":
            self._retry_after = line[12:].decode("latin-1").strip()

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
        return _CODES.get(code, "bad_answer")

    def _stage_of_timeout(self) -> str:
        if self._headers_ended:
            return "timeout_body"
        if self.curl.getinfo(pycurl.PRETRANSFER_TIME) > 0:
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
