-- What a bill needs to explain itself, beside what a debit carries already. NULL where the fact was not known then.
ALTER TABLE transfers
    ADD COLUMN min_billable_sec    integer,
    ADD COLUMN provider_cost_cents numeric(14, 4),
    ADD CONSTRAINT only_a_call_has_a_minimum_and_a_provider
        CHECK (kind = 'call_debit' OR num_nonnulls(min_billable_sec, provider_cost_cents) = 0);

COMMENT ON COLUMN transfers.provider_cost_cents IS 'US cents, as the provider states them: a foreign figure, not our money.';

-- A call that outlasted, or outpriced, what it was accepted for. We bear the rest; somebody looks why.
CREATE TABLE discrepancies (
    call_id       uuid NOT NULL,
    org_id        uuid NOT NULL,
    kind          text NOT NULL,
    allowed       bigint NOT NULL,
    found         bigint NOT NULL,
    unbilled_paise bigint NOT NULL,
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (call_id, kind),
    CONSTRAINT discrepancy_kind_is_known CHECK (kind IN ('duration_beyond_max', 'price_beyond_hold')),
    CONSTRAINT a_discrepancy_is_beyond_what_was_allowed CHECK (found > allowed AND unbilled_paise >= 0)
);

-- Below this balance an org is warned, once for each time that it falls below.
ALTER TABLE accounts
    ADD COLUMN low_balance_paise bigint,
    ADD COLUMN low_balance_armed boolean NOT NULL DEFAULT true,
    ADD CONSTRAINT a_threshold_is_above_zero CHECK (low_balance_paise > 0);

CREATE TABLE low_balance_notices (
    transfer        text PRIMARY KEY REFERENCES transfers (name),
    org_id          uuid NOT NULL,
    balance_paise   bigint NOT NULL,
    threshold_paise bigint NOT NULL,
    CONSTRAINT a_notice_is_of_a_balance_below_the_threshold CHECK (balance_paise < threshold_paise)
);

CREATE INDEX low_balance_notices_of_an_org ON low_balance_notices (org_id);
