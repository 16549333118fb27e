"""Whether an endpoint is sent to: its breaker, what it asked for by `Retry-After`, and when it is paused. Pure.

Five failures in a row of a kind that says "the server is down" open the breaker. While it is open nothing is sent but
one probe at a time, and nothing burns an attempt. The first success closes it. After 72 hours without a success the
endpoint is paused: its events are kept.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from cualify_shared.values import quick_value

OPENS_AFTER = 5
PROBES_SEC = (10, 30, 60, 120)
THEN_EVERY_SEC = 300
PAUSES_AFTER = timedelta(hours=72)

PausedReason = Literal["gone", "failing_for_72_h"]

_DOWN = frozenset(
    {
        "dns_nxdomain",
        "connect_refused",
        "connect_failed",
        "tls_chain_incomplete",
        "tls_certificate",
        "tls_failed",
        "timeout_dns",
        "timeout_connect",
        "timeout_tls",
        "timeout_headers",
        "timeout_body",
        "connection_closed",
        "bad_answer",
        "blocked_address",
        "http_5xx",
    }
)


@quick_value
class Health:
    """What is known of an endpoint, as its row says it."""

    failures_in_a_row: int = 0
    failing_since: datetime | None = None
    opened_at: datetime | None = None
    probes: int = 0
    """Probes that have failed since it opened."""
    not_before: datetime | None = None
    """Nothing is sent before."""
    recovered_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing but probes is sent."""
        return self.opened_at is not None


def says_down(failure_code: str | None) -> bool:
    """Whether a failure is of the kind that opens the breaker: no connection, no answer in time, 5xx."""
    return failure_code in _DOWN


def after(
    health: Health, *, failure_code: str | None, asked_sec: float | None, probe: bool, began_at: datetime, now: datetime
) -> Health:
    """The health after an attempt. `asked_sec`: the endpoint as a whole asked to be left alone for so long."""
    if failure_code is None:
        return _after_success(health, began_at=began_at, now=now)
    failing = replace(health, failing_since=health.failing_since or now)
    if health.opened_at is not None:
        # What was under way when it opened, or was begun by a replica that had not seen it yet, is no probe.
        failed = _after_probe(failing, now=now) if probe else failing
    elif says_down(failure_code):
        failed = _after_down(failing, now=now)
    else:
        failed = replace(failing, failures_in_a_row=0)
    return failed if asked_sec is None else _left_alone(failed, until=now + timedelta(seconds=asked_sec))


def pauses(health: Health, *, gone: bool, now: datetime) -> PausedReason | None:
    """Why a failed attempt pauses the endpoint, if it does."""
    if gone:
        return "gone"
    long = health.failing_since is not None and now - health.failing_since >= PAUSES_AFTER
    return "failing_for_72_h" if long else None


def probe_after_sec(failed_probes: int) -> int:
    """The pause before the next probe: 10 s, 30 s, 1 min, 2 min, then 5 min for ever."""
    return PROBES_SEC[failed_probes] if failed_probes < len(PROBES_SEC) else THEN_EVERY_SEC


def _after_success(health: Health, *, began_at: datetime, now: datetime) -> Health:
    if health.opened_at is None and health.failing_since is None and health.not_before is None:
        return health  # As nearly always: it was well before.
    if health.opened_at is not None:
        return health if began_at < health.opened_at else Health(recovered_at=now)
    asked = health.not_before if health.not_before is not None and health.not_before > now else None
    return Health(not_before=asked, recovered_at=health.recovered_at)


def _after_down(health: Health, *, now: datetime) -> Health:
    failed = replace(health, failures_in_a_row=health.failures_in_a_row + 1)
    if failed.failures_in_a_row < OPENS_AFTER:
        return failed
    return replace(failed, opened_at=now, probes=0, not_before=now + timedelta(seconds=probe_after_sec(0)))


def _after_probe(health: Health, *, now: datetime) -> Health:
    probes = health.probes + 1
    return replace(health, probes=probes, not_before=now + timedelta(seconds=probe_after_sec(probes)))


def _left_alone(health: Health, *, until: datetime) -> Health:
    return replace(health, not_before=max(until, health.not_before or until))
