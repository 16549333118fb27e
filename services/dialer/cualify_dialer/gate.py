"""May this call be dialed now? Pure: what is asked of it stands in its arguments."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from cualify_dialer.model import Call


@dataclass(frozen=True, slots=True)
class Dial:
    """Now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now; the job stays where it is."""


@dataclass(frozen=True, slots=True)
class Never:
    """Not any more: the call ends without being dialed."""

    reason: str


Decision: TypeAlias = Dial | Wait | Never


def decide(
    call: Call, *, now: datetime, busy: Collection[str], providers: Collection[str], simulators: Collection[str] = ()
) -> Decision:
    """Decides on one job. `busy` are the numbers to which an attempt is open, `providers` those that we can ask.

    A call placed with a test key goes to one of the `simulators`, which ring nobody, or nowhere.
    """
    if not call.waits:
        return Wait()
    if call.request.test and call.provider not in simulators:
        return Never("no_simulator")
    if now >= call.request.latest_at:
        return Never("expired")
    if call.provider not in providers:
        return Never("provider_not_configured")
    if now < call.next_at or call.request.to_e164 in busy:
        return Wait()
    return Dial()
