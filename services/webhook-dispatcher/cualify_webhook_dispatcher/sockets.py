"""The sockets that libcurl waits for, behind one file descriptor that an event loop watches."""

import select
import selectors
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pycurl  # type: ignore[import-untyped, unused-ignore]


class _Epoll:
    """What is no longer waited for stays registered until it says something: most are waited for again at once.

    A request on a kept connection so costs one call of the kernel instead of two. A closed socket leaves the epoll by
    itself; its number in another's hands is then found missing, and registered.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events = {
            pycurl.POLL_IN: select.EPOLLIN,
            pycurl.POLL_OUT: select.EPOLLOUT,
            pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
        }
        self._wanted: set[int] = set()

    def watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """libcurl's M_SOCKETFUNCTION."""
        if what == pycurl.POLL_REMOVE:
            self._wanted.discard(fd)
            return
        self._wanted.add(fd)
        try:
            self._epoll.modify(fd, self._events[what])
        except FileNotFoundError:
            self._epoll.register(fd, self._events[what])

    def ready(self) -> Iterable[tuple[int, int]]:
        """Sockets that can move, with what libcurl is to be told of each."""
        for fd, events in self._epoll.poll(0):
            if fd not in self._wanted:
                with suppress(OSError):
                    self._epoll.unregister(fd)
                continue
            # EPOLLHUP and EPOLLERR: reading tells.
            told = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
            yield fd, told | (pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0)

    def fileno(self) -> int:
        """What the event loop watches."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Watches nothing any more."""
        self._epoll.close()


class _Selector:
    """The same where there is no epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._events = {
            pycurl.POLL_IN: selectors.EVENT_READ,
            pycurl.POLL_OUT: selectors.EVENT_WRITE,
            pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
        }
        assert (selectors.EVENT_READ, selectors.EVENT_WRITE) == (pycurl.CSELECT_IN, pycurl.CSELECT_OUT)

    def watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """libcurl's M_SOCKETFUNCTION."""
        if what == pycurl.POLL_REMOVE:
            with suppress(KeyError, ValueError):
                self._selector.unregister(fd)
            return
        try:
            self._selector.register(fd, self._events[what])
        except KeyError:
            self._selector.modify(fd, self._events[what])

    def ready(self) -> Iterable[tuple[int, int]]:
        """Sockets that can move, with what libcurl is to be told of each."""
        return [(key.fd, events) for key, events in self._selector.select(0)]

    def fileno(self) -> int:
        """What the event loop watches."""
        number: int = self._selector.fileno()  # type: ignore[attr-defined, unused-ignore]
        return number

    def close(self) -> None:
        """Watches nothing any more."""
        self._selector.close()


Sockets: type[_Epoll] | type[_Selector] = _Epoll if hasattr(select, "epoll") else _Selector
