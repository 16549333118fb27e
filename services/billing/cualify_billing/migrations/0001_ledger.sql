-- Who can hold money. A wallet belongs to an org; the others are ours and may go below zero: they mirror the world outside.
CREATE TABLE accounts (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    kind          text NOT NULL,
    org_id        uuid,
    balance_paise bigint NOT NULL DEFAULT 0,
    sequence      bigint NOT NULL DEFAULT 0,
    opened_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT an_account_has_its_own_name UNIQUE (name),
    CONSTRAINT an_org_has_one_wallet UNIQUE (org_id),
    CONSTRAINT account_kind_is_known
        CHECK (kind IN ('wallet', 'revenue', 'topup_clearing', 'promotions', 'adjustments')),
    CONSTRAINT a_wallet_belongs_to_an_org CHECK ((kind = 'wallet') = (org_id IS NOT NULL)),
    CONSTRAINT a_wallet_is_named_for_its_org CHECK (kind <> 'wallet' OR name = 'wallet:' || org_id::text),
    CONSTRAINT wallets_are_never_negative CHECK (kind <> 'wallet' OR balance_paise >= 0),
    CONSTRAINT sequences_are_never_negative CHECK (sequence >= 0)
) WITH (fillfactor = 70);

COMMENT ON COLUMN accounts.sequence IS 'Of a wallet: how many events of its org stand on wallet.events.';

-- Why revenue has sixteen tills: see README, "Sixteen tills".
INSERT INTO accounts (name, kind)
VALUES ('topup_clearing', 'topup_clearing'), ('promotions', 'promotions'), ('adjustments', 'adjustments');

INSERT INTO accounts (name, kind)
SELECT 'revenue:' || till, 'revenue'
FROM generate_series(1, 16) AS till
ORDER BY till;

CREATE INDEX accounts_revenue ON accounts (id) WHERE kind = 'revenue';

-- One row for each business fact that moved money. Its name is the fact, so it can move it only once.
CREATE TABLE transfers (
    name               text PRIMARY KEY,
    kind               text NOT NULL,
    org_id             uuid NOT NULL,
    amount_paise       bigint NOT NULL,
    at                 timestamptz NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Facts of a call's debit, from which the amount can be worked out again:
    call_id            uuid,
    call_status        text,
    event_id           uuid,
    duration_sec       integer,
    billable_sec       integer,
    rate_paise_per_sec integer,
    pulse_sec          integer,
    max_duration_sec   integer,
    hold_paise         bigint,
    CONSTRAINT transfer_kind_is_known CHECK (kind IN ('call_debit', 'top_up', 'promotion', 'adjustment')),
    CONSTRAINT an_amount_is_never_negative CHECK (amount_paise >= 0),
    CONSTRAINT a_credit_moves_something CHECK (kind = 'call_debit' OR amount_paise > 0),
    CONSTRAINT a_debit_is_named_for_its_call CHECK (kind <> 'call_debit' OR name = 'debit:' || call_id::text),
    CONSTRAINT a_debit_carries_its_facts CHECK (
        num_nulls(
            call_id, call_status, event_id, duration_sec, billable_sec, rate_paise_per_sec, pulse_sec, max_duration_sec,
            hold_paise
        ) = CASE WHEN kind = 'call_debit' THEN 0 ELSE 9 END
    ),
    CONSTRAINT a_debit_stays_within_its_hold CHECK (amount_paise <= hold_paise)
);

CREATE TABLE entries (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer            text NOT NULL REFERENCES transfers (name),
    account_id          bigint NOT NULL,
    amount_paise        bigint NOT NULL,
    balance_after_paise bigint NOT NULL,
    CONSTRAINT a_transfer_touches_an_account_once UNIQUE (transfer, account_id)
);

COMMENT ON COLUMN entries.amount_paise IS 'What the account gained; below zero, what it lost.';

-- An account's history, in order: entries are written under its row lock.
CREATE INDEX entries_of_an_account ON entries (account_id, id);

-- Once for each statement, not for each row: a batch of 500 calls is checked by one pass over what it wrote. It stands in
-- for a foreign key to accounts too, which would lock the few hot accounts once more for each entry (a third of a batch's
-- time), against a deletion that accounts_are_never_closed refuses anyway.
CREATE FUNCTION refuse_unless_entries_sum_to_zero() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT written.transfer INTO wrong
    FROM written
    LEFT JOIN accounts ON accounts.id = written.account_id
    GROUP BY written.transfer
    HAVING sum(written.amount_paise) <> 0 OR count(*) <> 2 OR count(accounts.id) <> 2
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of % are not two, of known accounts, that sum to zero', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_sum_to_zero', TABLE = 'entries';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER entries_sum_to_zero
    AFTER INSERT ON entries
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_unless_entries_sum_to_zero();

CREATE FUNCTION refuse_to_rewrite_history() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct a mistake with a new transfer', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
END
$$;

CREATE TRIGGER transfers_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();

CREATE TRIGGER entries_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();

CREATE TRIGGER accounts_are_never_closed
    BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();

-- An end of a call that says otherwise than the one that was settled. The ledger stays; somebody looks, and adjusts.
CREATE TABLE settlement_conflicts (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id      uuid NOT NULL,
    transfer      text NOT NULL REFERENCES transfers (name),
    org_id        uuid NOT NULL,
    call_status   text NOT NULL,
    duration_sec  integer NOT NULL,
    amount_paise  bigint NOT NULL,
    settled_paise bigint NOT NULL,
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_conflict_is_recorded_once UNIQUE (event_id)
);
