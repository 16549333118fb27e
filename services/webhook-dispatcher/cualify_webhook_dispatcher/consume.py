"""Kafka in: what customers are to be told becomes one delivery for each endpoint that asked for it, born claimed."""

import time
from collections.abc import Sequence

from cualify_shared.clock import now
from cualify_shared.database import Connection
from cualify_shared.events.catalogue import types_on
from cualify_shared.events.customer import public_name
from cualify_shared.events.envelope import Event
from cualify_shared.events.topics import CUSTOMER_EVENTS
from cualify_shared.reads import AfterCommit, Read
from cualify_webhook_dispatcher import payloads, queries
from cualify_webhook_dispatcher.deliver import LEASE, Deliver
from cualify_webhook_dispatcher.jobs import Job, Notification


class Consume:
    """Writes deliveries and hands those that were born claimed to `deliver` after the COMMIT."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def read(self) -> Read:
        """All of `customer.events`."""
        return Read(CUSTOMER_EVENTS, tuple(kind.model for kind in types_on(CUSTOMER_EVENTS)), self.on_customer_events)

    async def on_customer_events(self, connection: Connection, events: Sequence[Event]) -> AfterCommit | None:
        """Repeating it inserts nothing: an event goes to an endpoint once."""
        claimed_at, at, token = time.monotonic(), now(), self._deliver.new_token()
        endpoints = await queries.lock_endpoints_of_orgs(connection, {event.org_id for event in events})
        with_endpoints = {endpoint.org_id for endpoint in endpoints.values()}
        told = {event.id: _notification(event) for event in events if event.org_id in with_endpoints}
        if not told:
            return None
        self._deliver.expect(endpoints.values())
        rows = await queries.insert_deliveries(
            connection,
            list(told.values()),
            free=self._deliver.free(endpoints),
            room=self._deliver.room,
            lease=LEASE,
            lease_token=token,
        )
        jobs = [
            Job(
                event_id=row["event_id"],
                type=told[row["event_id"]].type,
                body=told[row["event_id"]].body,
                endpoint_id=row["endpoint_id"],
                lease_token=token,
                burned=0,
                created_at=at,
                out_of_order=False,
            )
            for row in rows
            if row["claimed"]
        ]
        left = {row["endpoint_id"] for row in rows if not row["claimed"] and not row["behind"]}

        def hand_over() -> None:
            self._deliver.take(jobs, claimed_at=claimed_at)
            self._deliver.more_is_due(left)

        return hand_over


def _notification(event: Event) -> Notification:
    return Notification(
        event_id=event.id,
        org_id=event.org_id,
        subject_id=event.key,
        type=public_name(event.type.name),
        sequence=event.sequence,
        occurred_at=event.time,
        body=payloads.body(event),
    )
