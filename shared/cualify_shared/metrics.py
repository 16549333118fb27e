"""What every service measures of itself, for Prometheus. A service adds its own counters beside its code."""

from prometheus_client import Counter, Gauge, Histogram

OUTBOX_DEPTH = Gauge("cualify_outbox_events", "Events that are true here and not yet on Kafka.")
OUTBOX_AGE_SEC = Gauge("cualify_outbox_oldest_seconds", "Age of the oldest event that is not yet on Kafka.")
PUBLISHED = Counter("cualify_events_published_total", "Events that Kafka has acknowledged.", ["topic"])
RELAY_ACTIVE = Gauge("cualify_outbox_relay_active", "1 where this replica is the one that publishes.")

CONSUMED = Counter("cualify_events_consumed_total", "Records handled and committed.", ["topic"])
CONSUMER_LAG = Gauge(
    "cualify_consumer_lag_records", "Records on the broker that this replica has not handled yet.", ["topic"]
)
PARKED = Counter("cualify_dead_letters_total", "Records parked because they can't be handled.", ["topic"])
PARKED_NOW = Gauge("cualify_dead_letters_parked", "Records that wait for somebody to mend the cause.")
BATCH_SEC = Histogram("cualify_batch_seconds", "From the first look at a batch to its COMMIT.", ["batch"])
LOOP_UP = Gauge("cualify_loop_up", "0 when a loop of this service has died.", ["loop"])
