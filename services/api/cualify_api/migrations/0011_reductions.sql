-- Frozen: a chargeback waits for money that calls still hold. No call is accepted meanwhile.
ALTER TABLE org_credit ADD COLUMN frozen boolean NOT NULL DEFAULT false;

-- What lowers a wallet other than a call: set aside here (`granted` is lowered), then asked of billing until it answers.
-- A row is locked after its org's credit. `waiting`: a chargeback that is more than what is free.
CREATE TABLE reductions (
    id           text PRIMARY KEY,
    org_id       uuid NOT NULL REFERENCES orgs,
    kind         text NOT NULL,
    amount_paise bigint NOT NULL,
    payment_id   text,
    reason       text,
    status       text NOT NULL,
    refused_why  text,
    asked        integer NOT NULL DEFAULT 0,
    ask_after    timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL,
    decided_at   timestamptz,
    CONSTRAINT kind_is_known CHECK (kind IN ('refund', 'chargeback', 'correction')),
    CONSTRAINT reduction_is_more_than_nothing CHECK (amount_paise > 0),
    CONSTRAINT status_is_known CHECK (status IN ('waiting', 'set_aside', 'posted', 'refused', 'disputed')),
    CONSTRAINT a_refund_is_of_a_payment CHECK (kind <> 'refund' OR payment_id IS NOT NULL),
    CONSTRAINT only_a_chargeback_waits CHECK (status <> 'waiting' OR kind = 'chargeback'),
    CONSTRAINT a_refusal_has_a_reason CHECK ((status = 'refused') = (refused_why IS NOT NULL)),
    CONSTRAINT a_decision_has_a_time CHECK ((status IN ('posted', 'refused', 'disputed')) = (decided_at IS NOT NULL))
);

CREATE INDEX reductions_of_an_org ON reductions (org_id, created_at DESC, id DESC);
CREATE INDEX reductions_to_be_asked ON reductions (ask_after) WHERE status = 'set_aside';
CREATE INDEX reductions_that_wait ON reductions (org_id, created_at) WHERE status = 'waiting';
