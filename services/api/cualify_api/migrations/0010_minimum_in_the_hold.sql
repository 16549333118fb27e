-- A call that is talked on is charged for at least so long: the hold has to cover it.
ALTER TABLE org_plans
    ADD COLUMN min_billable_sec integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT minimum_is_0_to_3600_sec CHECK (min_billable_sec BETWEEN 0 AND 3600);
