-- Edits of Wikipedia and its sisters: how much is written where, by people and by bots.
--
--     streamgauge run sql/wikipedia_edits.sql
--
-- The table reads made-up edits of the real form. For the real ones:
--     connector = 'sse', endpoint = 'https://stream.wikimedia.org/v2/stream/recentchange'
-- in place of connector and path, and a header that says who asks: headers = 'User-Agent: your-name (your-address)'.

CREATE TABLE edits (
    -- Six of some forty fields; the others are skipped unread.
    meta STRUCT<dt TIMESTAMP, domain TEXT>,
    type TEXT,
    title TEXT,
    "user" TEXT,
    bot BOOLEAN,
    length STRUCT<old BIGINT, new BIGINT>,
    -- A column computed from the others can carry the event time.
    edited_at TIMESTAMP AS (meta['dt']),
    WATERMARK FOR edited_at AS edited_at - INTERVAL '2 seconds'
) WITH (
    connector = 'file',
    path = 'fixtures/wikipedia.sse',
    format = 'json'
);

CREATE VIEW edits_by_wiki AS
SELECT
    meta['domain'] AS wiki,
    COUNT(*) AS edits,
    COUNT(*) FILTER (WHERE bot) AS by_bots,
    COUNT(DISTINCT "user") AS users,
    SUM(length['new'] - length['old']) AS bytes_added,
    TUMBLE(INTERVAL '10 SECONDS') AS window
FROM edits
WHERE type IN ('edit', 'new')
GROUP BY wiki, window;

-- Large deletions, as they happen.
CREATE VIEW large_deletions AS
SELECT edited_at, meta['domain'] AS wiki, title, "user", length['old'] - length['new'] AS bytes_removed
FROM edits
WHERE type = 'edit' AND NOT bot AND length['old'] - length['new'] > 350;
