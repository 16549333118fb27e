-- Plivo takes a call on under one id and carries it under another: without the second, an ended call is found again as the next one to that number.
ALTER TABLE attempts ADD COLUMN carrier_id text;

COMMENT ON COLUMN attempts.carrier_id IS 'The id that the provider lists the call under, where that is another than the one that it gave us.';
