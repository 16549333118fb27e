"""One POST to a customer's server, by libcurl, hardened: the URL is the customer's, and so is what answers.

- Each address is asked about before it is dialed (`handle`): no spelling of a host and no rebinding passes.
- Names are looked up by `names`, and libcurl is told the addresses: one inner address, and none of them is dialed.
- One deadline from the name's resolution to the body's last byte; of the body at most 16 KiB are read.
- No proxy, redirect, credentials, cookies or decompression; https, and http only where the operator allows it.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import pycurl  # type: ignore[import-untyped, unused-ignore]

from cualify_webhook_dispatcher.addresses import Network, is_allowed, literal
from cualify_webhook_dispatcher.handle import Answer, Done, Failure, Handle, nothing
from cualify_webhook_dispatcher.names import REMEMBERED, Addresses, Names
from cualify_webhook_dispatcher.sockets import Sockets
from cualify_webhook_dispatcher.urls import host_and_port

_GRACE_SEC = 5.0
_TICK_SEC = 1.0
_IDLE_HANDLES = 256
_IDLE_CONNECTIONS = 1024


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
        self._resolving: dict[Handle, asyncio.TimerHandle] = {}
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _IDLE_CONNECTIONS)
        self._sockets = Sockets()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._sockets.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._idle: list[Handle] = []
        self._busy: dict[Any, Handle] = {}
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
        handle = self._idle.pop() if self._idle else Handle(self._timeout_ms, self._allowed, self._resolve)
        try:
            handle.prepare(url, headers=headers, content=content, done=done)
        except (pycurl.error, ValueError, UnicodeError):
            loop.call_soon(done, Failure("bad_url", timedelta()))
            return nothing
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

    def _add(self, handle: Handle) -> None:
        assert self._loop is not None
        self._busy[handle.curl] = handle
        self._multi.add_handle(handle.curl)
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK_SEC, self._on_tick)

    def _find(self, handle: Handle, url: str) -> None:
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

    def _found(self, handle: Handle, host: str, port: int, addresses: Addresses, sure: bool) -> None:
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

    def _not_found(self, handle: Handle) -> None:
        del self._resolving[handle]
        handle.done(Failure("timeout_dns", handle.passed()))

    def _note(self, url: str, until: float) -> None:
        if len(self._fresh) >= REMEMBERED:
            self._fresh.clear()
        self._fresh[url] = until

    def _abort(self, handle: Handle) -> None:
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
