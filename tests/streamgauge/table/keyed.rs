//! Keyed tables from outside: a recorded change feed, the key of a plan, and what a plain session says of them.

use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

use super::{engine, open, query, rest};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/database_changes.ndjson")
}

fn gauges(source: &str) -> String {
    format!(
        "CREATE TABLE gauges (id INT PRIMARY KEY, name TEXT, value DECIMAL(10, 2), updated_at TIMESTAMP, WATERMARK FOR updated_at)
         WITH ({source}, format = 'wal2json', table = 'public.gauges');"
    )
}

fn file() -> String {
    format!("connector = 'file', path = '{}'", fixture().display())
}

#[tokio::test]
async fn a_recorded_change_feed_is_a_table_of_its_rows() {
    let engine = engine(&gauges(&file())).await;
    let high = rest(&mut open(&engine, "SELECT name, value FROM gauges WHERE value > 4 AND id < 3").await).await;
    assert_eq!(
        high,
        [
            "+ name=inflow, value=12.50",
            "- name=inflow, value=12.50",
            "+ name=inflow, value=18.25",
            "+ name=level, value=4.60",
            "- name=level, value=4.60",
            "+ name=level, value=5.20",
            "- name=inflow, value=18.25",
            "+ name=inflow, value=11.00",
            "- name=level, value=5.20",
        ]
    );
    let joined = "SELECT id, value FROM gauges AS g JOIN (VALUES (1), (2)) AS v(n) ON n = id WHERE value < 3.5";
    let joined = rest(&mut open(&engine, joined).await).await;
    assert_eq!(joined, ["+ id=2, value=3.10", "- id=2, value=3.10", "+ id=2, value=3.40"]);
}

#[tokio::test]
async fn a_plan_knows_its_key_as_long_as_all_of_it_is_there() {
    let tables = gauges(&file())
        + &format!("CREATE TABLE pairs (a INT, b TEXT, v INT, PRIMARY KEY (b, a)) WITH ({});", file())
        + &format!("CREATE TABLE events (k TEXT, v INT, ts TIMESTAMP, WATERMARK FOR ts) WITH ({});", file());
    let engine = engine(&tables).await;
    for (sql, key) in [
        ("SELECT * FROM gauges", Some(vec![0])),
        ("SELECT value, id FROM gauges WHERE value > 1", Some(vec![1])),
        ("SELECT name, id AS number FROM gauges", Some(vec![1])),
        ("SELECT v + 1 AS v, n FROM (SELECT value AS v, id AS n FROM gauges) AS g WHERE n > 0", Some(vec![1])),
        ("SELECT name FROM gauges", None),
        ("SELECT id + 1 AS id, name FROM gauges", None),
        ("SELECT v, b, a FROM pairs", Some(vec![2, 1])),
        ("SELECT v, a FROM pairs", None),
        ("SELECT id FROM gauges UNION ALL SELECT a FROM pairs", None),
        ("SELECT id FROM gauges JOIN (VALUES (1)) AS t(n) ON n = id", None),
        ("SELECT * FROM events", None),
        ("SELECT count(*) AS n, k, TUMBLE(INTERVAL '1 s') AS w FROM events GROUP BY k, w", Some(vec![1, 2])),
        (
            "SELECT count(*) AS n, k, TUMBLE(INTERVAL '1 s') AS w FROM events GROUP BY w, k HAVING count(*) > 1 ORDER BY n LIMIT 1",
            Some(vec![2, 1]),
        ),
        ("SELECT count(*) AS n, TUMBLE(INTERVAL '1 s') AS w FROM events GROUP BY k, w", None),
        ("SELECT k, count(*) AS n FROM events GROUP BY k, TUMBLE(INTERVAL '1 s')", None),
        (
            "SELECT w, sum(n) AS n FROM (SELECT count(*) AS n, k, TUMBLE(INTERVAL '1 s') AS w FROM events GROUP BY k, w) AS t GROUP BY w",
            Some(vec![0]),
        ),
    ] {
        let query = query(&engine, sql).await;
        let found = query.continuous().expect(sql).plan().key();
        match &key {
            // In the order of the grouping, which the planner may choose.
            Some(key) if sql.contains("GROUP BY") => {
                let mut found = found.expect(sql);
                found.sort_unstable();
                let mut key = key.clone();
                key.sort_unstable();
                assert_eq!(found, key, "{sql}");
            }
            _ => assert_eq!(found, key, "{sql}"),
        }
    }
}

#[tokio::test]
async fn a_plain_session_reads_what_is_left_at_the_end_and_no_changes() {
    let session = SessionContext::new();
    streamgauge::register(&session).unwrap();
    streamgauge::create_table(&session, &gauges(&file())).unwrap();
    let refused = async { session.sql("SELECT name FROM gauges").await?.collect().await };
    let text = refused.await.err().unwrap().to_string();
    assert!(text.contains("corrected later") && text.contains("PRIMARY KEY"), "{text}");
    let rows = session.sql("SELECT count(*) AS n FROM gauges").await.unwrap().collect().await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 2);
    // A session that knows nothing of streams refuses an endless one, too.
    let plain = SessionContext::new();
    streamgauge::create_table(&plain, &gauges("connector = 'sse', endpoint = 'http://127.0.0.1:9'")).unwrap();
    let refused = async { plain.sql("SELECT name FROM gauges").await?.collect().await };
    let text = refused.await.err().unwrap().to_string();
    assert!(text.contains("the rows of table 'gauges' change"), "{text}");
}
