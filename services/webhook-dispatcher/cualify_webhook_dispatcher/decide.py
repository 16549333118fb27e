"""What a batch of attempts means: for each delivery when it is tried again, for each endpoint how it is. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cualify_webhook_dispatcher import breaker, schedule
from cualify_webhook_dispatcher.breaker import Health, PausedReason
from cualify_webhook_dispatcher.jobs import Result, Verdict
from cualify_webhook_dispatcher.schedule import Again

_OF_THE_WHOLE_ENDPOINT = (429, 503)
"""Statuses whose `Retry-After` speaks of the server, not of this one request."""


@dataclass(frozen=True, slots=True)
class Decided:
    """`verdicts` in order of the results; `healths` and `paused` by endpoint."""

    verdicts: list[Verdict]
    healths: dict[UUID, Health]
    paused: dict[UUID, PausedReason]


def decide(results: Sequence[Result], healths: Mapping[UUID, Health], *, now: datetime) -> Decided:
    """Folds the results in their order. Those of endpoints that are not in `healths` (deleted) count for nothing."""
    verdicts: list[Verdict] = []
    folded = dict(healths)
    paused: dict[UUID, PausedReason] = {}
    for result in results:
        id_ = result.endpoint.id
        before = folded.get(id_, Health())
        asked_sec = _of_endpoint(result)
        folded[id_] = breaker.after(
            before,
            failure_code=result.failure_code,
            asked_sec=asked_sec,
            probe=result.job.probe,
            began_at=result.at,
            now=now,
        )
        verdict = _verdict(result, was_open=before.is_open)
        if result.failure_code is not None:
            reason = breaker.pauses(folded[id_], gone=result.gone, now=now)
            if reason is not None:
                paused.setdefault(id_, reason)
                verdict = _kept(verdict)
        verdicts.append(verdict)
    known = {id_: health for id_, health in folded.items() if id_ in healths}
    return Decided(verdicts, known, paused)


def _verdict(result: Result, *, was_open: bool) -> Verdict:
    if result.failure_code is None:
        return Verdict("delivered", 0.0, burned=True, asked=False)
    following = schedule.after_failure(
        burned=result.job.burned, age=result.at - result.job.created_at, retry_after_sec=result.asked_sec
    )
    if was_open and (not isinstance(following, Again) or following.burned):
        # A probe, or what was under way when the breaker opened: it waits with the others, and costs no attempt.
        return Verdict("pending", 0.0, burned=False, asked=False)
    if isinstance(following, Again):
        return Verdict("pending", following.in_sec, burned=following.burned, asked=result.asked_sec is not None)
    return Verdict("failed", 0.0, burned=True, asked=False)


def _kept(verdict: Verdict) -> Verdict:
    """A paused endpoint's events are kept, the one whose last attempt paused it too."""
    return Verdict("pending", 0.0, burned=False, asked=False) if verdict.state == "failed" else verdict


def _of_endpoint(result: Result) -> float | None:
    if result.asked_sec is None or result.status_code not in _OF_THE_WHOLE_ENDPOINT:
        return None
    return min(result.asked_sec, schedule.LONGEST_RETRY_AFTER_SEC)
