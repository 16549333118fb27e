-- Of the calls that share a key of metadata or a number: how many of each agent ended in each status, by the hour and by
-- the day in which they were placed. Written by who asks for such a total, of hours all of whose calls are over.
CREATE TABLE kept_counts (
    org_id    uuid NOT NULL,
    kind      text NOT NULL,
    label     uuid NOT NULL,
    grain     text NOT NULL,
    starts_at timestamptz NOT NULL,
    agent_id  uuid NOT NULL,
    status    text NOT NULL,
    calls     bigint NOT NULL,
    PRIMARY KEY (org_id, kind, label, grain, starts_at, agent_id, status),
    CONSTRAINT kind_is_known CHECK (kind IN ('metadata', 'to_e164')),
    CONSTRAINT grain_is_known CHECK (grain IN ('hour', 'day'))
);

-- Until when they are counted, a whole hour of UTC. Locked by who counts on.
CREATE TABLE kept_count_marks (
    org_id uuid NOT NULL,
    kind   text NOT NULL,
    label  uuid NOT NULL,
    until  timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',
    PRIMARY KEY (org_id, kind, label)
);
