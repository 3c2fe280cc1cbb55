//! Scripts and what is read from them, or the sentence that says why not.

use proptest::prelude::*;

use super::*;
use crate::error::Error;

/// The statements of the connector's documentation, as written there.
pub(super) const DOCUMENTED: &str = r#"
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

-- Connect to analytics SSE stream
CREATE TABLE analytics_events (
    metric_name TEXT,
    value DOUBLE,
    dimensions JSON,
    timestamp TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://analytics.app.com/realtime',
    headers = 'X-API-Key: {{ ANALYTICS_KEY }}',
    events = 'metric_update',
    type = 'source',
    format = 'json'
);

-- Calculate rolling metrics
CREATE VIEW rolling_metrics AS
SELECT 
    metric_name,
    AVG(value) as avg_value,
    MAX(value) as max_value,
    MIN(value) as min_value,
    COUNT(*) as data_points,
    HOP(INTERVAL '10 SECONDS', INTERVAL '1 MINUTE') as window
FROM analytics_events
GROUP BY metric_name, window;

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

-- Connect to GitHub events SSE
CREATE TABLE github_events (
    event_type TEXT,
    repo_name TEXT,
    actor TEXT,
    action TEXT,
    payload JSON,
    created_at TIMESTAMP
) WITH (
    connector = 'sse',
    endpoint = 'https://api.github.com/events',
    headers = 'Authorization: token {{ GITHUB_TOKEN }},Accept: text/event-stream',
    type = 'source',
    format = 'json'
);

-- Track repository activity
CREATE VIEW repo_activity AS
SELECT 
    repo_name,
    event_type,
    COUNT(*) as event_count,
    COUNT(DISTINCT actor) as unique_contributors,
    TUMBLE(INTERVAL '1 HOUR') as window
FROM github_events
GROUP BY repo_name, event_type, window;

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
"#;

fn one(sql: &str) -> StatementKind {
    let (mut statements, errors) = parse(sql);
    assert_eq!(errors, [], "{sql}");
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0).kind
}

fn table(sql: &str) -> CreateTable {
    match one(sql) {
        StatementKind::CreateTable(table) => *table,
        other => panic!("{other:?}"),
    }
}

/// A statement in one line: what it is, and what is particular about it.
fn summary(kind: &StatementKind) -> String {
    match kind {
        StatementKind::CreateTable(table) => {
            let mut parts: Vec<String> = table.columns.iter().map(column).collect();
            if let Some(WatermarkDef { column, expr, .. }) = &table.watermark {
                parts.push(format!("watermark {column}{}", expr.as_ref().map(|expr| format!(" as {expr}")).unwrap_or_default()));
            }
            let flags = flagged(&[(table.or_replace, " or replace"), (table.if_not_exists, " if not exists")]);
            format!("table{flags} {} ({}){}", table.name, parts.join(", "), options(&table.options))
        }
        StatementKind::CreateView(view) => {
            let flags = flagged(&[
                (view.or_replace, " or replace"),
                (view.materialized, " materialized"),
                (view.if_not_exists, " if not exists"),
                (view.emit_changes, " emitting"),
            ]);
            format!("view{flags} {}{}: {}", view.name, options(&view.options), view.query)
        }
        StatementKind::Query(query) => format!("query: {query}"),
        StatementKind::Subscribe(query) => format!("subscribe: {query}"),
        StatementKind::Explain { analyze, statement } => {
            format!("explain{} {}", flagged(&[(*analyze, " analyze")]), summary(statement))
        }
        StatementKind::Drop { what, names, if_exists, cascade } => {
            let names: Vec<&str> = names.iter().map(|name| name.text.as_str()).collect();
            let flags = flagged(&[(*if_exists, " if exists"), (*cascade, " cascade")]);
            format!("drop {what}{flags} {}", names.join(", "))
        }
        StatementKind::Show(Show::Tables) => "show tables".into(),
        StatementKind::Show(Show::Views) => "show views".into(),
        StatementKind::Show(Show::Create(what, name)) => format!("show create {what} {name}"),
        StatementKind::Show(Show::Status(name)) => {
            format!("show status {}", name.as_ref().map_or("of all", |name| name.text.as_str()))
        }
        StatementKind::Show(Show::Gaps(name)) => {
            format!("show gaps {}", name.as_ref().map_or("of all", |name| name.text.as_str()))
        }
        StatementKind::Describe(name) => format!("describe {name}"),
        StatementKind::Insert { table } => format!("insert into {table}"),
        StatementKind::Set { name, value } => format!("set {name} = {value}"),
    }
}

