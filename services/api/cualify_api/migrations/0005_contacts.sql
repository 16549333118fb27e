-- The contact book. One row a phone number of an org; `consent_capture` is the newest of contact_consents.
CREATE TABLE contacts (
    id              uuid PRIMARY KEY,
    org_id          uuid NOT NULL REFERENCES orgs,
    phone_e164      text NOT NULL,
    name            text,
    email           text,
    language_pref   text,
    metadata        jsonb NOT NULL,
    consent_capture text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CONSTRAINT a_phone_number_is_one_contact_of_an_org UNIQUE (org_id, phone_e164),
    CONSTRAINT consent_is_of_a_known_kind CHECK (consent_capture IN ('pre_call', 'website_form', 'manual', 'imported')),
    CONSTRAINT contact_is_updated_after_it_is_created CHECK (updated_at >= created_at)
);

CREATE INDEX contacts_of_an_org ON contacts (org_id, created_at DESC, id DESC);
CREATE INDEX contacts_of_an_org_by_consent ON contacts (org_id, consent_capture, created_at DESC, id DESC);
CREATE INDEX contacts_of_an_org_by_change ON contacts (org_id, updated_at);

-- How consent was captured, and when that changed. Only ever added to. It outlives the contact: without the contact's row
-- it names nobody, and still shows that consent had been given.
CREATE TABLE contact_consents (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id          uuid NOT NULL REFERENCES orgs,
    contact_id      uuid NOT NULL,
    consent_capture text NOT NULL,
    at              timestamptz NOT NULL,
    key_prefix      text NOT NULL,
    request_id      text NOT NULL,
    CONSTRAINT consent_is_of_a_known_kind CHECK (consent_capture IN ('pre_call', 'website_form', 'manual', 'imported'))
);

CREATE INDEX consents_of_a_contact ON contact_consents (org_id, contact_id, id);

-- Exact totals without counting rows; '' stands for no consent. Changed after the contact's row is locked.
CREATE TABLE contact_counts (
    org_id          uuid NOT NULL,
    consent_capture text NOT NULL,
    contacts        bigint NOT NULL,
    PRIMARY KEY (org_id, consent_capture)
);
