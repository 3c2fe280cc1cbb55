//! What users and servers do wrong, against the program as a process: the message, where it points, and the exit code.

use crate::cli::program::run;
use crate::support::server::{Answer, Server, file};

/// A script over one file of events.
struct Case {
    directory: tempfile::TempDir,
    script: String,
}

impl Case {
    /// A table `t` with `columns` over `events`, one a line.
    fn file(columns: &str, events: &str) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), "events.ndjson", events.as_bytes());
        let table = format!("CREATE TABLE t ({columns}) WITH (connector = 'file', path = '{}');", path.display());
        Case::script(directory, &table)
    }

    /// A table `t` with an endless feed that is never read.
    fn endless(columns: &str) -> Case {
        let table = format!("CREATE TABLE t ({columns}) WITH (connector = 'sse', endpoint = 'http://127.0.0.1:9/');");
        Case::script(tempfile::tempdir().unwrap(), &table)
    }

    fn script(directory: tempfile::TempDir, text: &str) -> Case {
        let script = file(directory.path(), "script.sql", text.as_bytes()).display().to_string();
        Case { directory, script }
    }

    async fn run(&self, sql: &str) -> (i32, String, String) {
        run(&["run", &self.script, "-c", sql]).await
    }

    /// The statement is refused with all of these texts.
    async fn refuses(&self, sql: &str, expect: &[&str]) {
        let (code, out, err) = self.run(sql).await;
        assert_eq!((code, out.as_str()), (2, ""), "{sql}: {err}");
        for text in expect {
            assert!(err.contains(text), "{sql}: {text} is not in\n{err}");
        }
        assert!(!err.contains("IntervalMonthDayNano") && !err.contains("Physical plan"), "{err}");
    }
}

const EVENTS: &str = r#"{"k":"a","v":10,"ts":"2026-03-01T12:00:01Z","x":{"n":7,"s":"A"}}
{"k":"b","v":0,"ts":"2026-03-01T12:00:02Z","x":{"n":3}}
{"k":"a","v":5,"ts":"2026-03-01T12:00:12Z","x":{"n":9,"s":"C"}}"#;

const COLUMNS: &str = "k TEXT, v BIGINT, ts TIMESTAMP, x JSON, WATERMARK FOR ts";

#[tokio::test]
async fn a_division_by_zero_costs_one_row_wherever_it_stands() {
    let case = Case::file(COLUMNS, EVENTS);
    let window = "TUMBLE(INTERVAL '10 seconds') AS window FROM t GROUP BY k, window";
    for (sql, rows) in [
        ("SELECT k, 10 / v AS y FROM t", 2),
        ("SELECT k FROM t WHERE 10 / v > 0", 2),
        // The row is lost to this sum; its group is there.
        (&format!("SELECT k, sum(10 / v) AS y, {window}"), 3),
        (&format!("SELECT k, 10 / sum(v) AS y, {window}"), 2),
        (&format!("SELECT k, {window} HAVING 10 / sum(v) > 0"), 2),
        (&format!("SELECT k, 10 / sum(v) AS y, {window} ORDER BY y DESC LIMIT 5"), 2),
        ("SELECT k, lag(10 / v) OVER (PARTITION BY k ORDER BY ts) AS y FROM t", 2),
    ] {
        let (code, out, err) = case.run(sql).await;
        assert_eq!((code, out.lines().count()), (0, rows), "{sql}: {out}{err}");
        assert!(err.contains("rows that could not be computed: 1; the last: division by zero"), "{sql}: {err}");
        assert!(!err.contains("Interval"), "{err}");
    }
}

#[tokio::test]
async fn json_operators_are_read_as_in_postgresql() {
    let case = Case::file(COLUMNS, EVENTS);
    for (condition, rows) in [
        ("x ->> 's' = 'A'", 1),
        ("x ->> 's' IS NULL", 1),
        ("x ->> 's' IN ('A', 'C')", 2),
        ("x ->> 's' BETWEEN 'A' AND 'B'", 1),
        ("NOT x ->> 's' LIKE 'A%'", 1),
        ("CAST(x ->> 'n' AS BIGINT) > 5", 2),
        ("x ->> 's' || '!' = 'C!'", 1),
    ] {
        let (code, out, err) = case.run(&format!("SELECT k FROM t WHERE {condition}")).await;
        assert_eq!((code, out.lines().count()), (0, rows), "{condition}: {out}{err}");
    }
}

