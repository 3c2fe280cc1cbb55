-- What happens in a few repositories: activity by the hour, pushed commits, and who is at it at night.
--
--     streamgauge run sql/repository_activity.sql
--
-- To read it live:  streamgauge replay fixtures/github_events.ndjson --event event_type --rate 20
-- and  connector = 'sse', endpoint = 'http://127.0.0.1:8090/'  in place of connector and path.

CREATE TABLE github_events (
    event_type TEXT,
    repo_name TEXT,
    actor TEXT,
    action TEXT,
    payload JSON,
    created_at TIMESTAMP,
    WATERMARK FOR created_at AS created_at - INTERVAL '2 seconds'
) WITH (
    connector = 'file',
    path = 'fixtures/github_events.ndjson',
    format = 'json'
);

CREATE VIEW repo_activity AS
SELECT
    repo_name,
    event_type,
    COUNT(*) AS event_count,
    COUNT(DISTINCT actor) AS unique_contributors,
    TUMBLE(INTERVAL '1 HOUR') AS window
FROM github_events
GROUP BY repo_name, event_type, window;

-- The payload differs by type of event; a field that is not there is NULL.
CREATE VIEW pushed_commits AS
SELECT
    repo_name,
    SUM(CAST(payload ->> 'size' AS BIGINT)) AS commits,
    COUNT(*) FILTER (WHERE payload ->> 'ref' = 'refs/heads/main') AS pushes_to_main,
    TUMBLE(INTERVAL '30 MINUTES') AS window
FROM github_events
WHERE event_type = 'PushEvent'
GROUP BY repo_name, window;

-- A view over a view: the busiest repositories of each hour.
CREATE VIEW busiest_repositories AS
SELECT repo_name, SUM(event_count) AS events, window
FROM repo_activity
GROUP BY repo_name, window
HAVING SUM(event_count) > 20;
