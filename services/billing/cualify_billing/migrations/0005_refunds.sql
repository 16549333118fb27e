-- What lowers a wallet other than a call: decided in the api, which has set the money aside.
ALTER TABLE accounts
    DROP CONSTRAINT account_kind_is_known,
    ADD CONSTRAINT account_kind_is_known CHECK (
        kind IN ('wallet', 'revenue', 'topup_clearing', 'promotions', 'adjustments', 'refunds', 'chargebacks')
    );

INSERT INTO accounts (name, kind)
VALUES ('refunds', 'refunds'), ('chargebacks', 'chargebacks');

ALTER TABLE transfers
    DROP CONSTRAINT transfer_kind_is_known,
    ADD CONSTRAINT transfer_kind_is_known CHECK (
        kind IN ('call_debit', 'top_up', 'promotion', 'adjustment', 'credit_note', 'refund', 'chargeback', 'correction')
    ),
    ADD CONSTRAINT a_reduction_is_named_as_one
        CHECK ((kind IN ('refund', 'chargeback', 'correction')) = starts_with(name, 'refund:'));

-- Every refund that was asked for, and how it was decided: once. A refused one stays refused, so that a request that was
-- late on the wire can not succeed after the money was given back.
CREATE TABLE refunds (
    id            text PRIMARY KEY,
    org_id        uuid NOT NULL,
    kind          text NOT NULL,
    amount_paise  bigint NOT NULL,
    payment_id    text,
    reason        text,
    refused_why   text,
    balance_paise bigint NOT NULL,
    decided_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT refund_kind_is_known CHECK (kind IN ('refund', 'chargeback', 'correction')),
    CONSTRAINT a_refund_moves_something CHECK (amount_paise > 0),
    CONSTRAINT a_refund_is_of_a_payment CHECK (kind <> 'refund' OR payment_id IS NOT NULL)
);

CREATE INDEX refunds_of_a_payment ON refunds (payment_id) WHERE refused_why IS NULL;

CREATE TRIGGER refunds_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON refunds
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();
