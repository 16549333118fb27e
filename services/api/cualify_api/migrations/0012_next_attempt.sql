-- When a call that rang in vain is to ring again; only while it waits for that.
ALTER TABLE calls
    ADD COLUMN next_attempt_at timestamptz,
    ADD CONSTRAINT only_a_call_that_waits_has_a_next_attempt CHECK (next_attempt_at IS NULL OR status = 'scheduled') NOT VALID;
ALTER TABLE calls VALIDATE CONSTRAINT only_a_call_that_waits_has_a_next_attempt;
