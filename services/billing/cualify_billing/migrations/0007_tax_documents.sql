-- Who an org is to the tax office. Documents carry a copy of what stood here when they were issued.
CREATE TABLE tax_profiles (
    org_id     uuid PRIMARY KEY,
    name       text NOT NULL,
    address    text NOT NULL,
    state_code text NOT NULL,
    gstin      text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_state_has_two_digits CHECK (state_code ~ '^[0-9]{2}$'),
    CONSTRAINT a_gstin_begins_with_its_state CHECK (gstin IS NULL OR left(gstin, 2) = state_code)
);

-- Payments and refunds whose voucher is still to be written, in the order they were posted.
CREATE TABLE documents_due (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer text NOT NULL UNIQUE REFERENCES transfers (name)
);

INSERT INTO documents_due (transfer)
SELECT name FROM transfers WHERE kind IN ('top_up', 'refund') ORDER BY created_at, name;

-- The last number of each kind of document in each financial year. Locked by whoever issues, so no number is left out.
CREATE TABLE document_series (
    kind           text NOT NULL,
    financial_year text NOT NULL,
    last           integer NOT NULL,
    PRIMARY KEY (kind, financial_year)
);

CREATE TABLE documents (
    number            text PRIMARY KEY,
    kind              text NOT NULL,
    financial_year    text NOT NULL,
    serial            integer NOT NULL,
    subject           text NOT NULL,
    org_id            uuid NOT NULL,
    issued_on         date NOT NULL,
    issued_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    taxable_paise     bigint NOT NULL,
    cgst_paise        bigint NOT NULL,
    sgst_paise        bigint NOT NULL,
    igst_paise        bigint NOT NULL,
    total_paise       bigint NOT NULL,
    covers_to_entry   bigint NOT NULL,
    body              jsonb NOT NULL,
    CONSTRAINT a_number_is_given_once UNIQUE (kind, financial_year, serial),
    CONSTRAINT a_fact_is_documented_once UNIQUE (subject),
    CONSTRAINT document_kind_is_known
        CHECK (kind IN ('receipt_voucher', 'tax_invoice', 'refund_voucher', 'credit_note')),
    CONSTRAINT a_number_fits_the_law CHECK (length(number) <= 16),
    CONSTRAINT a_total_is_value_and_tax CHECK (total_paise = taxable_paise + cgst_paise + sgst_paise + igst_paise),
    CONSTRAINT central_and_state_tax_are_equal CHECK (cgst_paise = sgst_paise),
    CONSTRAINT a_supply_is_within_a_state_or_between_two CHECK (cgst_paise = 0 OR igst_paise = 0),
    CONSTRAINT a_document_is_never_negative CHECK (least(taxable_paise, cgst_paise, igst_paise) >= 0)
);

COMMENT ON COLUMN documents.covers_to_entry IS 'The wallet''s entry that this is about, or for an invoice the last one of its period.';

CREATE INDEX documents_of_an_org ON documents (org_id, issued_at);

-- How receipt vouchers and credit notes were used up, by invoices and refund vouchers.
CREATE TABLE document_uses (
    source       text NOT NULL REFERENCES documents (number),
    used_by      text NOT NULL REFERENCES documents (number),
    amount_paise bigint NOT NULL,
    PRIMARY KEY (source, used_by),
    CONSTRAINT a_use_is_of_something CHECK (amount_paise > 0)
);

-- How far each org has been invoiced.
CREATE TABLE invoiced (
    org_id   uuid PRIMARY KEY,
    to_entry bigint NOT NULL,
    until    timestamptz NOT NULL
);

CREATE TRIGGER documents_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON documents
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();

CREATE TRIGGER document_uses_are_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON document_uses
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();
