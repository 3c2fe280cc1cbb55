-- News of a few sources: what is written about most, and where something breaks.
--
--     streamgauge run sql/news_topics.sql
--
-- To read them live:  streamgauge replay fixtures/news.ndjson --id article_id --event type --rate 20
-- and  connector = 'sse', endpoint = 'http://127.0.0.1:8090/', events = 'breaking_news,update'  in place of connector and path.

CREATE TABLE news_stream (
    type TEXT,
    article_id TEXT,
    title TEXT,
    category TEXT,
    source TEXT,
    summary TEXT,
    url TEXT,
    published_at TIMESTAMP,
    WATERMARK FOR published_at AS published_at - INTERVAL '2 seconds'
) WITH (
    connector = 'file',
    path = 'fixtures/news.ndjson',
    format = 'json'
);

-- ORDER BY of an endless view orders the rows of each window among themselves.
CREATE VIEW trending_topics AS
SELECT
    category,
    COUNT(*) AS article_count,
    ARRAY_AGG(DISTINCT source) AS sources,
    TUMBLE(INTERVAL '15 MINUTES') AS window
FROM news_stream
GROUP BY category, window
ORDER BY window DESC, article_count DESC;

-- A session lasts as long as articles follow each other within the gap: one burst of breaking news, one row.
CREATE VIEW breaking_bursts AS
SELECT
    category,
    COUNT(*) AS articles,
    MIN(published_at) AS first_at,
    MAX(published_at) AS last_at,
    SESSION(INTERVAL '3 MINUTES') AS window
FROM news_stream
WHERE type = 'breaking_news'
GROUP BY category, window
HAVING COUNT(*) >= 2;
