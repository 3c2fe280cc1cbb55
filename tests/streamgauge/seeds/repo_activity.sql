-- Connect to GitHub events SSE
CREATE TABLE github_events (
    event_type TEXT,
    repo_name TEXT,
    actor TEXT,
    action TEXT,
    payload JSON,
    created_at TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://api.github.com/events',
    headers = 'Authorization: token {{ GITHUB_TOKEN }},Accept: text/event-stream',
    type = 'source',
    format = 'json'
);

-- Track repository activity
CREATE VIEW repo_activity AS
SELECT 
    repo_name,
    event_type,
    COUNT(*) as event_count,
    COUNT(DISTINCT actor) as unique_contributors,
    TUMBLE(INTERVAL '1 HOUR') as window
FROM github_events
GROUP BY repo_name, event_type, window;
