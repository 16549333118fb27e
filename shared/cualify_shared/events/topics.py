"""The six topics: who alone writes each, how it is keyed, how long it is kept, and who may read it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Audience(StrEnum):
    """Whether a topic may be read outside the four services."""

    PRIVATE = "private"
    """Carries phone numbers, transcripts or customer metadata."""
    ANALYTICS = "analytics"
    """Carries no personal data; a callee appears as a keyed token."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A declared topic. `partitions` is never raised: the key's partition would move and its order break."""

    name: str
    writer: str
    key: str
    audience: Audience
    partitions: int
    retention: timedelta
    summary: str


CALL_REQUESTS = Topic(
    name="call.requests",
    writer="api",
    key="call_id",
    audience=Audience.PRIVATE,
    partitions=12,
    retention=timedelta(days=7),
    summary="Calls that were accepted and are to be placed, and wishes to cancel them.",
)
CALL_ARTIFACTS = Topic(
    name="call.artifacts",
    writer="dialer",
    key="call_id",
    audience=Audience.PRIVATE,
    partitions=12,
    retention=timedelta(days=3),
    summary="What a call left behind: its transcript and its recording.",
)
CUSTOMER_EVENTS = Topic(
    name="customer.events",
    writer="api",
    key="call_id, else the subject's id",
    audience=Audience.PRIVATE,
    partitions=12,
    retention=timedelta(days=7),
    summary="What customers are told by webhook, as the REST API shows it at that moment.",
)
CALL_EVENTS = Topic(
    name="call.events",
    writer="dialer",
    key="call_id",
    audience=Audience.ANALYTICS,
    partitions=12,
    retention=timedelta(days=30),
    summary="The life of each call, from dialing to its end.",
)
WALLET_EVENTS = Topic(
    name="wallet.events",
    writer="billing",
    key="org_id",
    audience=Audience.ANALYTICS,
    partitions=6,
    retention=timedelta(days=400),
    summary="Money in and out of wallets, and the plans that price it.",
)
WEBHOOK_EVENTS = Topic(
    name="webhook.events",
    writer="webhook-dispatcher",
    key="endpoint_id",
    audience=Audience.ANALYTICS,
    partitions=6,
    retention=timedelta(days=14),
    summary="How deliveries to customers' endpoints went.",
)

TOPICS = (CALL_REQUESTS, CALL_ARTIFACTS, CUSTOMER_EVENTS, CALL_EVENTS, WALLET_EVENTS, WEBHOOK_EVENTS)
