-- What `streamgauge demo` runs: two feeds made inside the program, read over HTTP like any other.
-- {{ METRICS }} and {{ TRADES }} stand for the addresses of the feeds.

CREATE TABLE system_metrics (
    host TEXT,
    metric TEXT,
    value DOUBLE,
    tags JSON,
    timestamp TIMESTAMP,
    WATERMARK FOR timestamp AS timestamp - INTERVAL '500 milliseconds'
) WITH (
    connector = 'sse',
    endpoint = '{{ METRICS }}',
    events = 'cpu,memory,disk,network',
    format = 'json'
);

CREATE TABLE trades (
    type TEXT,
    symbol TEXT,
    price DECIMAL(18, 4),
    volume BIGINT,
    bid DECIMAL(18, 4),
    ask DECIMAL(18, 4),
    timestamp TIMESTAMP,
    WATERMARK FOR timestamp AS timestamp - INTERVAL '500 milliseconds'
) WITH (
    connector = 'sse',
    endpoint = '{{ TRADES }}',
    events = 'price_update,trade',
    format = 'json'
);

-- Five seconds of each metric, one row when the window closes.
CREATE VIEW metrics_5s AS
SELECT
    metric,
    COUNT(*) AS events,
    AVG(value) AS avg_value,
    MAX(value) AS max_value,
    TUMBLE(INTERVAL '5 SECONDS') AS window
FROM system_metrics
GROUP BY metric, window;

-- The last ten seconds of each host's CPU, anew every second.
CREATE VIEW cpu_rolling AS
SELECT
    host,
    AVG(value) AS avg_cpu,
    MAX(value) AS max_cpu,
    HOP(INTERVAL '1 SECOND', INTERVAL '10 SECONDS') AS window
FROM system_metrics
WHERE metric = 'cpu'
GROUP BY host, window;

-- The mean price of each symbol over ten seconds, weighted by volume, anew every second.
CREATE VIEW vwap_rolling AS
SELECT
    symbol,
    SUM(price * volume) / SUM(volume) AS vwap,
    SUM(volume) AS volume,
    COUNT(*) AS quotes,
    HOP(INTERVAL '1 SECOND', INTERVAL '10 SECONDS') AS window
FROM trades
GROUP BY symbol, window;

-- Jumps of more than 5 % against the price before.
CREATE VIEW price_alerts AS
SELECT
    symbol,
    price AS current_price,
    LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) AS prev_price,
    (price - LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp)) /
        LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) * 100 AS pct_change,
    timestamp
FROM trades
WHERE ABS(pct_change) > 5.0;
