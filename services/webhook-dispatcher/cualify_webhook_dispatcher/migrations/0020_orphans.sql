-- What deleted endpoints have left behind: their sent deliveries and their replays were not swept with them, and what is
-- kept for its time is found by its endpoint.
DELETE FROM deliveries d WHERE NOT EXISTS (SELECT FROM endpoints e WHERE e.id = d.endpoint_id);
DELETE FROM replays r WHERE NOT EXISTS (SELECT FROM endpoints e WHERE e.id = r.endpoint_id);
