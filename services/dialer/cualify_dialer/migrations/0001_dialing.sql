-- One row for each call that was asked for. Its counters are the sequences of the call's events.
CREATE TABLE dial_jobs (
    call_id             uuid PRIMARY KEY,
    org_id              uuid NOT NULL,
    state               text NOT NULL,
    request             jsonb,
    to_e164             text,
    next_at             timestamptz,
    latest_at           timestamptz,
    cancel_requested_at timestamptz,
    event_sequence      integer NOT NULL DEFAULT 0,
    artifact_sequence   integer NOT NULL DEFAULT 0,
    status              text,
    ended_reason        text,
    ended_at            timestamptz,
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT state_is_known CHECK (state IN ('tombstone', 'queued', 'open', 'ended')),
    CONSTRAINT only_a_tombstone_has_no_request
        CHECK (state = 'tombstone' OR (request IS NOT NULL AND to_e164 IS NOT NULL AND next_at IS NOT NULL AND latest_at IS NOT NULL)),
    CONSTRAINT a_tombstone_was_canceled CHECK (state <> 'tombstone' OR cancel_requested_at IS NOT NULL),
    CONSTRAINT an_end_has_a_status CHECK ((state = 'ended') = (status IS NOT NULL AND ended_reason IS NOT NULL AND ended_at IS NOT NULL))
) WITH (fillfactor = 80);

COMMENT ON COLUMN dial_jobs.state IS 'tombstone: canceled before it was requested; queued: waits for its turn; open: an attempt is out; ended.';

CREATE INDEX dial_jobs_turns ON dial_jobs (org_id, next_at, call_id) WHERE state = 'queued';
CREATE INDEX dial_jobs_latest ON dial_jobs (latest_at) WHERE state = 'queued';

-- One row for each time that a provider was asked to ring somebody, committed before it is asked.
CREATE TABLE attempts (
    ref               text PRIMARY KEY,
    call_id           uuid NOT NULL REFERENCES dial_jobs (call_id),
    number            integer NOT NULL,
    org_id            uuid NOT NULL,
    provider          text NOT NULL,
    to_e164           text NOT NULL,
    state             text NOT NULL,
    asked_at          timestamptz NOT NULL,
    look_up_at        timestamptz NOT NULL,
    empty_looks       integer NOT NULL DEFAULT 0,
    execution_id      text,
    provider_status   text,
    started_at        timestamptz,
    disconnected_at   timestamptz,
    told              jsonb NOT NULL DEFAULT '{}',
    result            text,
    ended_at          timestamptz,
    CONSTRAINT a_call_numbers_its_attempts UNIQUE (call_id, number),
    CONSTRAINT state_is_known CHECK (state IN ('asking', 'unknown', 'accepted', 'in_progress', 'disconnected', 'ended')),
    CONSTRAINT an_end_has_a_result CHECK ((state = 'ended') = (result IS NOT NULL AND ended_at IS NOT NULL))
) WITH (fillfactor = 80);

COMMENT ON COLUMN attempts.look_up_at IS 'When the provider is asked what became of it. While asking: when we no longer wait for the answer.';
COMMENT ON COLUMN attempts.told IS 'The timeline facts that were emitted, by the ids of the tool calls that told them.';

CREATE UNIQUE INDEX a_callee_has_one_open_attempt ON attempts (to_e164) WHERE state <> 'ended';
CREATE INDEX attempts_due ON attempts (look_up_at) WHERE state <> 'ended';
CREATE INDEX attempts_open_by_org ON attempts (org_id) WHERE state <> 'ended';
CREATE INDEX attempts_by_execution ON attempts (execution_id) WHERE execution_id IS NOT NULL;

-- What providers told us, as they said it.
CREATE TABLE provider_events (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider     text NOT NULL,
    body_sha256  bytea NOT NULL,
    body         bytea NOT NULL,
    execution_id text,
    status       text,
    call_id      uuid,
    received_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_provider_says_a_thing_once UNIQUE (provider, body_sha256)
);

CREATE INDEX provider_events_of_call ON provider_events (call_id, id) WHERE call_id IS NOT NULL;
