-- What an endpoint was registered for until it was changed: an event that happened before and comes later is told by that.
ALTER TABLE endpoints
    ADD COLUMN events_before     text[],
    ADD COLUMN events_changed_at timestamptz,
    ADD CONSTRAINT what_it_was_registered_for_ended CHECK ((events_before IS NULL) = (events_changed_at IS NULL));
COMMENT ON COLUMN endpoints.events_changed_at IS 'To the millisecond, as created_at: an event of the same instant counts as later.';
