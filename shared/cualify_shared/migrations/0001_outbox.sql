-- Events that are true here and not yet on Kafka. Written in the transaction that made them true; removed when Kafka has them.
CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    uuid NOT NULL,
    topic       text NOT NULL,
    key         text NOT NULL,
    payload     bytea NOT NULL,
    occurred_at timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every row dies young: vacuum by count, not by share of the table.
ALTER TABLE outbox SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

-- Records that can't be handled, bytes unchanged, until somebody mends the cause and sends them through again.
CREATE TABLE dead_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    partition  integer NOT NULL,
    "offset"   bigint NOT NULL,
    key        bytea,
    payload    bytea,
    headers    json NOT NULL, -- not jsonb, which refuses the NUL that a broken writer may have put there
    error      text NOT NULL,
    status     text NOT NULL DEFAULT 'parked',
    parked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    CONSTRAINT a_record_is_parked_once UNIQUE (topic, partition, "offset"),
    CONSTRAINT status_is_known CHECK (status IN ('parked', 'redriven'))
);

CREATE INDEX dead_letters_parked ON dead_letters (id) WHERE status = 'parked';
