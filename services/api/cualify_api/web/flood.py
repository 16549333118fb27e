"""Who knocks without a key is heard 60 times a minute and address, then no more for a while.

Kept in this process, in bounded memory. Who comes with a key that is known here is not asked: behind one address an
office may stand, with one program gone wrong in it.
"""

import ipaddress
import math
import time
from collections.abc import Callable
from typing import Final

REMEMBERED: Final = 20_000


class Knocks:
    """A token bucket an address (of IPv6 the /64 that one customer has): `per_minute` at once, then as they refill."""

    def __init__(self, *, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_sec, self._span_sec, self._clock = 60 / per_minute, 60.0, clock
        self._full_again_at: dict[str, float] = {}

    def wait_sec(self, address: str) -> int | None:
        """After how many whole seconds the next failure would be heard; None where it would be now."""
        ahead = self._full_again_at.get(_group(address), 0.0) - self._clock()
        over = ahead + self._every_sec - self._span_sec
        return math.ceil(over) if over > 1e-9 else None

    def failed(self, address: str) -> None:
        """Counts a request that came without a key."""
        group, now = _group(address), self._clock()
        full_again_at = max(self._full_again_at.pop(group, 0.0), now) + self._every_sec
        if len(self._full_again_at) >= REMEMBERED:
            del self._full_again_at[next(iter(self._full_again_at))]
        self._full_again_at[group] = full_again_at


def _group(address: str) -> str:
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(whole.ipv4_mapped or ipaddress.IPv6Network((whole, 64), strict=False))
