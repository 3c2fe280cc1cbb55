CREATE TABLE filtered_events (
    event_id TEXT,
    category TEXT,
    payload JSON,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://api.service.com/sse',
    headers = 'Authorization: Bearer {{ API_TOKEN }},Accept: text/event-stream',
    events = 'user_action,system_event,notification',
    type = 'source',
    format = 'json'
);