#[tokio::test]
async fn an_order_that_a_stream_has_not_is_refused_and_that_of_arrival_is_told() {
    let timed = Case::endless("k TEXT, v BIGINT, ts TIMESTAMP, other TIMESTAMP, WATERMARK FOR ts");
    timed.refuses("SELECT lag(v) OVER (ORDER BY v) FROM t", &["ORDER BY v in an OVER", "event time", "-c:1:8"]).await;
    timed.refuses("SELECT lag(v) OVER (ORDER BY other) FROM t", &["WATERMARK FOR other"]).await;
    timed.refuses("SELECT lag(v) OVER (ORDER BY ts DESC) FROM t", &["order ascending"]).await;
    let events = Case::file("k TEXT, v BIGINT, ts TIMESTAMP", EVENTS);
    let (code, out, err) = events.run("CREATE VIEW o AS SELECT lag(v) OVER (ORDER BY ts) AS l FROM t").await;
    assert_eq!((code, out.as_str()), (0, "{\"l\":null}\n{\"l\":10}\n{\"l\":0}\n"), "{err}");
    let expect =
        "note: view o: ORDER BY ts: rows are taken in the order of arrival; declare WATERMARK FOR ts to put them in order";
    assert!(err.contains(expect), "{err}");
}

#[tokio::test]
async fn what_an_endless_query_cannot_do_is_refused_with_a_way_out() {
    let case = Case::endless("k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts");
    for (sql, expect) in [
        ("SELECT DISTINCT k FROM t", &["DISTINCT", "GROUP BY k, window"][..]),
        ("SELECT k, count(*) FROM t GROUP BY k", &["give it a window"]),
        ("SELECT k FROM t ORDER BY v", &["cannot be sorted"]),
        ("SELECT k FROM t WHERE v > (SELECT max(v) FROM t)", &["a subquery in the place of a value", "JOIN"]),
        ("SELECT a.k FROM t a JOIN t b ON a.k = b.k", &["join of two streams"]),
        ("SELECT z.n, t.k FROM (VALUES ('a', 5)) AS z(s, n) LEFT JOIN t ON t.k = z.s", &["a LEFT join"]),
        ("SELECT count(*), TUMBLE(INTERVAL '5 secnds') AS w FROM t GROUP BY w", &["'5 secnds' is no interval", "-c:1:34"]),
        ("SELECT count(*), HOP(INTERVAL '7 s', INTERVAL '1 m') AS w FROM t GROUP BY w", &["no multiple", "-c:1:18"]),
        ("SELECT sum(v) OVER (q ROWS 1 PRECEDING) FROM t", &["there is no window 'q'"]),
        ("INSERT INTO t VALUES (1)", &["flow from the server to its clients only"]),
        ("SELECT * FROM my-view", &["\"my-view\""]),
        ("SET datafusion.execution.batch_sze = 1", &["did you mean datafusion.execution.batch_size?"]),
        ("CREATE OR REPLACE VIEW v AS SELECT k FROM t; CREATE OR REPLACE VIEW v AS SELECT k FROM v", &["reads from itself"]),
    ] {
        case.refuses(sql, expect).await;
    }
}

#[tokio::test]
async fn options_are_named_with_their_place_and_the_way_out() {
    for (options, expect) in [
        ("connector = 'sse', endpont = 'http://x/'", &["'endpont'", "did you mean 'endpoint'?"][..]),
        ("connector = 'sse', endpoint = 'http://x/', type = 'sink'", &["cannot be a sink", "script.sql:1:74"]),
        ("connector = 'sse', endpoint = 'http://x/', path = 'x'", &["option 'path' means nothing to connector 'sse'"]),
        ("connector = 'file', path = 'x', endpoint = 'http://x/'", &["option 'endpoint' means nothing to connector 'file'"]),
        ("connector = 'sse', endpoint = 'http://x/', headers = 'Authorization'", &["option 'headers'", "script.sql:1:74"]),
        ("connector = 'sse', endpoint = 'http://{{ HOST }}/'", &["a variable where the host or port stands"]),
    ] {
        let case = Case::script(tempfile::tempdir().unwrap(), &format!("CREATE TABLE t (k TEXT) WITH ({options});"));
        let (code, out, err) = run(&["check", &case.script]).await;
        assert_eq!((code, out.as_str()), (2, ""), "{options}: {err}");
        for text in expect {
            assert!(err.contains(text), "{options}: {text} is not in\n{err}");
        }
    }
}

#[tokio::test]
async fn one_failed_feed_costs_only_its_own_views() {
    let good = Server::start([Answer::stream().text("data: {\"k\":\"a\"}\n\n")]).await;
    let gone = Server::start([Answer::status(404)]).await;
    let table = |name: &str, url: String| {
        format!("CREATE TABLE {name} (k TEXT) WITH (connector = 'sse', endpoint = '{url}', reconnect = 'false');")
    };
    let views =
        "CREATE VIEW va AS SELECT k FROM a; CREATE VIEW va2 AS SELECT upper(k) AS k FROM a; CREATE VIEW vb AS SELECT k FROM b;";
    let script = format!("{}{}{views}", table("a", gone.url()), table("b", good.url()));
    let case = Case::script(tempfile::tempdir().unwrap(), &script);
    let (code, out, err) = run(&["run", &case.script]).await;
    assert_eq!((code, out.as_str()), (1, "{\"_view\":\"vb\",\"k\":\"a\"}\n"), "{err}");
    assert_eq!(err.matches("404 Not Found").count(), 1, "{err}");
}