fn flagged(flags: &[(bool, &str)]) -> String {
    flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect()
}

fn column(column: &ColumnDef) -> String {
    let mut text = column.name.text.clone();
    if let Some(data_type) = &column.data_type {
        text += &format!(" {}", data_type.data_type);
    }
    text += &flagged(&[(column.not_null, " not null"), (column.primary_key, " key")]);
    match &column.origin {
        Origin::Payload => text,
        Origin::Metadata { key, .. } => format!("{text} from {key}"),
        Origin::Generated(expr) => format!("{text} = {expr}"),
    }
}

fn options(options: &[crate::options::GivenOption]) -> String {
    options.iter().map(|option| format!(" {}={}", option.name, option.value)).collect()
}

#[track_caller]
fn reads(sql: &str, expected: &str) {
    assert_eq!(summary(&one(sql)), expected);
}

/// The error of a script of one statement: its line, the columns of its caret, its sentence.
#[track_caller]
fn refuses(sql: &str, place: (u64, u64, u64), expected: &str) {
    let (statements, errors) = parse(sql);
    let shown: Vec<String> = errors.iter().map(Error::to_string).collect();
    assert_eq!(shown, [expected], "{sql}");
    assert_eq!(statements, [], "{sql}");
    let span = errors[0].span().unwrap();
    assert_eq!((span.start.line, span.start.column, span.end.column), place, "{sql}: {expected}");
}

