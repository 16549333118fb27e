-- The pull feed. `position` counts 1, 2, 3… per org in the order of commits: it is taken from the org's row here, whose lock
-- is held until COMMIT. An id or a sequence of the database would be taken before it, so that a reader could pass a number
-- whose transaction is still running and never see it. (The horizon of running transactions would be safe too, but any long
-- transaction anywhere on the server would hold everybody's feed up.) This row is the last that a transaction locks.
CREATE TABLE org_feeds (
    org_id uuid PRIMARY KEY,
    last   bigint NOT NULL
);

ALTER TABLE customer_events ADD COLUMN position bigint;

UPDATE customer_events AS e
SET position = p.position
FROM (SELECT id, row_number() OVER (PARTITION BY org_id ORDER BY at, id) AS position FROM customer_events) AS p
WHERE e.id = p.id;

INSERT INTO org_feeds (org_id, last)
SELECT org_id, max(position)
FROM customer_events
GROUP BY org_id;

ALTER TABLE customer_events
    ALTER COLUMN position SET NOT NULL,
    ADD CONSTRAINT a_position_in_a_feed_is_taken_once UNIQUE (org_id, position);

DROP INDEX customer_events_of_an_org;

-- What an org was told that is about no call: how many notifications, and the newest low balance (the event's sequence).
CREATE TABLE org_notifications (
    org_id               uuid PRIMARY KEY REFERENCES orgs,
    customer_sequence    integer NOT NULL,
    low_balance_sequence bigint NOT NULL
);
