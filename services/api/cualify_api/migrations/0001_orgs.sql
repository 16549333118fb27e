-- Who may call: orgs, what they may spend, on which terms, with which agents, from which numbers, and their keys.
CREATE TABLE orgs (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT name_is_not_empty CHECK (name <> '')
);

-- What billing has granted an org, less what its calls cost, and what its unsettled calls may still cost. Locked in org order.
CREATE TABLE org_credit (
    org_id  uuid PRIMARY KEY REFERENCES orgs,
    granted bigint NOT NULL DEFAULT 0,
    held    bigint NOT NULL DEFAULT 0,
    CONSTRAINT held_is_never_negative CHECK (held >= 0),
    CONSTRAINT held_is_never_more_than_granted CHECK (granted >= held)
);

-- Which transfers of billing have raised `granted`: each once.
CREATE TABLE credits_applied (
    transfer     text PRIMARY KEY,
    org_id       uuid NOT NULL REFERENCES orgs,
    amount_paise bigint NOT NULL,
    applied_at   timestamptz NOT NULL,
    CONSTRAINT credit_is_never_negative CHECK (amount_paise >= 0)
);

-- The newest plan that billing has told of; `sequence` is the event's, so an older one never replaces a newer.
CREATE TABLE org_plans (
    org_id                uuid PRIMARY KEY REFERENCES orgs,
    sequence              bigint NOT NULL,
    plan                  text NOT NULL,
    rate_paise_per_sec    integer NOT NULL,
    pulse_sec             integer NOT NULL,
    rate_limit_per_minute integer NOT NULL,
    max_concurrent_calls  integer NOT NULL,
    active_until          timestamptz,
    expired_at            timestamptz
);

CREATE TABLE org_numbers (
    org_id     uuid NOT NULL REFERENCES orgs,
    e164       text NOT NULL,
    is_default boolean NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, e164)
);

CREATE UNIQUE INDEX an_org_has_one_default_number ON org_numbers (org_id) WHERE is_default;

CREATE TABLE agents (
    id                uuid PRIMARY KEY,
    org_id            uuid NOT NULL REFERENCES orgs,
    name              text NOT NULL,
    language          text NOT NULL,
    max_duration_sec  integer NOT NULL,
    provider          text NOT NULL,
    provider_agent_id text NOT NULL,
    created_at        timestamptz NOT NULL,
    CONSTRAINT agent_belongs_to_its_org UNIQUE (org_id, id),
    CONSTRAINT duration_is_1_to_3600_sec CHECK (max_duration_sec BETWEEN 1 AND 3600)
);

-- `prefix` is public and the key to look up by; of the secret only a keyed hash is kept.
CREATE TABLE api_keys (
    prefix       text PRIMARY KEY,
    org_id       uuid NOT NULL REFERENCES orgs,
    name         text,
    key_hash     bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT prefix_has_8_characters CHECK (length(prefix) = 8)
);

CREATE INDEX api_keys_of_an_org ON api_keys (org_id, created_at);
