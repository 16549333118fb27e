-- Whose turn it is, by org and provider; what waits behind its own number; what each provider can take.

ALTER TABLE dial_jobs
    ADD COLUMN provider             text,
    ADD COLUMN route                integer NOT NULL DEFAULT 0,
    ADD COLUMN has_fallback         boolean NOT NULL DEFAULT false,
    ADD COLUMN max_concurrent_calls integer,
    ADD COLUMN correlation_id       text,
    ADD COLUMN parked               boolean NOT NULL DEFAULT false;

UPDATE dial_jobs SET provider = request ->> 'provider' WHERE request IS NOT NULL;

ALTER TABLE dial_jobs ADD CONSTRAINT only_a_tombstone_has_no_provider CHECK (state = 'tombstone' OR provider IS NOT NULL);

COMMENT ON COLUMN dial_jobs.provider IS 'Who is asked next: the provider of the request, or one of its fallbacks.';
COMMENT ON COLUMN dial_jobs.parked IS 'Its number is busy: it is not looked at until that number is free. Written under the lock of the claim only.';

DROP INDEX dial_jobs_turns;
CREATE INDEX dial_jobs_turns ON dial_jobs (org_id, provider, next_at, call_id) WHERE state = 'queued' AND NOT parked;
CREATE INDEX dial_jobs_by_number ON dial_jobs (to_e164, next_at, call_id) WHERE state = 'queued';
CREATE INDEX dial_jobs_with_fallback ON dial_jobs (provider, next_at, call_id) WHERE state = 'queued' AND has_fallback;

-- Numbers that became free, told by whoever ended a call, in that transaction; the claim looks who waits behind them.
CREATE TABLE freed_numbers (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    to_e164 text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

ALTER TABLE attempts
    ADD COLUMN agent_id   text,
    ADD COLUMN hang_up    text,
    ADD COLUMN claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD CONSTRAINT hang_up_is_known CHECK (hang_up IN ('done', 'too_late'));

COMMENT ON COLUMN attempts.claimed_at IS 'By this server''s clock, which all replicas share: the calls per second of a provider are counted by it.';
COMMENT ON COLUMN attempts.hang_up IS 'done: the provider ended the call because we asked; too_late: it could not. Null: we did not ask, or do not know.';

UPDATE attempts SET agent_id = job.request ->> 'provider_agent_id' FROM dial_jobs AS job WHERE job.call_id = attempts.call_id;
ALTER TABLE attempts ALTER COLUMN agent_id SET NOT NULL;

CREATE INDEX attempts_open_by_provider ON attempts (provider) WHERE state <> 'ended';
CREATE INDEX attempts_by_start ON attempts (provider, claimed_at);
CREATE INDEX attempts_by_number ON attempts (to_e164, asked_at);

-- How a provider fares: consecutive requests that led nowhere, and until when it is left alone.
CREATE TABLE provider_breakers (
    provider      text PRIMARY KEY,
    failures      integer NOT NULL DEFAULT 0,
    open_until    timestamptz,
    probing_until timestamptz,
    CONSTRAINT failures_are_counted CHECK (failures >= 0)
);

CREATE INDEX provider_events_by_age ON provider_events (received_at);
