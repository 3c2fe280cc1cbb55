-- Connect to analytics SSE stream
CREATE TABLE analytics_events (
    metric_name TEXT,
    value DOUBLE,
    dimensions JSON,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://analytics.app.com/realtime',
    headers = 'X-API-Key: {{ ANALYTICS_KEY }}',
    events = 'metric_update',
    type = 'source',
    format = 'json'
);

-- Calculate rolling metrics
CREATE VIEW rolling_metrics AS
SELECT 
    metric_name,
    AVG(value) as avg_value,
    MAX(value) as max_value,
    MIN(value) as min_value,
    COUNT(*) as data_points,
    HOP(INTERVAL '10 SECONDS', INTERVAL '1 MINUTE') as window
FROM analytics_events
GROUP BY metric_name, window;
