-- What the filters of GET /calls need, so that a page and its total cost the same at ten million calls as at ten thousand.
CREATE INDEX calls_of_an_agent_by_status ON calls (org_id, agent_id, status, created_at DESC, id DESC);
CREATE INDEX calls_to_a_number ON calls (org_id, to_e164, created_at DESC, id DESC);

-- How many calls ended how, by agent and by the day and the hour (UTC) in which they were placed. A status that ended a call
-- never changes, so the numbers only rise: in the transaction that folds the end in, in order of the key, after call_counts.
CREATE TABLE ended_call_counts (
    org_id    uuid NOT NULL,
    grain     text NOT NULL,
    starts_at timestamptz NOT NULL,
    agent_id  uuid NOT NULL,
    status    text NOT NULL,
    calls     bigint NOT NULL,
    PRIMARY KEY (org_id, grain, starts_at, agent_id, status),
    CONSTRAINT grain_is_known CHECK (grain IN ('day', 'hour'))
);

INSERT INTO ended_call_counts (org_id, grain, starts_at, agent_id, status, calls)
SELECT org_id, grain, date_trunc(grain, created_at, 'UTC'), agent_id, status, count(*)
FROM calls
CROSS JOIN (VALUES ('day'), ('hour')) AS g (grain)
WHERE terminal_at IS NOT NULL
GROUP BY 1, 2, 3, 4, 5;

-- A call's metadata, one row a key whose value is a string, a number or a boolean. The row is written once, with the call,
-- and never again: an index on `calls` would be written anew at every change of status. The label is a hash of key and
-- value as text, so the row is small; who finds a call by it compares the metadata itself.
CREATE TABLE call_labels (
    org_id     uuid NOT NULL,
    label      uuid NOT NULL,
    created_at timestamptz NOT NULL,
    call_id    uuid NOT NULL,
    PRIMARY KEY (org_id, label, created_at, call_id)
);

CREATE FUNCTION call_label(key text, value text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN md5(length(key)::text || ':' || key || value)::uuid;

INSERT INTO call_labels (org_id, label, created_at, call_id)
SELECT DISTINCT c.org_id, call_label(m.key, m.value #>> '{}'), c.created_at, c.id
FROM calls AS c
CROSS JOIN jsonb_each(c.metadata) AS m
WHERE jsonb_typeof(m.value) IN ('string', 'number', 'boolean');

-- By statement, not by row: a batch of calls is labelled in one go, whichever statement inserts them.
CREATE FUNCTION label_calls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO call_labels (org_id, label, created_at, call_id)
    SELECT DISTINCT c.org_id, call_label(m.key, m.value #>> '{}'), c.created_at, c.id
    FROM new_calls AS c
    CROSS JOIN jsonb_each(c.metadata) AS m
    WHERE jsonb_typeof(m.value) IN ('string', 'number', 'boolean');
    RETURN NULL;
END
$$;

CREATE TRIGGER new_calls_are_labelled
    AFTER INSERT ON calls
    REFERENCING NEW TABLE AS new_calls
    FOR EACH STATEMENT EXECUTE FUNCTION label_calls();
