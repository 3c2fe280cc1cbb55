CREATE TABLE sse_events (
    id BIGINT,
    event_type TEXT,
    data JSON,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://stream.example.com/events',
    type = 'source',
    format = 'json'
);