#[test]
fn the_documented_statements_are_read_as_written() {
    let (statements, errors) = parse(DOCUMENTED);
    assert_eq!(errors, []);
    let shown: Vec<String> = statements.iter().map(|statement| summary(&statement.kind)).collect();
    let names: Vec<&str> = shown.iter().map(|shown| shown.split([' ', ':']).nth(1).unwrap()).collect();
    assert_eq!(
        names.join(" "),
        "sse_events filtered_events analytics_events rolling_metrics stock_prices price_alerts \
         github_events repo_activity news_stream trending_topics system_metrics system_alerts"
    );
    assert_eq!(
        shown[0],
        "table sse_events (id BIGINT, event_type TEXT, data JSON, timestamp TIMESTAMP) \
         connector=sse endpoint=https://stream.example.com/events type=source format=json"
    );
    assert_eq!(
        shown[3],
        "view rolling_metrics: SELECT metric_name, AVG(value) AS avg_value, MAX(value) AS max_value, MIN(value) AS min_value, \
         COUNT(*) AS data_points, HOP(INTERVAL '10 SECONDS', INTERVAL '1 MINUTE') AS window FROM analytics_events \
         GROUP BY metric_name, window"
    );
    for statement in &statements {
        assert!(statement.text.starts_with("CREATE") && !statement.text.contains(';'), "{}", statement.text);
        assert!(DOCUMENTED.contains(&statement.text));
    }
    let columns = |index: usize| match &statements[index].kind {
        StatementKind::CreateTable(table) => {
            table.columns.iter().map(|column| column.field().unwrap().unwrap()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(columns(4)[1].data_type().to_string(), "Decimal128(38, 10)");
    assert_eq!(columns(0)[2].metadata()["ARROW:extension:name"], "arrow.json");
}

#[test]
fn tables_are_read() {
    for (sql, expected) in [
        ("CREATE TABLE t", "table t ()"),
        ("CREATE TABLE t ()", "table t ()"),
        ("create or replace table if not exists T (A text);", "table or replace if not exists t (a TEXT)"),
        (r#"CREATE TABLE "My-Table" ("userId" TEXT, `x y` INT)"#, "table My-Table (userId TEXT, x y INT)"),
        (
            "CREATE TABLE t (timestamp TIMESTAMP, value DOUBLE, source TEXT, data JSON, window INT, metric TEXT, action TEXT, \
             url TEXT, type TEXT, watermark INT, metadata JSON, index INT)",
            "table t (timestamp TIMESTAMP, value DOUBLE, source TEXT, data JSON, window INT, metric TEXT, action TEXT, \
             url TEXT, type TEXT, watermark INT, metadata JSON, index INT)",
        ),
        (
            "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY NOT ENFORCED, b INT NULL, c TEXT, PRIMARY KEY (b, C) NOT ENFORCED,)",
            "table t (id BIGINT not null key, b INT key, c TEXT key)",
        ),
        (
            "CREATE TABLE t (e TEXT METADATA FROM 'event_type', i TEXT NOT NULL METADATA FROM 'event_id' VIRTUAL, \
             received_at TIMESTAMP METADATA)",
            "table t (e TEXT from event_type, i TEXT not null from event_id, received_at TIMESTAMP from received_at)",
        ),
        (
            "CREATE TABLE t (s BIGINT, ts TIMESTAMP GENERATED ALWAYS AS (to_timestamp(s)) STORED, d AS s * 2, \
             h TEXT AS (upper(x)), WATERMARK FOR ts AS ts - INTERVAL '5 seconds')",
            "table t (s BIGINT, ts TIMESTAMP = (to_timestamp(s)), d = s * 2, h TEXT = (upper(x)), \
             watermark ts as ts - INTERVAL '5 seconds')",
        ),
        ("CREATE TABLE t (ts TIMESTAMP, WATERMARK FOR ts)", "table t (ts TIMESTAMP, watermark ts)"),
        (
            "CREATE TABLE t (a STRUCT<x INT, y ARRAY<TEXT>>, b INT[][], c DECIMAL(10, 2), d TIMESTAMP(3) WITH TIME ZONE)",
            "table t (a STRUCT<x INT, y ARRAY<TEXT>>, b INT[][], c DECIMAL(10,2), d TIMESTAMP(3) WITH TIME ZONE)",
        ),
        (
            "CREATE TABLE t (a STRUCT<x INT, y STRUCT<z INT>>[], b ARRAY<ARRAY<INT>>[], c INT AS (a >> 1))",
            "table t (a STRUCT<x INT, y STRUCT<z INT>>[], b ARRAY<ARRAY<INT>>[], c INT = (a >> 1))",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'sse', 'json.timestamp_format' = 'unix_millis', json.unstructured = TRUE, \
             \"events\" = 'a', n = 5, d = INTERVAL '5 seconds', e = INTERVAL '5' SECOND, f = -1.5, type = 'source', \
             headers = 'A: ''x''',)",
            "table t (a INT) connector=sse json.timestamp_format=unix_millis json.unstructured=true \
             events=a n=5 d=5 seconds e=5 second f=-1.5 type=source headers=A: 'x'",
        ),
    ] {
        reads(sql, expected);
    }
    let column = table("CREATE TABLE t (userId TEXT)").columns.remove(0);
    assert_eq!((column.name.text.as_str(), column.name.written.as_str()), ("userid", "userId"));
}

#[test]
fn other_statements_are_read() {
    for (sql, expected) in [
        ("SELECT 1", "query: SELECT 1"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "query: WITH a AS (SELECT 1) SELECT * FROM a"),
        ("(SELECT 1) UNION ALL VALUES (2)", "query: (SELECT 1) UNION ALL VALUES (2)"),
        ("SELECT * FROM t emit changes;", "subscribe: SELECT * FROM t"),
        ("SUBSCRIBE v", "subscribe: SELECT * FROM \"v\""),
        ("SUBSCRIBE TO \"My View\"", "subscribe: SELECT * FROM \"My View\""),
        ("SUBSCRIBE SELECT a FROM v", "subscribe: SELECT a FROM v"),
        ("CREATE VIEW v AS SELECT 1", "view v: SELECT 1"),
        (
            "CREATE OR REPLACE MATERIALIZED VIEW IF NOT EXISTS v WITH (emit = 'changes', emit_interval = INTERVAL '1 second') \
             AS SELECT a FROM t EMIT CHANGES",
            "view or replace materialized if not exists emitting v emit=changes emit_interval=1 second: SELECT a FROM t",
        ),
        ("EXPLAIN SELECT 1", "explain query: SELECT 1"),
        ("EXPLAIN ANALYZE VERBOSE CREATE VIEW v AS SELECT 1", "explain analyze view v: SELECT 1"),
        ("EXPLAIN SELECT a FROM t EMIT CHANGES", "explain subscribe: SELECT a FROM t"),
        ("DROP TABLE t", "drop TABLE t"),
        ("DROP MATERIALIZED VIEW IF EXISTS v, W CASCADE", "drop VIEW if exists cascade v, w"),
        ("DROP VIEW v RESTRICT", "drop VIEW v"),
        ("SHOW TABLES", "show tables"),
        ("SHOW VIEWS", "show views"),
        ("SHOW CREATE TABLE t", "show create TABLE t"),
        ("SHOW CREATE VIEW v", "show create VIEW v"),
        ("SHOW STATUS", "show status of all"),
        ("SHOW STATUS FOR v", "show status v"),
        ("SHOW GAPS", "show gaps of all"),
        ("SHOW GAPS FOR t", "show gaps t"),
        ("DESCRIBE t", "describe t"),
        ("DESC TABLE \"T\"", "describe T"),
        ("INSERT INTO sink SELECT * FROM t", "insert into sink"),
        ("INSERT INTO sink (a, b) VALUES (1, 2)", "insert into sink"),
        ("SET datafusion.execution.batch_size = 100", "set datafusion.execution.batch_size = 100"),
        ("SET timezone TO utc", "set timezone = utc"),
    ] {
        reads(sql, expected);
    }
}

#[test]
fn what_is_not_understood_is_named_with_its_place() {
    for (sql, place, expected) in [
        ("SELCT 1", (1, 1, 6), "expected a statement, found `SELCT`; did you mean SELECT?"),
        (
            "  \n42",
            (2, 1, 3),
            "expected a statement, found `42`; \
             known are CREATE, SELECT, WITH, VALUES, SUBSCRIBE, SHOW, DESCRIBE, EXPLAIN, DROP, SET, INSERT",
        ),
        (
            "UPDATE t SET a = 1",
            (1, 1, 7),
            "expected a statement, found `UPDATE`; event streams are read, never written; a view computes from them",
        ),
        (
            "CREATE SINK s",
            (1, 8, 12),
            "expected `TABLE` or `VIEW`, found `SINK`; \
             results leave through a view: CREATE VIEW name AS SELECT …, then SUBSCRIBE name",
        ),
        ("CREATE", (1, 7, 8), "expected `TABLE` or `VIEW`, found the end of the statement"),
        (
            "CREATE TABLE a.b (x INT)",
            (1, 15, 16),
            "'a.b' is a name of several parts; name it \"a.b\" in quotes, or without the dot",
        ),
        ("CREATE TABLE my-table (x INT)", (1, 16, 17), "'my-table' has a dash in it; write it \"my-table\", in double quotes"),
        (
            "CREATE TABLE t (a)",
            (1, 18, 19),
            "expected the type of column 'a', found `)`; such as TEXT, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP or JSON",
        ),
        (
            "CREATE TABLE t (a INT b INT)",
            (1, 23, 24),
            "expected `,` or `)` after a column, found `b`; \
             after the type may stand NOT NULL, PRIMARY KEY, METADATA FROM, GENERATED ALWAYS AS",
        ),
        (
            "CREATE TABLE t (a INT METDATA FROM 'x')",
            (1, 23, 30),
            "expected `,` or `)` after a column, found `METDATA`; did you mean METADATA FROM?",
        ),
        ("CREATE TABLE t (a TEXT METADATA FROM event)", (1, 38, 43), "expected a key such as 'event_type', found `event`"),
        (
            "CREATE TABLE t (a INT, A TEXT)",
            (1, 24, 25),
            "column 'a' is declared twice; names are the same in upper and lower case unless they stand in double quotes",
        ),
        ("CREATE TABLE t (abc INT, PRIMARY KEY (abd))", (1, 39, 42), "column 'abd' is not there; did you mean 'abc'?"),
        (
            "CREATE TABLE t (a TEXT METADATA FROM 'x' AS b)",
            (1, 17, 46),
            "column 'a' takes its values from two places; keep METADATA FROM, or the expression",
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP, WATERMARK FOR ts, WATERMARK FOR ts)",
            (1, 49, 65),
            "a table has one watermark; keep one WATERMARK FOR",
        ),
        (
            "CREATE TABLE t (a INT, UNIQUE (a))",
            (1, 24, 30),
            "a feed cannot promise UNIQUE; leave it out; NOT NULL and PRIMARY KEY are known",
        ),
        ("CREATE TABLE t (a INT", (1, 16, 17), "a bracket is not closed"),
        ("CREATE TABLE t (a INT))", (1, 23, 24), "`)` closes nothing"),
        (
            "CREATE TABLE t AS SELECT 1",
            (1, 16, 18),
            "expected `WITH (connector = …)`, found `AS`; a table made of a query is a view: CREATE VIEW name AS SELECT …",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = sse)",
            (1, 42, 45),
            "expected the value of option 'connector', found `sse`; write it in single quotes: connector = 'sse'",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector 'sse')",
            (1, 40, 45),
            "expected `=` and the value of option 'connector', found a text in quotes",
        ),
        ("CREATE TABLE t (a INT) WITH (a = 'b' 'c')", (1, 38, 41), "expected `,` or `)` in the options, found a text in quotes"),
        ("CREATE VIEW v SELECT 1", (1, 15, 21), "expected `AS`, found `SELECT`"),
        ("CREATE VIEW v AS", (1, 17, 18), "expected a query, found the end of the statement"),
        (
            "CREATE VIEW v (a) AS SELECT 1",
            (1, 15, 16),
            "expected `AS`, found `(`; name the columns in the query: SELECT expression AS name",
        ),
        ("SELECT a,\n  b FORM t", (2, 10, 11), "expected the end of the statement, found `t`"),
        ("SELECT 1\nSELECT 2", (2, 1, 7), "expected the end of the statement, found `SELECT`; is a `;` missing before it?"),
        ("SELECT a FROM t WHERE", (1, 22, 23), "expected an expression, found the end of the statement"),
        ("SELECT a FROM", (1, 14, 15), "expected a name, found the end of the statement"),
        ("SELECT CAST(a INT) FROM t", (1, 15, 18), "expected `AS`, found `INT`"),
        ("EXPLAIN DROP TABLE t", (1, 9, 13), "only a query or a CREATE VIEW can be explained"),
        ("DROP t", (1, 6, 7), "expected `TABLE` or `VIEW`, found `t`"),
        ("SHOW ALL", (1, 6, 9), "expected `TABLES`, `VIEWS`, `CREATE TABLE`, `CREATE VIEW`, `STATUS` or `GAPS`, found `ALL`"),
        ("SHOW TABLES EMIT CHANGES", (1, 13, 25), "`EMIT CHANGES` belongs to a query"),
        ("EMIT CHANGES", (1, 1, 13), "`EMIT CHANGES` stands alone; write it after a query: SELECT … EMIT CHANGES"),
        (
            "SELECT 'abc",
            (1, 8, 9),
            "a text in single quotes does not end; close it with `'`; a quote inside is written twice: `''`",
        ),
        ("SELECT 1 /* x", (1, 14, 15), "a comment does not end; close it with `*/`"),
        ("SELECT \"abc", (1, 8, 9), "a name in quotes does not end"),
        ("SUBSCRIBE", (1, 10, 11), "expected the name of a view, or a query, found the end of the statement"),
    ] {
        refuses(sql, place, expected);
    }
}

#[test]
fn an_error_costs_only_its_own_statement() {
    let (statements, errors) = parse("SELCT 1; SHOW TABLES;;\n-- a comment; with a semicolon\nDROP; SHOW VIEWS; SELECT 'x");
    let shown: Vec<&str> = statements.iter().map(|statement| statement.text.as_str()).collect();
    assert_eq!(shown, ["SHOW TABLES", "SHOW VIEWS"]);
    let lines: Vec<u64> = errors.iter().map(|error| error.span().unwrap().start.line).collect();
    assert_eq!(lines, [1, 3, 3]);
}

#[test]
fn a_statement_keeps_its_words_and_comments_but_not_those_around() {
    let (statements, _) = parse("-- before\r\n/* über */ SELECT  'ü' , -- inside\n 1 ; -- after");
    assert_eq!(statements[0].text, "SELECT  'ü' , -- inside\n 1");
    assert_eq!(statements[0].span.start.column, 12);
    assert_eq!(parse(" \n;; -- nothing"), (vec![], vec![]));
}

#[test]
fn what_is_nested_too_deep_is_an_error() {
    for (open, close) in [
        ("(", ")"),
        ("f(", ")"),
        ("[", "]"),
        ("CASE WHEN ", " THEN 1 END"),
        ("CAST(", " AS INT)"),
        ("INTERVAL ", ""),
        ("INTERVAL (", ")"),
        ("EXISTS (SELECT ", ")"),
        ("1 FROM (SELECT ", ")"),
        ("1 FROM (", ")"),
        ("CASE ", ""),
        ("CASE (", ")"),
        ("POSITION(", ")"),
        ("f(CASE (", "))"),
        ("1 UNION (SELECT ", ")"),
        ("x::STRUCT<a ", ">"),
        ("a[", "]"),
    ] {
        for count in [10_000, 40] {
            let (_, errors) = parse(&format!("SELECT {}1{}", open.repeat(count), close.repeat(count)));
            assert_eq!(errors.len(), 1, "{open}");
        }
    }
    for (open, close) in [("arrow_cast(1, '", "')"), ("\"arrow_try_cast\"(1, $$", "$$)"), ("ARROW_CAST(1, E'", "')")] {
        let (_, errors) = parse(&format!("SELECT {open}{}Utf8{}{close}", "List(".repeat(400), ")".repeat(400)));
        assert_eq!(errors.len(), 1, "{open}");
    }
    one("SELECT arrow_cast(1, 'List(List(Utf8))')");
    for chain in ["+ 1 ", "OR a ", "::INT ", "IS NULL ", "UNION SELECT 1 ", "[1] ", "NATURAL JOIN t ", "-> 'a' "] {
        let (_, errors) = parse(&format!("SELECT 1 FROM t WHERE a {}", chain.repeat(10_000)));
        assert_eq!(errors.len(), 1, "{chain}");
    }
    for prefix in ["NOT ", "- ", "+ ", "EXPLAIN "] {
        let (_, errors) = parse(&format!("SELECT {}1", prefix.repeat(10_000)));
        assert_eq!(errors.len(), 1, "{prefix}");
    }
    // What people write is far from the bounds.
    one(&format!("SELECT {}1{}", "f(".repeat(20), ")".repeat(20)));
    one(&format!("SELECT a FROM t WHERE a IN ({}1)", "1, ".repeat(10_000)));
    one(&format!("SELECT a FROM t WHERE b = 1{}", " OR b = 2".repeat(100)));
}

#[test]
fn a_type_that_is_not_known_is_told_with_its_place() {
    let error = table("CREATE TABLE t (x TEXTT)").columns[0].field().unwrap_err();
    assert_eq!(error.to_string(), "type TEXTT is not known; did you mean TEXT?");
    assert_eq!(error.span().map(|span| (span.start.column, span.end.column)), Some((19, 24)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_soup_of_words_is_read_or_refused_with_a_place(words in prop::collection::vec(word(), 0..40)) {
        let script = words.join(" ");
        let (statements, errors) = parse(&script);
        for statement in &statements {
            prop_assert!(script.contains(&statement.text));
        }
        for error in &errors {
            prop_assert!(error.span().is_some(), "{}", error);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(script in "\\PC{0,80}") {
        parse(&script);
    }
}

fn word() -> impl Strategy<Value = &'static str> {
    const WORDS: &str = "CREATE|TABLE|VIEW|MATERIALIZED|OR REPLACE|IF NOT EXISTS|WITH|AS|SELECT|FROM|WHERE|GROUP BY|ORDER BY|HAVING|\
        EMIT CHANGES|SUBSCRIBE|EXPLAIN|DROP|SHOW|SET|INSERT INTO|DESCRIBE|WATERMARK FOR|METADATA FROM|GENERATED ALWAYS AS|PRIMARY KEY|\
        NOT NULL|TEXT|BIGINT|STRUCT<|ARRAY<|>|[]|INTERVAL|'5 seconds'|OVER|PARTITION BY|CASE|WHEN|THEN|END|CAST|NOT|EXISTS|IN|UNION ALL|\
        JOIN|ON|QUALIFY|a|b|t|\"Q\"|1|2.5|'x'|(|)|(|)|,|,|.|=|+|-|*|;|::|->|[|]|{|}|@|$1|?|:|--\n|/* c */|ü|\n|\r\n|\t|TUMBLE(|window|VALUES|\
        LATERAL|DISTINCT";
    prop::sample::select(WORDS.split('|').collect::<Vec<_>>())
}
