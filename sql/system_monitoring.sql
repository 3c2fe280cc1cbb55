-- Metrics of a few hosts: rolling means, alerts, and which hosts are busy all the time.
--
--     streamgauge run sql/system_monitoring.sql
--
-- The table reads a recorded stream. To read it live, serve the recording with
--     streamgauge replay fixtures/system_metrics.sse --rate 50
-- and write  connector = 'sse', endpoint = 'http://127.0.0.1:8090/'  in place of connector and path.

CREATE TABLE system_metrics (
    host TEXT,
    metric TEXT,
    value DOUBLE,
    tags JSON,
    timestamp TIMESTAMP,
    -- Events come up to two seconds out of order; a window waits that long for them.
    WATERMARK FOR timestamp AS timestamp - INTERVAL '2 seconds'
) WITH (
    connector = 'file',
    path = 'fixtures/system_metrics.sse',
    events = 'cpu,memory,disk,network',
    format = 'json'
);

-- The last minute, anew every ten seconds. HOP takes the slide first, then the width.
CREATE VIEW rolling_metrics AS
SELECT
    host,
    metric,
    AVG(value) AS avg_value,
    MAX(value) AS max_value,
    MIN(value) AS min_value,
    COUNT(*) AS data_points,
    HOP(INTERVAL '10 SECONDS', INTERVAL '1 MINUTE') AS window
FROM system_metrics
GROUP BY host, metric, window;

-- Row by row, without a window: what is above its limit right now.
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
    END AS severity,
    timestamp
FROM system_metrics
WHERE value > CASE metric
    WHEN 'cpu' THEN 80
    WHEN 'memory' THEN 75
    WHEN 'disk' THEN 90
    ELSE 100
END;

-- Groups that a condition on their aggregates lets through; `->>` reads a field of a JSON column as text.
CREATE VIEW busy_zones AS
SELECT
    tags ->> 'zone' AS zone,
    COUNT(DISTINCT host) AS hosts,
    AVG(value) AS avg_cpu,
    TUMBLE(INTERVAL '30 SECONDS') AS window
FROM system_metrics
WHERE metric = 'cpu'
GROUP BY zone, window
HAVING AVG(value) > 50;
