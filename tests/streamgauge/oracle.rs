//! The oracle: after the end of a feed, every windowed view equals a plain batch query over the same rows, whatever the order in which
//! rows came within the delay, the cuts of batches, the shape of the windows, the aggregates, and when results are given.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use streamgauge::change::Changes;
use streamgauge::format::encode::{Encoder, Encoding};
use streamgauge::time::{TimestampArray, UTC};

use super::golden::{Case, Queries};

/// Rows may come so much later than others, and the table waits that long.
const DELAY_MS: i64 = 5_000;

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    ms: i64,
    key: Option<&'static str>,
    value: Option<i64>,
    /// How long it was on its way.
    late_ms: i64,
    /// Whether a batch ends with it.
    cut: bool,
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let row = (
        prop_oneof![4 => 1..500_i64, 2 => 1..4_000_i64, 1 => 4_000..40_000_i64],
        select(vec![Some("a"), Some("b"), Some("a key that is longer than a view"), None]),
        proptest::option::weighted(0.85, -9..10_i64),
        prop_oneof![3 => Just(0), 2 => 0..DELAY_MS],
        proptest::bool::weighted(0.2),
    );
    (-50_000..50_000_i64, proptest::collection::vec(row, 0..most)).prop_map(|(start, rows)| {
        // Around midnight of a day, so that windows begin before and after it.
        let mut ms = 1_772_323_200_000 + start;
        let rows = rows.into_iter().enumerate().map(|(id, (gap, key, value, late_ms, cut))| {
            ms += gap;
            Row { id: id as i64, ms, key, value, late_ms, cut }
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by_key(|row| row.ms + row.late_ms);
        rows
    })
}

/// The events in the order in which they come, cut where the rows say so.
fn feed(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let event = serde_json::json!({"id": row.id, "k": row.key, "v": row.value, "s": row.value.map(|v| format!("s{v}")), "ms": row.ms});
        text += &format!("{event}\n{}", if row.cut { "---\n" } else { "" });
    }
    text
}

/// The same rows as a table `rows` of a plain session.
fn batch(rows: &[Row]) -> SessionContext {
    let session = SessionContext::new();
    let integers = |of: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
    let keys: ArrayRef = Arc::new(rows.iter().map(|row| row.key).collect::<StringArray>());
    let texts: ArrayRef = Arc::new(rows.iter().map(|row| row.value.map(|v| format!("s{v}"))).collect::<StringArray>());
    let times = TimestampArray::from_iter_values(rows.iter().map(|row| row.ms * 1_000_000));
    let times: ArrayRef = Arc::new(times.with_timezone(UTC));
    let columns = [
        ("id", integers(&|row| Some(row.id))),
        ("k", keys),
        ("v", integers(&|row| row.value)),
        ("s", texts),
        ("ms", integers(&|row| Some(row.ms))),
        ("ts", times),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    session.register_batch("rows", batch).unwrap();
    session
}

async fn batch_lines(session: &SessionContext, sql: &str) -> Vec<String> {
    let mut text = Vec::new();
    for batch in session.sql(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}")).collect().await.unwrap() {
        let times = TimestampArray::from_value(0, batch.num_rows());
        let schema = batch.schema();
        Encoder::append_only(Encoding::Ndjson, &schema).write(&Changes::inserts(batch, times), &mut text).unwrap();
    }
    let mut lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_string).collect();
    lines.sort();
    lines
}

/// What remains of a result once its changes are applied, one after the other.
fn settled(out: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    let mut change = |row: &Value, by: i64| {
        let count = counts.entry(row.to_string()).or_default();
        *count += by;
        assert!(*count >= 0, "taken back before it was given: {row}\n{out}");
    };
    for line in out.lines() {
        assert!(line.starts_with('{'), "no row but: {line}");
        let value: Value = serde_json::from_str(line).unwrap();
        match value.get("op") {
            None => change(&value, 1),
            Some(_) => {
                value.get("before").into_iter().for_each(|row| change(row, -1));
                value.get("after").into_iter().for_each(|row| change(row, 1));
            }
        }
    }
    counts.into_iter().flat_map(|(row, count)| std::iter::repeat_n(row, count as usize)).collect()
}

