-- Each time that the ledger was held against itself, the calls that ended, and what the providers charge.
CREATE TABLE reconciliations (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at          timestamptz NOT NULL,
    finished_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    differences         integer NOT NULL,
    revenue_paise       bigint NOT NULL,
    calls_with_cost     bigint NOT NULL,
    provider_cost_cents numeric(16, 4) NOT NULL
);

CREATE TABLE reconciliation_differences (
    reconciliation_id bigint NOT NULL REFERENCES reconciliations (id),
    rule              text NOT NULL,
    subject           text NOT NULL,
    expected          bigint NOT NULL,
    found             bigint NOT NULL,
    reason            text NOT NULL
);

CREATE INDEX differences_of_a_reconciliation ON reconciliation_differences (reconciliation_id);
