-- Connect to news SSE feed
CREATE TABLE news_stream (
    article_id TEXT,
    title TEXT,
    category TEXT,
    source TEXT,
    summary TEXT,
    url TEXT,
    published_at TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://news-api.com/v2/stream',
    headers = 'X-API-Key: {{ NEWS_API_KEY }}',
    events = 'breaking_news,update',
    type = 'source',
    format = 'json'
);

-- Trending topics analysis
CREATE VIEW trending_topics AS
SELECT 
    category,
    COUNT(*) as article_count,
    ARRAY_AGG(DISTINCT source) as sources,
    TUMBLE(INTERVAL '15 MINUTES') as window
FROM news_stream
GROUP BY category, window
ORDER BY window DESC, article_count DESC;
