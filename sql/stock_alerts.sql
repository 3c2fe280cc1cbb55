-- Prices of eight symbols: jumps of more than 5 %, bars of one minute, and the mean weighted by volume.
--
--     streamgauge run sql/stock_alerts.sql
--
-- To read them live:  streamgauge replay fixtures/stock_prices.ndjson --event type --rate 50
-- and  connector = 'sse', endpoint = 'http://127.0.0.1:8090/', events = 'price_update,trade'  in place of connector and path.

CREATE TABLE stock_prices (
    type TEXT,
    symbol TEXT,
    price DECIMAL(18, 4),
    volume BIGINT,
    bid DECIMAL(18, 4),
    ask DECIMAL(18, 4),
    timestamp TIMESTAMP,
    WATERMARK FOR timestamp AS timestamp - INTERVAL '2 seconds'
) WITH (
    connector = 'file',
    path = 'fixtures/stock_prices.ndjson',
    format = 'json'
);

-- LAG looks at the row before, in the order of event time. An alias of a window function may stand in WHERE.
CREATE VIEW price_alerts AS
SELECT
    symbol,
    price AS current_price,
    LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) AS prev_price,
    (price - LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp)) /
        LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) * 100 AS pct_change,
    timestamp
FROM stock_prices
WHERE ABS(pct_change) > 5.0;

-- Bars: ORDER BY inside an aggregate says which value is the first and which the last.
CREATE VIEW price_bars AS
SELECT
    symbol,
    FIRST_VALUE(price ORDER BY timestamp) AS open,
    MAX(price) AS high,
    MIN(price) AS low,
    LAST_VALUE(price ORDER BY timestamp) AS close,
    SUM(volume) AS volume,
    TUMBLE(INTERVAL '1 MINUTE') AS window
FROM stock_prices
GROUP BY symbol, window;

-- The volume-weighted mean of the last thirty seconds, anew every ten; only trades count as sold.
CREATE VIEW rolling_vwap AS
SELECT
    symbol,
    SUM(price * volume) / SUM(volume) AS vwap,
    COUNT(*) FILTER (WHERE type = 'trade') AS trades,
    HOP(INTERVAL '10 SECONDS', INTERVAL '30 SECONDS') AS window
FROM stock_prices
GROUP BY symbol, window;
