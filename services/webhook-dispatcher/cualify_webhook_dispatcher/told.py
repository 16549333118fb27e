"""What is said of recorded attempts: events on `webhook.events`, counters, and a log line a batch, or one a failure."""

from collections import Counter as Counted
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import get_args

import orjson
import structlog
from prometheus_client import Counter

from cualify_shared.clock import now, rfc3339
from cualify_shared.events.catalogue import type_of
from cualify_shared.events.envelope import Encoded, Event, cloud_event, encoded
from cualify_shared.events.model import EventData
from cualify_shared.events.webhook import WebhookAttemptFailed, WebhookDelivered, WebhookEndpointPaused
from cualify_shared.ids import notification_id, quick_id
from cualify_webhook_dispatcher.breaker import PausedReason
from cualify_webhook_dispatcher.jobs import Paused, Recorded, Result
from cualify_webhook_dispatcher.queries import Record

log = structlog.get_logger(__name__)

DELIVERIES = Counter(
    "cualify_deliveries_total", "Attempts by how they ended: delivered, or the failure's code.", ["outcome"]
)
BREAKERS = Counter("cualify_breakers_total", "Breakers of endpoints that opened or closed.", ["to"])
_DELIVERED = type_of(WebhookDelivered)
PAUSED = Counter("cualify_endpoints_paused_total", "Endpoints paused by us, by the reason.", ["reason"])
for reason in get_args(PausedReason):
    PAUSED.labels(reason)  # An alert sees a rise from 0, not a series that begins at 1.


def events(results: Sequence[Result], record: Record) -> list[Encoded]:
    """In order of each endpoint's sequence."""
    at = now()
    time = rfc3339(at)
    attempts = [
        _delivered(results[one.n], one, at=at, time=time)
        if results[one.n].failure_code is None
        else encoded(_failed(results[one.n], one))
        for one in reversed(record.recorded)
    ]
    return attempts + [encoded(_paused_event(one)) for one in record.paused]


def tell(results: Sequence[Result], record: Record) -> None:
    """After the COMMIT. Successes are counted, and are one line together; a failure is a line of its own."""
    good = [results[one.n] for one in record.recorded if results[one.n].failure_code is None]
    if good:
        DELIVERIES.labels("delivered").inc(len(good))
        log.info(
            "webhooks_delivered",
            deliveries=len(good),
            endpoints=len({result.endpoint.id for result in good}),
            slowest_ms=max(result.duration_ms for result in good),
            event_ids=_some_ids(good),
        )
    for one in record.recorded:
        if results[one.n].failure_code is not None:
            _tell_failure(results[one.n], one)
    for one_paused in record.paused:
        PAUSED.labels(one_paused.reason).inc()
        log.warning(
            "endpoint_paused",
            reason=one_paused.reason,
            endpoint_id=str(one_paused.endpoint_id),
            org_id=str(one_paused.org_id),
        )
    _tell_breakers(record)


def _some_ids(good: Iterable[Result]) -> str:
    return ",".join(notification_id(result.job.event_id) for result, _ in zip(good, range(20), strict=False))


def _tell_failure(result: Result, recorded: Recorded) -> None:
    DELIVERIES.labels(result.failure_code).inc()
    job = result.job
    log.info(
        "webhook_attempt_failed",
        org_id=str(result.endpoint.org_id),
        endpoint_id=str(result.endpoint.id),
        event_id=notification_id(job.event_id),
        event_type=job.type,
        attempt=recorded.attempt,
        status_code=result.status_code,
        failure_code=result.failure_code,
        duration_ms=result.duration_ms,
        final=recorded.final,
    )


def _tell_breakers(record: Record) -> None:
    changes: Counted[str] = Counted()
    for id_, health in record.decided.healths.items():
        if health.is_open != record.before[id_].is_open:
            to = "open" if health.is_open else "closed"
            changes[to] += 1
            log.warning(f"breaker_{to}", endpoint_id=str(id_))
    for to, count in changes.items():
        BREAKERS.labels(to).inc(count)


def _delivered(result: Result, recorded: Recorded, *, at: datetime, time: str) -> Encoded:
    """What `encoded(Event(data=WebhookDelivered(…)))` would make, at a third of the price: one for every delivery."""
    job, endpoint_id, org_id, id_ = result.job, str(result.endpoint.id), str(result.endpoint.org_id), quick_id()
    attributes = cloud_event(
        _DELIVERED,
        id=str(id_),
        subject=f"endpoint/{endpoint_id}",
        time=time,
        org_id=org_id,
        key=endpoint_id,
        sequence=recorded.sequence,
    )
    attributes["data"] = {
        "endpoint_id": endpoint_id,
        "org_id": org_id,
        "event_id": str(job.event_id),
        "event_type": job.type,
        "attempt": recorded.attempt,
        "status_code": result.status_code,
        "duration_ms": result.duration_ms,
    }
    return Encoded(id_, _DELIVERED.topic.name, endpoint_id, orjson.dumps(attributes), at)


def _failed(result: Result, recorded: Recorded) -> Event:
    endpoint = result.endpoint
    data = WebhookAttemptFailed(
        endpoint_id=endpoint.id,
        org_id=endpoint.org_id,
        event_id=result.job.event_id,
        event_type=result.job.type,
        attempt=recorded.attempt,
        failure_code=result.failure_code or "",
        status_code=result.status_code,
        duration_ms=result.duration_ms,
        final=recorded.final,
    )
    return _about_endpoint(data, result, recorded.sequence)


def _about_endpoint(data: EventData, result: Result, sequence: int) -> Event:
    id_ = result.endpoint.id
    return Event(data=data, org_id=result.endpoint.org_id, key=id_, subject=f"endpoint/{id_}", sequence=sequence)


def _paused_event(paused: Paused) -> Event:
    id_ = paused.endpoint_id
    data = WebhookEndpointPaused(endpoint_id=id_, org_id=paused.org_id, reason=paused.reason)
    return Event(data=data, org_id=paused.org_id, key=id_, subject=f"endpoint/{id_}", sequence=paused.sequence)
