"""The number that is throttled: 429 twice for each call, then accepted."""

import re
from typing import Final

REFUSALS: Final = 2
REMEMBERED: Final = 10_000


class Throttle:
    """Counts per callee and reference; a reference's attempt suffix (`…_2`) is not part of it.

    Once let through, a reference stays let through: were it sent again, the phone would ring again, and be seen to.
    Without a reference the count starts anew each time.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], int] = {}

    def refusals_so_far(self, to_e164: str, cualify_ref: str | None) -> int | None:
        """How often this call was refused before, counting this time; None if it may pass."""
        key = (to_e164, re.sub(r"_\d+$", "", cualify_ref or ""))
        count = self._refused.get(key, 0)
        if count >= REFUSALS:
            if cualify_ref is None:
                del self._refused[key]
            return None
        self._refused[key] = count + 1
        while len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]
        return count + 1
