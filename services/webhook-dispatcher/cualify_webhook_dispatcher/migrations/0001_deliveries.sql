-- Where customers want to be told. Deleted: deleted_at is set, the secret is gone, and nothing more is sent; the row goes
-- when the sweep has removed what hung on it.
CREATE TABLE endpoints (
    id               uuid PRIMARY KEY,
    org_id           uuid NOT NULL,
    url              text NOT NULL,
    events           text[] NOT NULL,
    secret_sealed    bytea,
    secret_key_id    text NOT NULL,
    active           boolean NOT NULL DEFAULT true,
    paused_reason    text,
    -- To the millisecond, as events' times are: an event of the same instant counts as later.
    created_at       timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    deleted_at       timestamptz,
    last_delivery_at timestamptz,
    last_status      integer,
    event_sequence   bigint NOT NULL DEFAULT 0,
    CONSTRAINT url_is_at_most_2048_characters CHECK (length(url) <= 2048),
    CONSTRAINT events_are_never_empty CHECK (cardinality(events) > 0),
    CONSTRAINT a_deleted_endpoint_has_no_secret CHECK ((deleted_at IS NULL) = (secret_sealed IS NOT NULL)),
    CONSTRAINT a_paused_endpoint_says_why CHECK (active = (paused_reason IS NULL))
);

CREATE INDEX endpoints_of_org ON endpoints (org_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_to_sweep ON endpoints (deleted_at) WHERE deleted_at IS NOT NULL;

-- What is to be told, as the bytes that are sent; once, however many endpoints it goes to.
CREATE TABLE notifications (
    event_id    uuid PRIMARY KEY,
    org_id      uuid NOT NULL,
    subject_id  uuid NOT NULL,
    type        text NOT NULL,
    sequence    bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    body        bytea NOT NULL
);

-- One row for each event and endpoint. No foreign keys: a delivery is only ever inserted while its endpoint's row is
-- locked, together with its notification, and a key would cost a row lock for each.
CREATE TABLE deliveries (
    event_id     uuid NOT NULL,
    endpoint_id  uuid NOT NULL,
    subject_id   uuid NOT NULL,
    sequence     bigint NOT NULL,
    state        text NOT NULL DEFAULT 'pending',
    behind       boolean NOT NULL,
    out_of_order boolean NOT NULL DEFAULT false,
    attempts     integer NOT NULL DEFAULT 0,
    burned       integer NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL,
    lease_token  uuid,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    CONSTRAINT an_event_goes_to_an_endpoint_once PRIMARY KEY (event_id, endpoint_id),
    CONSTRAINT state_is_known CHECK (state IN ('pending', 'delivered', 'failed')),
    CONSTRAINT what_is_pending_is_not_finished CHECK ((state = 'pending') = (finished_at IS NULL)),
    CONSTRAINT burned_attempts_were_made CHECK (burned BETWEEN 0 AND attempts)
);

COMMENT ON COLUMN deliveries.behind IS 'Waits for an earlier event of the same subject and endpoint, until due_at at most.';
COMMENT ON COLUMN deliveries.burned IS 'Attempts that count towards the ten; one that was answered with Retry-After does not.';
COMMENT ON COLUMN deliveries.due_at IS 'From when on anybody may claim it. A lease is a due_at in the future and a token.';

CREATE INDEX deliveries_due ON deliveries (endpoint_id, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_in_order ON deliveries (endpoint_id, subject_id, sequence) WHERE state = 'pending';

-- Rows change two or three times and then rest: room on the page, and vacuum by count.
ALTER TABLE deliveries SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000
);

CREATE TABLE attempts (
    event_id     uuid NOT NULL,
    endpoint_id  uuid NOT NULL,
    n            integer NOT NULL,
    at           timestamptz NOT NULL,
    duration_ms  integer NOT NULL,
    status_code  integer,
    failure_code text,
    CONSTRAINT an_attempt_is_recorded_once PRIMARY KEY (event_id, endpoint_id, n, at),
    CONSTRAINT an_attempt_was_answered_or_says_why_not CHECK (status_code IS NOT NULL OR failure_code IS NOT NULL)
) PARTITION BY RANGE (at);

-- Days get partitions of their own ahead of time; whatever has none lands here.
CREATE TABLE attempts_other PARTITION OF attempts DEFAULT;