/// Both sides through one reader of JSON, so that only values count.
fn normal(lines: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap().to_string()).collect();
    lines.sort();
    lines
}

#[derive(Debug, Clone)]
enum Shape {
    /// Slide and width in milliseconds; a TUMBLE where both are the same.
    Hop(i64, i64),
    Session(i64),
}

impl Shape {
    fn sql(&self) -> String {
        match self {
            Shape::Hop(slide, width) if slide == width => format!("TUMBLE(INTERVAL '{width} milliseconds')"),
            Shape::Hop(slide, width) => format!("HOP(INTERVAL '{slide} milliseconds', INTERVAL '{width} milliseconds')"),
            Shape::Session(gap) => format!("SESSION(INTERVAL '{gap} milliseconds')"),
        }
    }

    /// `rows` with the window of each row, a row for each of its windows, by arithmetic only.
    fn placed(&self, filter: &str, keys: &[&str]) -> String {
        let window = |start: &str, end: &str| {
            let time = |ms: &str| format!("arrow_cast(to_timestamp_millis({ms}), 'Timestamp(ns, \"UTC\")')");
            format!("named_struct('start', {}, 'end', {}) AS window", time(start), time(end))
        };
        match self {
            Shape::Hop(slide, width) => {
                let offsets: Vec<String> = (0..width / slide).map(|n| format!("({})", n * slide)).collect();
                let start = format!("(ms - ((ms % {slide}) + {slide}) % {slide} - back)");
                format!(
                    "SELECT rows.*, {} FROM rows CROSS JOIN (VALUES {}) AS o(back) WHERE {filter}",
                    window(&start, &format!("({start} + {width})")),
                    offsets.join(", ")
                )
            }
            Shape::Session(gap) => {
                let by = if keys.is_empty() { String::new() } else { format!("PARTITION BY {}", keys.join(", ")) };
                let with = |more: &str| keys.iter().copied().chain([more]).collect::<Vec<_>>().join(", ");
                format!(
                    "SELECT *, {} FROM (SELECT *, min(ms) OVER (PARTITION BY {session}) AS first, max(ms) OVER (PARTITION BY {session}) AS last
                     FROM (SELECT *, sum(fresh) OVER ({by} ORDER BY ms ROWS UNBOUNDED PRECEDING) AS number
                     FROM (SELECT rows.*, CASE WHEN ms - LAG(ms) OVER ({by} ORDER BY ms) < {gap} THEN 0 ELSE 1 END AS fresh
                     FROM rows WHERE {filter})))",
                    window("first", &format!("(last + {gap})")),
                    session = with("number"),
                )
            }
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        select(vec![1, 700, 1_000, 10_000, 3_600_000]).prop_map(|width| Shape::Hop(width, width)),
        (select(vec![250, 1_000, 7_000]), 2..9_i64).prop_map(|(slide, times)| Shape::Hop(slide, slide * times)),
        select(vec![1, 300, 2_000, 15_000]).prop_map(Shape::Session),
    ]
}

/// Aggregates whose result does not hang on the order of rows, unless they say which.
const AGGREGATES: &[&str] = &[
    "count(v)",
    "sum(v)",
    "min(v)",
    "max(v)",
    "avg(v)",
    "count(DISTINCT v)",
    "sum(DISTINCT v)",
    "count(DISTINCT s)",
    "sum(v) FILTER (WHERE v % 2 = 0)",
    "count(*) FILTER (WHERE s IS NULL)",
    "array_agg(v ORDER BY id)",
    "array_agg(DISTINCT v ORDER BY v)",
    "first_value(v ORDER BY ts)",
    "last_value(s ORDER BY id DESC)",
    "nth_value(v, 2 ORDER BY id)",
    "string_agg(s, ',' ORDER BY id)",
    "min(s)",
    "max(k)",
    "median(v)",
    "bool_or(v > 3)",
    "bit_xor(v)",
    "max(ts)",
    "sum(CASE WHEN v > 0 THEN 1 ELSE -1 END)",
    "sum(v) * 10 + count(*)",
];

#[derive(Debug, Clone)]
struct Question {
    shape: Shape,
    keys: Vec<&'static str>,
    aggregates: Vec<&'static str>,
    filter: &'static str,
    having: &'static str,
    above: &'static str,
    options: &'static str,
}

