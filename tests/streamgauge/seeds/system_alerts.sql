-- Connect to monitoring SSE endpoint
CREATE TABLE system_metrics (
    host TEXT,
    metric TEXT,
    value DOUBLE,
    tags JSON,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://monitoring.internal/sse/metrics',
    headers = 'X-Auth-Token: {{ MONITORING_TOKEN }}',
    events = 'cpu,memory,disk,network',
    type = 'source',
    format = 'json'
);

-- Alert on anomalies
CREATE VIEW system_alerts AS
SELECT 
    host,
    metric,
    value,
    CASE 
        WHEN metric = 'cpu' AND value > 90 THEN 'CRITICAL'
        WHEN metric = 'memory' AND value > 85 THEN 'WARNING'
        WHEN metric = 'disk' AND value > 95 THEN 'CRITICAL'
        ELSE 'OK'
    END as severity,
    timestamp
FROM system_metrics
WHERE value > CASE metric
    WHEN 'cpu' THEN 80
    WHEN 'memory' THEN 75
    WHEN 'disk' THEN 90
    ELSE 100
END;
