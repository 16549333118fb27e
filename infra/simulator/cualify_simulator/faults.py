"""Rates of faults: a part of all calls, whatever their number, has one of the bad days of the table. Off at first.

`PUT /admin/faults {"server_error": 0.05, "dropped": 0.05, …}` sets the rates, `{}` none; what is not named is 0. The
numbers of the public table keep their own lives.
"""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cualify_simulator.script import BUSY, LIVES, NO_ANSWER, Answer, Callbacks, Life, Unanswered, life_of

ANSWERS: Final = ("server_error", "gateway_timeout", "dropped", "late", "not_json", "refused", "throttled_twice")
CALLBACKS: Final = {"callbacks_lost": Callbacks.NEVER, "callbacks_twice_reordered": Callbacks.TWICE_REORDERED}
ENDS: Final[Mapping[str, Unanswered]] = {"busy": BUSY, "no_answer": NO_ANSWER}
"""For calls that are rung again: the first time in vain, and not the next, once the rate is off."""
NAMES: Final = (*ANSWERS, *CALLBACKS, *ENDS)


class Faults:
    """One draw a call: at most one fault each, so the rates add up to 1 at most."""

    def __init__(self) -> None:
        self.rates: Mapping[str, float] = {}
        self._random = random.Random(0)

    def set(self, rates: Mapping[str, float], *, seed: int = 0) -> None:
        """Raises `ValueError` for a name that is not one, or rates that can't be."""
        if unknown := rates.keys() - set(NAMES):
            raise ValueError(f"unknown faults: {sorted(unknown)}; there are {list(NAMES)}")
        if any(isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0 for rate in rates.values()):
            raise ValueError("a rate is a number from 0 to 1")
        if sum(rates.values()) > 1:
            raise ValueError("the rates add up to more than 1")
        self.rates, self._random = dict(rates), random.Random(seed)

    def life_of(self, to_e164: str) -> Life:
        """The life of the call that is being asked for now."""
        life = life_of(to_e164)
        if not self.rates or to_e164 in LIVES:
            return life
        drawn = self._random.random()
        for name, rate in self.rates.items():
            drawn -= rate
            if drawn < 0:
                return _with(life, name)
        return life


def _with(life: Life, fault: str) -> Life:
    if fault in CALLBACKS:
        return replace(life, callbacks=CALLBACKS[fault])
    if fault in ENDS:
        return replace(life, end=ENDS[fault])
    return replace(life, answer=Answer(fault))
