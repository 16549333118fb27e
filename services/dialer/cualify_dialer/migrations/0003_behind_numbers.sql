-- Who is first of each org and provider behind one number, found without reading all that waits there.
CREATE INDEX dial_jobs_behind_numbers ON dial_jobs (to_e164, org_id, provider, next_at, call_id) WHERE state = 'queued' AND parked;