/// What may stand above the windows, over a table `w` with `n`, `window` and perhaps keys.
const ABOVE: &[&str] = &[
    "SELECT * FROM w",
    "SELECT * FROM w WHERE n > 1",
    "SELECT sum(n) AS total, count(*) AS groups, window FROM w GROUP BY window",
    "SELECT window, max(n) AS most FROM w GROUP BY window HAVING count(*) > 1",
    "SELECT DISTINCT window FROM w",
    "SELECT n, window FROM (SELECT n, window, ROW_NUMBER() OVER (PARTITION BY window ORDER BY n DESC) AS place FROM w) WHERE place <= 2",
    "SELECT n, rank() OVER (PARTITION BY window ORDER BY n) AS place, window FROM w",
    "SELECT window['start'] AS start, sum(n) AS total FROM w GROUP BY window['start']",
];

fn question() -> impl Strategy<Value = Question> {
    let keys = select(vec![vec![], vec!["k"], vec!["k", "v % 2"], vec!["upper(s)", "k"]]);
    let options = select(vec![
        "",
        "",
        "WITH (emit = 'changes')",
        "WITH (emit = 'changes', emit_interval = '10s')",
        "WITH (allowed_lateness = '3s')",
        "WITH (emit = 'changes', emit_interval = '100ms', allowed_lateness = '1m')",
    ]);
    let filter = select(vec!["true", "true", "v IS NOT NULL", "v > 0 OR k = 'a'"]);
    let having = select(vec!["", "", "HAVING count(*) > 1", "HAVING max(v) > 2 AND count(v) < 9"]);
    (shape(), keys, subsequence(AGGREGATES, 0..5), filter, having, select(ABOVE), options)
        .prop_map(|(shape, keys, aggregates, filter, having, above, options)| Question {
            shape,
            keys,
            aggregates,
            filter,
            having,
            above,
            options,
        })
        .prop_filter("corrections of sessions are not ranked inside", |question| {
            !(matches!(question.shape, Shape::Session(_))
                && !question.options.is_empty()
                && !question.above.starts_with("SELECT * "))
        })
}

impl Question {
    fn select(&self, window: &str, from: &str, by: &str) -> String {
        let keys = self.keys.iter().enumerate().map(|(index, key)| format!("{key} AS key{index}"));
        let aggregates = self.aggregates.iter().enumerate().map(|(index, aggregate)| format!("{aggregate} AS a{index}"));
        let columns: Vec<String> = keys.chain(["count(*) AS n".into()]).chain(aggregates).chain([window.into()]).collect();
        let group: Vec<&str> = self.keys.iter().copied().chain([by]).collect();
        format!("SELECT {} FROM {from} GROUP BY {} {}", columns.join(", "), group.join(", "), self.having)
    }

    fn streaming(&self) -> String {
        let windows = self.select(&format!("{} AS window", self.shape.sql()), &format!("rows WHERE {}", self.filter), "window");
        format!("CREATE VIEW answer {} AS WITH w AS ({windows}) {}", self.options, self.above)
    }

    fn batch(&self) -> String {
        let windows = self.select("window", &format!("({})", self.shape.placed(self.filter, &self.keys)), "window");
        format!("WITH w AS ({windows}) {}", self.above)
    }
}

/// The answer of the engine, through text and a feed over HTTP.
async fn streamed(rows: &[Row], sql: &str, name: &str) -> String {
    let mut case = Case::new();
    case.feed("rows.ndjson", &feed(rows));
    let table = format!(
        "CREATE TABLE rows (id BIGINT, k TEXT, v BIGINT, s TEXT, ms BIGINT, ts TIMESTAMP AS (to_timestamp_millis(ms)),
         WATERMARK FOR ts AS ts - INTERVAL '{DELAY_MS} milliseconds') WITH (connector = 'sse', endpoint = 'http://feed/rows.ndjson')"
    );
    let made = case.sql(&format!("{table};\n{sql}"), Queries::Run).await;
    match name {
        "" => made,
        _ => made + &case.views().await,
    }
}

