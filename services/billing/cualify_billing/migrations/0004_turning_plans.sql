ALTER TABLE plans
    ADD COLUMN min_billable_sec integer NOT NULL DEFAULT 0,
    ADD COLUMN renews_monthly   boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT a_minimum_is_never_negative CHECK (min_billable_sec >= 0),
    ADD CONSTRAINT what_renews_has_an_end CHECK (active_until IS NOT NULL OR NOT renews_monthly);

-- What replaces an org's plan at the month's turn, until then.
CREATE TABLE scheduled_plans (
    org_id                uuid PRIMARY KEY,
    plan                  text NOT NULL,
    rate_paise_per_sec    integer NOT NULL,
    pulse_sec             integer NOT NULL,
    min_billable_sec      integer NOT NULL,
    rate_limit_per_minute integer NOT NULL,
    max_concurrent_calls  integer NOT NULL,
    renews_monthly        boolean NOT NULL,
    starts_at             timestamptz NOT NULL,
    CONSTRAINT a_scheduled_rate_is_never_negative CHECK (rate_paise_per_sec >= 0 AND min_billable_sec >= 0),
    CONSTRAINT a_scheduled_pulse_is_at_least_a_second CHECK (pulse_sec >= 1),
    CONSTRAINT scheduled_limits_allow_something CHECK (rate_limit_per_minute >= 1 AND max_concurrent_calls >= 1)
);

-- The ends of plans that were said: once for each version.
CREATE TABLE plan_expiries (
    org_id     uuid NOT NULL,
    version    integer NOT NULL,
    expired_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, version),
    CONSTRAINT what_expired_was_a_plan FOREIGN KEY (org_id, version) REFERENCES plans (org_id, version)
);

-- When something is due to happen to an org's plan: it ends, renews, or is replaced.
CREATE TABLE plan_turns (
    org_id uuid PRIMARY KEY,
    due_at timestamptz NOT NULL
);

CREATE INDEX plan_turns_by_due ON plan_turns (due_at);

INSERT INTO plan_turns (org_id, due_at)
SELECT DISTINCT ON (org_id) org_id, active_until
FROM plans
WHERE active_until IS NOT NULL
ORDER BY org_id, version DESC;

-- The statement above took the latest plan that ends; one that was replaced by another without an end is due for nothing.
DELETE FROM plan_turns
WHERE EXISTS (
    SELECT FROM plans
    WHERE plans.org_id = plan_turns.org_id AND plans.active_until IS NULL
        AND plans.version = (SELECT max(version) FROM plans AS latest WHERE latest.org_id = plan_turns.org_id)
);
