-- What a reconciliation could not check, and why: no address of the api, or no answer from it.
ALTER TABLE reconciliations ADD COLUMN unchecked text[] NOT NULL DEFAULT '{}';
