-- Calls as customers see them. Rows are locked in order of id, before org_credit, before call_counts.
CREATE TABLE calls (
    id                    uuid PRIMARY KEY,
    org_id                uuid NOT NULL,
    agent_id              uuid NOT NULL,
    status                text NOT NULL,
    from_e164             text,
    to_e164               text NOT NULL,
    language              text NOT NULL,
    metadata              jsonb NOT NULL,
    external_id           text,
    fingerprint           bytea,
    key_prefix            text NOT NULL,
    request_id            text NOT NULL,
    created_at            timestamptz NOT NULL,
    earliest_at           timestamptz,
    latest_at             timestamptz NOT NULL,
    rate_paise_per_sec    integer NOT NULL,
    pulse_sec             integer NOT NULL,
    max_duration_sec      integer NOT NULL,
    hold_paise            bigint NOT NULL,
    provider              text NOT NULL,
    provider_call_id      text NOT NULL,
    provider_execution_id text,
    attempt               integer NOT NULL DEFAULT 0,
    started_at            timestamptz,
    ended_at              timestamptz,
    duration_sec          integer,
    ended_by              text,
    ended_reason          text,
    answered_by           text,
    llm_extracted_intent  text,
    llm_sentiment         text,
    llm_outcome           text,
    transcript_due        boolean NOT NULL DEFAULT false,
    has_transcript        boolean NOT NULL DEFAULT false,
    recording_due         boolean NOT NULL DEFAULT false,
    recording_url         text,
    debited_paise         bigint,
    terminal_at           timestamptz,
    end_told              boolean NOT NULL DEFAULT false,
    customer_sequence     integer NOT NULL DEFAULT 0,
    CONSTRAINT agent_is_the_orgs_own FOREIGN KEY (org_id, agent_id) REFERENCES agents (org_id, id),
    CONSTRAINT call_belongs_to_its_org UNIQUE (org_id, id),
    CONSTRAINT hold_is_never_negative CHECK (hold_paise >= 0),
    CONSTRAINT status_is_known CHECK (status IN
        ('scheduled', 'queued', 'dialing', 'in_progress', 'completed', 'failed', 'no_answer', 'busy', 'canceled'))
);

ALTER TABLE calls SET (fillfactor = 80);

CREATE INDEX calls_of_an_org ON calls (org_id, created_at DESC, id DESC);
CREATE INDEX calls_of_an_org_by_status ON calls (org_id, status, created_at DESC, id DESC);
CREATE UNIQUE INDEX external_id_is_unique_per_org ON calls (org_id, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX calls_whose_end_is_untold ON calls (terminal_at) WHERE terminal_at IS NOT NULL AND NOT end_told;

-- Exact totals without counting rows: changed in the transaction that changes the statuses, in order of (org_id, status).
CREATE TABLE call_counts (
    org_id uuid NOT NULL,
    status text NOT NULL,
    calls  bigint NOT NULL,
    PRIMARY KEY (org_id, status)
);

-- The timeline. (call_id, source, sequence) names the event that it came from, so that a repeat adds nothing.
CREATE TABLE call_events (
    call_id  uuid NOT NULL,
    source   text NOT NULL,
    sequence integer NOT NULL,
    org_id   uuid NOT NULL,
    type     text NOT NULL,
    at       timestamptz NOT NULL,
    data     jsonb NOT NULL,
    CONSTRAINT an_event_stands_once_in_the_timeline PRIMARY KEY (call_id, source, sequence)
);

CREATE TABLE call_transcripts (
    call_id    uuid PRIMARY KEY,
    org_id     uuid NOT NULL,
    transcript jsonb NOT NULL
);

-- First answers, given again to the same key with the same body.
CREATE TABLE idempotency_keys (
    org_id      uuid NOT NULL,
    route       text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    status      smallint NOT NULL,
    answer      jsonb NOT NULL,
    call_id     uuid,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, route, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- What customers were told, as GET showed it at that moment. `id` is also the Kafka event's.
CREATE TABLE customer_events (
    id         uuid PRIMARY KEY,
    org_id     uuid NOT NULL,
    subject_id uuid NOT NULL,
    sequence   integer NOT NULL,
    type       text NOT NULL,
    data       jsonb NOT NULL,
    at         timestamptz NOT NULL,
    CONSTRAINT a_subjects_events_are_numbered UNIQUE (subject_id, sequence)
);

CREATE INDEX customer_events_of_an_org ON customer_events (org_id, id);