#[tokio::test]
async fn scripts_of_all_kinds_are_read_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (script, code, out, expect) in [
        (&b"\xef\xbb\xbfSELECT 1 AS a;\r\n;;\r\n"[..], 0, "{\"a\":1}\n", ""),
        (b"-- nothing\n/* at all */", 0, "", "nothing to print"),
        (b"", 0, "", "nothing to print"),
        (b"SELECT 1 AS a; SELECT 2 AS b; SELEC 3;\nSELECT x FROM y", 2, "", "did you mean SELECT?"),
        (b"SELECT \xff", 2, "", "byte 8 is no UTF-8 text"),
        (b"SELECT 1/0 AS a", 1, "", "division by zero"),
        (b"SELECT 1 + 1", 0, "{\"1 + 1\":2}\n", ""),
    ] {
        let path = file(directory.path(), "script.sql", script).display().to_string();
        let (found, rows, err) = run(&["run", &path]).await;
        assert_eq!((found, rows.as_str()), (code, out), "{}: {err}", String::from_utf8_lossy(script));
        assert!(err.contains(expect), "{err}");
    }
    for path in [directory.path().display().to_string(), directory.path().join("missing.sql").display().to_string()] {
        let (code, _, err) = run(&["run", &path]).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("cannot be read"), "{err}");
    }
}

#[tokio::test]
async fn columns_may_be_called_like_words_of_sql() {
    let events = r#"{"user":"ann","offset":3,"groups":"g","timestamp":"2026-03-01T12:00:01Z","value":5,"source":"s","data":{"a":1},"window":"w"}"#;
    let columns = "user TEXT, offset BIGINT, groups TEXT, timestamp TIMESTAMP, value BIGINT, source TEXT, data JSON, window TEXT, \
                   WATERMARK FOR timestamp";
    let case = Case::file(columns, events);
    case.refuses("SELECT user, offset, value FROM t", &["as a name it stands in double quotes: \"offset\""]).await;
    let (code, out, err) =
        case.run("SELECT user, \"offset\", groups, value, source, data, window FROM t WHERE user = 'ann'").await;
    let row =
        "{\"user\":\"ann\",\"offset\":3,\"groups\":\"g\",\"value\":5,\"source\":\"s\",\"data\":{\"a\":1},\"window\":\"w\"}\n";
    assert_eq!((code, out.as_str()), (0, row), "{err}");
    let (code, out, err) =
        case.run("SELECT user, sum(value) AS sum, TUMBLE(INTERVAL '1 minute') AS window FROM t GROUP BY user, window").await;
    let row = "{\"user\":\"ann\",\"sum\":5,\"window\":{\"start\":\"2026-03-01T12:00:00Z\",\"end\":\"2026-03-01T12:01:00Z\"}}\n";
    assert_eq!((code, out.as_str()), (0, row), "{err}");
    let without = Case::file("k TEXT", "{}");
    without.refuses("SELECT user FROM t", &["column 'user' is not there", "-c:1:8"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_filled_in_never_shows() {
    let server = Server::start([Answer::status(401)]).await;
    let table = format!(
        "CREATE TABLE t (k TEXT) WITH (connector = 'sse', endpoint = '{}', headers = 'Authorization: Bearer {{{{ BAD_INPUT_TOKEN }}}}, X-Other: {{{{ BAD_INPUT_UNSET }}}}');",
        server.url()
    );
    let case = Case::script(tempfile::tempdir().unwrap(), &table);
    let command = || {
        let mut command = crate::cli::program::program();
        command.env("BAD_INPUT_TOKEN", "s3cr3t").env("RUST_LOG", "trace");
        command.args(["-vvv", "run", &case.script, "-c", "SELECT * FROM t"]);
        command
    };
    let (mut unset, mut set) = (command(), command());
    set.env("BAD_INPUT_UNSET", "t0pz3cr3t");
    for (command, code, expect) in [(&mut unset, 2, "BAD_INPUT_UNSET, which is not set"), (&mut set, 1, "401 Unauthorized")] {
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.contains(expect), "{err}");
        assert!(!err.contains("s3cr3t") && !err.contains("t0pz3cr3t") && output.stdout.is_empty(), "{err}");
    }
    drop(case.directory);
}

#[tokio::test]
async fn lines_of_explain_are_for_people() {
    let case = Case::endless("k TEXT, v BIGINT, ts TIMESTAMP, WATERMARK FOR ts");
    for query in [
        "SELECT k, avg(v) + 1 AS a, TUMBLE(INTERVAL '10 seconds') AS window FROM t GROUP BY k, window HAVING count(*) > 1",
        "SELECT k, avg(v) AS a, HOP(INTERVAL '5 seconds', INTERVAL '10 seconds') AS window FROM t GROUP BY k, window ORDER BY a LIMIT 3",
    ] {
        let (code, out, err) = case.run(&format!("EXPLAIN {query}")).await;
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("(10s)") || out.contains("HOP(5s, 10s)"), "{out}");
        assert!(!out.contains('@') && !out.contains("Int64(") && !out.contains("Interval"), "{out}");
    }
}
