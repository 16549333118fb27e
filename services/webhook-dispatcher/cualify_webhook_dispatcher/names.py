"""Names to addresses by the system's resolver, each in a thread that may hang for as long as it likes.

libcurl would do it in 20 threads that all names share: twenty names whose servers say nothing, and nobody's name is
resolved any more. Here a name is looked up once, whoever waits for it; names that took long the last time share a few
threads of their own; and a name that was known lately is used on while it is looked up anew, so that a resolver which
is away stops nobody who has been delivered to.
"""

import asyncio
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import TypeAlias, TypeVar

FRESH_SEC = 60.0
TRIED_AGAIN_SEC = 5.0
"""When the resolver could not say, and the name was known."""
USABLE_SEC = 600.0
"""So long a name is used on while it is looked up anew. libcurl, which is told the addresses, keeps them as long."""
AT_ONCE = 64
SLOW_AFTER_SEC = 1.0
"""Then a look-up counts no more towards those at once: it hangs, and others are not to wait for it."""
SLOW_AT_ONCE = 16
"""Look-ups of names that were slow the last time."""
THREADS = 512
REMEMBERED = 10_000

Addresses: TypeAlias = tuple[str, ...]
"""As `getaddrinfo` orders them."""
LookUp: TypeAlias = Callable[[str], Sequence[str]]
Found: TypeAlias = Callable[[Addresses, bool], None]
"""What was found. Without addresses: whether the resolver is sure that there are none, or could not say."""
T = TypeVar("T")
_THERE_IS_NONE = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def system_look_up(host: str) -> list[str]:
    """What the system's resolver says: hosts file, search domains and all. Blocks. Raises OSError or UnicodeError."""
    return [str(answer[4][0]) for answer in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


@dataclass(frozen=True, slots=True)
class Known:
    """What a name was when it was last looked up; on the monotonic clock."""

    addresses: Addresses
    at: float
    fresh_until: float
    """From then on it is looked up anew."""


class Names:
    """The names of one event loop. A thread is a daemon: one that hangs does not keep the process."""

    def __init__(self, *, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[str, list[Found]] = {}
        self._queue: deque[str] = deque()
        self._slow_queue: deque[str] = deque()
        self._quick: set[str] = set()
        self._old: set[str] = set()
        self._slow_running: set[str] = set()

    def known(self, host: str, *, at: float) -> Known | None:
        """What is known of a name, fresh or not; None if that is too old."""
        known = self._known.get(host)
        return known if known is not None and known.at + USABLE_SEC > at else None

    def resolve(self, host: str, found: Found) -> None:
        """Looks a name up and tells what was found, in this loop; one look-up for all who wait for it."""
        waiting = self._waiting.get(host)
        if waiting is not None:
            waiting.append(found)
            return
        self._waiting[host] = [found]
        (self._slow_queue if host in self._slow else self._queue).append(host)
        self._begin()

    def refresh(self, host: str) -> None:
        """Looks a name up that is used on meanwhile."""
        if host not in self._waiting:
            self.resolve(host, _nothing)

    async def addresses(self, host: str) -> Addresses:
        """The same for one who waits, as long as he likes."""
        future: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        self.resolve(host, lambda addresses, _: None if future.done() else future.set_result(addresses))
        return await future

    def _begin(self) -> None:
        while self._queue and len(self._quick) < AT_ONCE and len(self._quick) + len(self._old) < THREADS:
            host = self._queue.popleft()
            self._quick.add(host)
            self._start(host)
            asyncio.get_running_loop().call_later(SLOW_AFTER_SEC, self._grow_old, host)
        while self._slow_queue and len(self._slow_running) < SLOW_AT_ONCE:
            host = self._slow_queue.popleft()
            self._slow_running.add(host)
            self._start(host)

    def _grow_old(self, host: str) -> None:
        if host in self._quick:
            self._quick.remove(host)
            self._old.add(host)
            self._begin()

    def _start(self, host: str) -> None:
        loop, began = asyncio.get_running_loop(), monotonic()

        def run() -> None:
            addresses, sure = self._looked_up(host)
            with suppress(RuntimeError):  # The loop has ended meanwhile.
                loop.call_soon_threadsafe(self._ended, host, addresses, sure, began)

        try:
            threading.Thread(target=run, name=f"resolve {host}", daemon=True).start()
        except RuntimeError:  # The system has no more threads to give.
            loop.call_soon(self._ended, host, (), False, began)

    def _looked_up(self, host: str) -> tuple[Addresses, bool]:
        """The addresses, and whether the resolver was sure of it. In the thread."""
        try:
            return tuple(dict.fromkeys(self._look_up(host))), True
        except socket.gaierror as error:
            return (), error.errno in _THERE_IS_NONE
        except Exception:  # Whatever a customer has registered as a name.
            return (), True

    def _ended(self, host: str, addresses: Addresses, sure: bool, began: float) -> None:
        at = monotonic()
        for running in (self._quick, self._old, self._slow_running):
            running.discard(host)
        self._slow.pop(host, None)
        if at - began > SLOW_AFTER_SEC:
            _remember(self._slow, host, None)
        known = self._known.pop(host, None)
        if addresses:
            _remember(self._known, host, Known(addresses, at, at + FRESH_SEC))
        elif known is not None and not sure:
            _remember(self._known, host, replace(known, fresh_until=at + TRIED_AGAIN_SEC))
        for found in self._waiting.pop(host):
            found(addresses, sure)
        self._begin()


def _nothing(*_: object) -> None:
    """Nobody waits for it."""


def _remember(memory: OrderedDict[str, T], host: str, value: T) -> None:
    memory[host] = value
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
