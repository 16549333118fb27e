-- ClickHouse, reading Kafka itself. `ReplacingMergeTree` keeps one row for each (source, id); ask with FINAL.

CREATE TABLE events
(
    source LowCardinality(String),
    id UUID,
    type LowCardinality(String),
    orgid UUID,
    subject String,
    time DateTime64(6, 'UTC'),
    sequence UInt64,
    data String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (orgid, type, source, id);

CREATE TABLE events_queue (line String)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'call.events,wallet.events,webhook.events',
    kafka_group_name = 'clickhouse',
    kafka_format = 'JSONAsString';

CREATE MATERIALIZED VIEW events_reader TO events AS
SELECT
    JSONExtractString(line, 'source') AS source,
    toUUID(JSONExtractString(line, 'id')) AS id,
    JSONExtractString(line, 'type') AS type,
    toUUID(JSONExtractString(line, 'orgid')) AS orgid,
    JSONExtractString(line, 'subject') AS subject,
    parseDateTime64BestEffort(JSONExtractString(line, 'time'), 6, 'UTC') AS time,
    toUInt64(JSONExtractString(line, 'sequence')) AS sequence,
    JSONExtractRaw(line, 'data') AS data
FROM events_queue;
