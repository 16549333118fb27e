-- When claimed deliveries were last taken back, by an erasure or a replay's cancel: each replica that sees it change looks
-- which of its leases still hold, before it confirms that it has looked.
CREATE TABLE recalls (
    is_the_row boolean PRIMARY KEY DEFAULT true,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT there_is_one_row CHECK (is_the_row)
);
INSERT INTO recalls DEFAULT VALUES;
