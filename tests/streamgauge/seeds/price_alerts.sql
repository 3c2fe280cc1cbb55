-- Connect to stock price SSE feed
CREATE TABLE stock_prices (
    symbol TEXT,
    price DECIMAL,
    volume BIGINT,
    bid DECIMAL,
    ask DECIMAL,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://market-data.broker.com/sse/prices',
    headers = 'Authorization: Bearer {{ BROKER_TOKEN }}',
    events = 'price_update,trade',
    type = 'source',
    format = 'json'
);

-- Detect price movements
CREATE VIEW price_alerts AS
SELECT 
    symbol,
    price as current_price,
    LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) as prev_price,
    (price - LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp)) / 
        LAG(price, 1) OVER (PARTITION BY symbol ORDER BY timestamp) * 100 as pct_change,
    timestamp
FROM stock_prices
WHERE ABS(pct_change) > 5.0;
