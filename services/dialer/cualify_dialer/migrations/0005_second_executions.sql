-- What carries an attempt's reference beside its own execution, and is stopped while it waits.
ALTER TABLE attempts ADD COLUMN second_id text;

COMMENT ON COLUMN attempts.second_id IS 'A second execution of this attempt that the provider told of: there must never be one.';
