-- What a key may do (NULL: everything, also what is added later), and whether its calls are only for trying things out.
ALTER TABLE api_keys
    ADD COLUMN scopes text[],
    ADD COLUMN test boolean NOT NULL DEFAULT false;

-- `requests_sequence` counts what was said of a call on `call.requests`: 1 when it was placed, 2 when it is to be canceled.
ALTER TABLE calls
    ADD COLUMN test boolean NOT NULL DEFAULT false,
    ADD COLUMN requests_sequence integer NOT NULL DEFAULT 1,
    ADD COLUMN cancel_requested_at timestamptz,
    ADD CONSTRAINT a_test_call_holds_nothing CHECK (NOT test OR hold_paise = 0),
    ADD CONSTRAINT a_cancellation_is_said_once CHECK ((cancel_requested_at IS NOT NULL) = (requests_sequence = 2)),
    ADD CONSTRAINT a_call_is_requested_before_it_is_canceled CHECK (requests_sequence IN (1, 2));

-- A key whose first request is still under way has no status yet, and belongs to that request until `claimed_until`.
-- An answer that carries a secret rests sealed.
ALTER TABLE idempotency_keys
    ALTER COLUMN status DROP NOT NULL,
    ALTER COLUMN answer DROP NOT NULL,
    ADD COLUMN sealed bytea,
    ADD COLUMN claimed_until timestamptz,
    ADD CONSTRAINT an_answer_has_a_status CHECK ((status IS NULL) = (answer IS NULL AND sealed IS NULL)),
    ADD CONSTRAINT a_key_is_answered_or_claimed CHECK (status IS NOT NULL OR claimed_until IS NOT NULL);

-- Requests that an org has ever been allowed. Locked in order of org, after nothing and before nothing else.
-- Unlogged: after a crash of the server every window begins anew.
CREATE UNLOGGED TABLE rate_windows (
    org_id  uuid PRIMARY KEY,
    taken   bigint NOT NULL DEFAULT 0,
    last_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- The sliding log: one row for all that an org was allowed at one instant, with its running total on both sides. So what
-- was used within a window is one subtraction, and costs the same for a hundred requests and for a million.
CREATE UNLOGGED TABLE rate_log (
    org_id uuid NOT NULL,
    at     timestamptz NOT NULL,
    before bigint NOT NULL,
    after  bigint NOT NULL,
    PRIMARY KEY (org_id, at),
    CONSTRAINT an_entry_counts_something CHECK (after > before)
);

CREATE UNIQUE INDEX rate_log_by_total ON rate_log (org_id, after);

-- Every row dies after a minute: vacuum by count, not by share of the table.
ALTER TABLE rate_log SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

-- Takes up to `wanted` requests for each org out of its last 60 s, by this database's clock. A statement of its own after
-- the lock, so that it sees what whoever held the lock before has taken. `passes_sec`: after which one more would pass.
CREATE FUNCTION take_requests(orgs uuid[], wanted bigint[], default_quota bigint)
RETURNS TABLE (
    org_id uuid, quota bigint, used bigint, granted bigint, frees_sec double precision, passes_sec double precision
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    width CONSTANT interval := interval '60 seconds';
    at timestamptz;
BEGIN
    IF (SELECT count(*) FROM rate_windows WHERE org_id = ANY(orgs)) < cardinality(orgs) THEN
        INSERT INTO rate_windows (org_id) SELECT o FROM unnest(orgs) AS o ORDER BY o ON CONFLICT DO NOTHING;
    END IF;
    PERFORM FROM rate_windows WHERE org_id = ANY(orgs) ORDER BY org_id FOR NO KEY UPDATE;
    at := clock_timestamp();
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT a.org_id, a.wanted, w.taken,
               greatest(at, w.last_at + interval '1 microsecond') AS now_at,
               coalesce(p.rate_limit_per_minute, default_quota) AS quota
        FROM unnest(orgs, wanted) AS a (org_id, wanted)
        JOIN rate_windows AS w ON w.org_id = a.org_id
        LEFT JOIN org_plans AS p ON p.org_id = a.org_id
    ), looked AS MATERIALIZED (
        SELECT a.*, coalesce(f.before, a.taken) AS base, coalesce(f.at, a.now_at) AS oldest_at
        FROM asked AS a
        LEFT JOIN LATERAL (
            SELECT l.before, l.at FROM rate_log AS l
            WHERE l.org_id = a.org_id AND l.at > a.now_at - width
            ORDER BY l.at LIMIT 1
        ) AS f ON true
    ), decided AS MATERIALIZED (
        SELECT k.*, k.taken - k.base AS used, least(k.wanted, greatest(k.quota - (k.taken - k.base), 0)) AS granted
        FROM looked AS k
    ), logged AS (
        INSERT INTO rate_log (org_id, at, before, after)
        SELECT d.org_id, d.now_at, d.taken, d.taken + d.granted FROM decided AS d WHERE d.granted > 0
    ), counted AS (
        UPDATE rate_windows AS w SET taken = w.taken + d.granted, last_at = d.now_at
        FROM decided AS d WHERE w.org_id = d.org_id AND d.granted > 0
    )
    SELECT d.org_id, d.quota, d.used, d.granted,
           extract(epoch FROM d.oldest_at + width - d.now_at)::float8,
           CASE WHEN d.granted < d.wanted THEN extract(epoch FROM coalesce(
               (SELECT l.at FROM rate_log AS l
                WHERE l.org_id = d.org_id AND l.after > d.taken + d.granted - d.quota
                ORDER BY l.after LIMIT 1),
               d.now_at) + width - d.now_at)::float8 END
    FROM decided AS d;
END
$$;
