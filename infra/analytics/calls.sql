-- For DuckDB, over the files of follow.py: duckdb -c ".read infra/analytics/calls.sql" beside the folder `events`.

CREATE OR REPLACE VIEW happened AS
SELECT DISTINCT ON (source, id) -- an event may be there twice; (source, id) says that it is one
    source, id, type, orgid, CAST(time AS TIMESTAMPTZ) AS at, CAST(sequence AS BIGINT) AS n, data
FROM read_json('events/*.ndjson', format = 'newline_delimited', columns = {
    source: 'VARCHAR', id: 'VARCHAR', type: 'VARCHAR', orgid: 'VARCHAR', time: 'VARCHAR', sequence: 'VARCHAR', data: 'JSON'
});

-- How calls end, how long is talked, and what it brings, by org and day in India.
SELECT ended.orgid, CAST(ended.at AT TIME ZONE 'Asia/Kolkata' AS DATE) AS day,
    count(*) AS calls,
    count(*) FILTER (ended.type = 'call.completed') AS completed,
    round(avg(CAST(ended.data ->> 'duration_sec' AS INTEGER)) FILTER (ended.type = 'call.completed'), 1) AS talked_sec,
    sum(CAST(debited.data ->> 'amount_paise' AS BIGINT)) AS earned_paise
FROM happened AS ended
LEFT JOIN happened AS debited
    ON debited.type = 'wallet.debited' AND debited.data ->> 'call_id' = ended.data ->> 'call_id'
WHERE ended.type IN ('call.completed', 'call.failed')
GROUP BY ALL
ORDER BY day, calls DESC;

-- Why calls fail.
SELECT data ->> 'status' AS status, data ->> 'ended_reason' AS reason, count(*) AS calls
FROM happened
WHERE type = 'call.failed'
GROUP BY ALL
ORDER BY calls DESC;
