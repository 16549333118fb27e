-- How many of an org's calls with one key of metadata, or to one number, were placed before `until`, a whole hour of UTC.
-- Written by who asks for a total, of hours that are over: no call is placed in them any more, and none is removed.
CREATE TABLE kept_sums (
    org_id uuid NOT NULL,
    kind   text NOT NULL,
    label  uuid NOT NULL,
    until  timestamptz NOT NULL,
    calls  bigint NOT NULL,
    PRIMARY KEY (org_id, kind, label, until),
    CONSTRAINT kind_is_known CHECK (kind IN ('metadata', 'to_e164'))
);
