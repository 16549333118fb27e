-- Every plan an org ever had; the one with the highest version counts.
CREATE TABLE plans (
    org_id                uuid NOT NULL,
    version               integer NOT NULL,
    plan                  text NOT NULL,
    rate_paise_per_sec    integer NOT NULL,
    pulse_sec             integer NOT NULL,
    rate_limit_per_minute integer NOT NULL,
    max_concurrent_calls  integer NOT NULL,
    active_from           timestamptz NOT NULL,
    active_until          timestamptz,
    PRIMARY KEY (org_id, version),
    CONSTRAINT versions_count_from_one CHECK (version >= 1),
    CONSTRAINT a_rate_is_never_negative CHECK (rate_paise_per_sec >= 0),
    CONSTRAINT a_pulse_is_at_least_a_second CHECK (pulse_sec >= 1),
    CONSTRAINT limits_allow_something CHECK (rate_limit_per_minute >= 1 AND max_concurrent_calls >= 1),
    CONSTRAINT a_plan_ends_after_it_began CHECK (active_until > active_from)
);
