-- An endpoint's health, on which every replica agrees: it is changed only under the endpoint's row lock.
ALTER TABLE endpoints
    ADD COLUMN failures_in_a_row     integer NOT NULL DEFAULT 0,
    ADD COLUMN failing_since         timestamptz,
    ADD COLUMN opened_at             timestamptz,
    ADD COLUMN probes                integer NOT NULL DEFAULT 0,
    ADD COLUMN not_before            timestamptz,
    ADD COLUMN recovered_at          timestamptz,
    -- The ready-list: when somebody has to look for due deliveries of this endpoint; null when nothing is pending.
    ADD COLUMN next_due_at           timestamptz,
    -- After a rotation the secret before it signs too, for a day.
    ADD COLUMN old_secret_sealed     bytea,
    ADD COLUMN old_secret_key_id     text,
    ADD COLUMN old_secret_until      timestamptz,
    ADD CONSTRAINT an_open_breaker_says_when_it_probes CHECK (opened_at IS NULL OR not_before IS NOT NULL),
    ADD CONSTRAINT an_old_secret_is_whole CHECK (
        (old_secret_sealed IS NULL) = (old_secret_key_id IS NULL) AND (old_secret_sealed IS NULL) = (old_secret_until IS NULL)
    ),
    ADD CONSTRAINT a_deleted_endpoint_has_no_old_secret CHECK (deleted_at IS NULL OR old_secret_sealed IS NULL);

COMMENT ON COLUMN endpoints.opened_at IS 'Since when the breaker is open: nothing is sent but a probe at not_before.';
COMMENT ON COLUMN endpoints.not_before IS 'Nothing is sent before: the next probe, or what Retry-After asked for.';

CREATE INDEX endpoints_ready ON endpoints (next_due_at) WHERE next_due_at IS NOT NULL AND active AND deleted_at IS NULL;
UPDATE endpoints e
SET next_due_at = now()
WHERE EXISTS (SELECT FROM deliveries d WHERE d.endpoint_id = e.id AND d.state = 'pending');

-- A replica that may send has shown itself here lately. A DELETE answers when each of them has seen it.
CREATE TABLE replicas (
    id           uuid PRIMARY KEY,
    confirmed_at timestamptz NOT NULL
);
COMMENT ON COLUMN replicas.confirmed_at IS 'It has acted on every change of endpoints that was committed before.';

-- Sending again what has ended, in a lane of low priority, as far as the filters say.
CREATE TABLE replays (
    id          uuid PRIMARY KEY,
    org_id      uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    events      text[],
    status      text,
    call_id     uuid,
    state       text NOT NULL DEFAULT 'running',
    after       uuid,
    scheduled   integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    CONSTRAINT replay_state_is_known CHECK (state IN ('running', 'paused', 'canceled', 'done')),
    CONSTRAINT replay_status_is_known CHECK (status IN ('delivered', 'failed')),
    CONSTRAINT a_replay_ends_once CHECK ((state IN ('canceled', 'done')) = (ended_at IS NOT NULL))
);
COMMENT ON COLUMN replays.after IS 'The last event that was looked at; the job goes on behind it.';
CREATE INDEX replays_under_way ON replays (id) WHERE state = 'running';
CREATE INDEX replays_of_endpoint ON replays (endpoint_id, id DESC);

ALTER TABLE deliveries
    ADD COLUMN replay_id    uuid,
    ADD COLUMN asked_until  timestamptz,
    DROP CONSTRAINT an_event_goes_to_an_endpoint_once,
    ADD CONSTRAINT an_event_goes_to_an_endpoint_once PRIMARY KEY (endpoint_id, event_id);
COMMENT ON COLUMN deliveries.asked_until IS 'The endpoint asked by Retry-After to be left alone with it until then.';
COMMENT ON COLUMN deliveries.replay_id IS 'It is sent again for this replay, after everything that is new.';

-- What is pending has no end: `state = 'pending'` and `finished_at IS NULL` say the same. A statement says the one whose
-- index it means. Before the first ANALYZE the planner can't tell two indexes that begin with the endpoint apart, and
-- the wrong one reads all that an endpoint has waiting, for every row of a batch.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (endpoint_id, (replay_id IS NOT NULL), due_at) WHERE finished_at IS NULL;
CREATE INDEX deliveries_of_replay ON deliveries (replay_id, state) WHERE replay_id IS NOT NULL;

-- What was sent is kept for a while after its end, then forgotten; that it was sent is kept longer.
ALTER TABLE notifications ALTER COLUMN body DROP NOT NULL;
CREATE INDEX notifications_of_org ON notifications (org_id, subject_id);
CREATE INDEX notifications_with_body ON notifications (occurred_at) WHERE body IS NOT NULL;

ALTER TABLE attempts ADD COLUMN response bytea;

-- Attempts of one day in a partition of their own: made ahead, dropped whole.
CREATE FUNCTION make_attempts_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    name text := 'attempts_' || to_char(day, 'YYYYMMDD');
    from_at timestamptz := day::timestamp AT TIME ZONE 'UTC';
    to_at timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(name) IS NOT NULL OR EXISTS (SELECT FROM attempts_other WHERE at >= from_at AND at < to_at) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)', name, from_at, to_at);
    RETURN true;
END
$$;

CREATE FUNCTION drop_attempts_partitions(before date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped integer := 0;
BEGIN
    FOR name IN
        SELECT c.relname
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'attempts'::regclass AND c.relname ~ '^attempts_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < before
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

SELECT make_attempts_partition((now() AT TIME ZONE 'UTC')::date + n) FROM generate_series(0, 3) AS n;