fn check<T: std::fmt::Debug>(cases: u32, strategy: impl Strategy<Value = T>, test: impl Fn(T) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&strategy, test).unwrap();
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// L-44, and all of it that stands above the windows.
#[test]
fn every_windowed_view_equals_the_batch_query_over_the_same_rows() {
    check(64, (rows(80), question()), |(rows, question)| {
        let (found, expected) = wait(async {
            let found = streamed(&rows, &question.streaming(), "answer").await;
            (normal(settled(&found)), normal(batch_lines(&batch(&rows), &question.batch()).await))
        });
        prop_assert_eq!(found, expected, "{}", question.streaming());
        Ok(())
    });
}

/// Window functions go by event time, in whatever order the rows come.
#[test]
fn window_functions_over_a_stream_equal_the_batch_query() {
    const FUNCTIONS: &[&str] = &[
        "LAG(v) OVER (PARTITION BY k ORDER BY ts)",
        "LAG(s, 3, 'none') OVER (PARTITION BY k ORDER BY ts)",
        "LEAD(v, 2) OVER (PARTITION BY k ORDER BY ts)",
        "ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts)",
        "FIRST_VALUE(v) OVER (PARTITION BY k ORDER BY ts)",
        "LAST_VALUE(v) OVER (PARTITION BY k ORDER BY ts)",
        "sum(v) OVER (PARTITION BY k ORDER BY ts)",
        "count(v) OVER (ORDER BY ts ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)",
        "max(v) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING)",
        "min(v) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW)",
        "avg(v) OVER (PARTITION BY k, v % 2 ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
    ];
    check(32, (rows(60), subsequence(FUNCTIONS, 1..4)), |(rows, functions)| {
        let columns: Vec<String> =
            functions.iter().enumerate().map(|(index, function)| format!("{function} AS f{index}")).collect();
        let sql = format!("SELECT id, k, {} FROM rows", columns.join(", "));
        let (found, expected) =
            wait(async { (normal(settled(&streamed(&rows, &sql, "").await)), normal(batch_lines(&batch(&rows), &sql).await)) });
        prop_assert_eq!(found, expected, "{}", sql);
        Ok(())
    });
}

/// A window over a window: the results of the first are rows of the second, at the last moment of their windows.
#[test]
fn a_window_over_a_window_equals_the_batch_query() {
    check(32, (rows(80), shape(), shape()), |(rows, inner, outer)| {
        let streaming = format!(
            "CREATE VIEW answer AS SELECT key, sum(n) AS n, max(most) AS most, count(*) AS parts, {} AS window FROM (
             SELECT k AS key, count(*) AS n, max(v) AS most, {} AS inside FROM rows GROUP BY k, inside) GROUP BY key, window",
            outer.sql(),
            inner.sql(),
        );
        let (found, expected) = wait(async {
            let found = settled(&streamed(&rows, &streaming, "answer").await);
            let session = batch(&rows);
            // The last nanosecond of a window lies in the same windows as its last millisecond, for lengths of whole milliseconds.
            let inside = format!(
                "SELECT k, count(*) AS n, max(v) AS most, window['end'] AS e FROM ({}) GROUP BY k, window",
                inner.placed("true", &["k"])
            );
            let first = session
                .sql(&format!("SELECT k, n, most AS v, 0 AS id, '' AS s, e AS ts, CAST(to_unixtime(e) * 1000 + date_part('millisecond', e) % 1000 - 1 AS BIGINT) AS ms FROM ({inside})"))
                .await
                .unwrap()
                .collect()
                .await
                .unwrap();
            let second = SessionContext::new();
            if let Some(schema) = first.first().map(RecordBatch::schema) {
                second.register_batch("rows", arrow::compute::concat_batches(&schema, &first).unwrap()).unwrap();
                let nanos = matches!(outer, Shape::Session(_));
                let sql = format!(
                    "SELECT k AS key, sum(n) AS n, max(v) AS most, count(*) AS parts, {} FROM ({}) GROUP BY k, window",
                    if nanos {
                        "named_struct('start', window['start'] + INTERVAL '999999 nanoseconds', 'end', window['end'] + INTERVAL '999999 nanoseconds') AS window"
                    } else {
                        "window"
                    },
                    outer.placed("true", &["k"])
                );
                (normal(found), normal(batch_lines(&second, &sql).await))
            } else {
                (normal(found), Vec::new())
            }
        });
        prop_assert_eq!(found, expected, "{}", streaming);
        Ok(())
    });
}
