//! The statements of the source documents, as written but for their endpoints, which are pointed at a scripted server; run by the program
//! with the variables of their headers set. The scripts stand in `seeds/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::cli::program::program;
use super::support::server::{Answer, Request, Server};

/// A table of the documents: its script, the endpoint to replace, the header that must come, and the variable in it.
struct Seed {
    script: &'static str,
    endpoint: &'static str,
    header: (&'static str, &'static str),
    variable: &'static str,
}

/// What every variable is set to.
const SECRET: &str = "s3cret,with:signs";

/// Runs a script and a query over one stream; gives the rows and the first request.
async fn run(seed: &Seed, stream: &str, query: &str) -> (Vec<Value>, Request) {
    let (name, value) = seed.header;
    let expected = value.replace("{}", SECRET);
    // What is there at once is one batch, so that all of it arrives at one time.
    let answer = Answer::stream().text(&format!("retry: 1\n\n{stream}"));
    let first = Answer::by(move |request| match name.is_empty() || request.header(name) == Some(&expected) {
        true => answer.clone(),
        false => Answer::status(401),
    });
    let server = Server::start([first, Answer::status(204)]).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streamgauge/seeds").join(seed.script);
    let script = std::fs::read_to_string(path).unwrap();
    assert!(script.contains(seed.endpoint), "{}", seed.script);
    let script = script.replace(seed.endpoint, &server.url());
    let mut command = program();
    let file = written(&format!("{script}\n{query}"));
    command.arg("run").arg(file.path());
    if !seed.variable.is_empty() {
        command.env(seed.variable, SECRET);
    }
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "L-58: {out}{err}");
    let rows = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (rows, server.request(0).await)
}

/// A script as a file that goes with the value.
fn written(script: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    file
}

fn events(events: &[(&str, Value)]) -> String {
    events
        .iter()
        .map(|(kind, data)| match *kind {
            "" => format!("data: {data}\n\n"),
            kind => format!("event: {kind}\ndata: {data}\n\n"),
        })
        .collect()
}

/// The rows without their windows, which go by the time of arrival.
fn without_window(rows: Vec<Value>) -> Vec<Value> {
    let window = |mut row: Value| {
        let window = row.as_object_mut().unwrap().remove("window").unwrap();
        assert!(window["start"].is_string() && window["end"].is_string(), "L-42: {window}");
        row
    };
    rows.into_iter().map(window).collect()
}

const AT: &str = "2026-03-01T12:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn l27_sse_events_takes_its_columns_from_the_payload() {
    let seed = Seed { script: "sse_events.sql", endpoint: "https://stream.example.com/events", header: ("", ""), variable: "" };
    // L-46: without `events` all count, those without a type too.
    let stream = events(&[
        ("tick", json!({"id": 1, "event_type": "own", "data": {"a": [1, 2]}, "timestamp": AT})),
        ("", json!({"id": 2, "timestamp": AT, "unknown": {"deep": []}})),
    ]);
    let (rows, request) = run(&seed, &stream, "SELECT * FROM sse_events").await;
    assert_eq!(
        rows,
        [
            json!({"id": 1, "event_type": "own", "data": {"a": [1, 2]}, "timestamp": AT}),
            json!({"id": 2, "event_type": null, "data": null, "timestamp": AT}),
        ]
    );
    // L-61.
    assert_eq!(request.header("accept"), Some("text/event-stream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn l28_filtered_events_keeps_three_types_and_sends_two_headers() {
    let seed = Seed {
        script: "filtered_events.sql",
        endpoint: "https://api.service.com/sse",
        header: ("authorization", "Bearer {}"),
        variable: "API_TOKEN",
    };
    let event = |id: &str| json!({"event_id": id, "category": "c", "payload": {"x": id}, "timestamp": AT});
    // L-49: types are told apart by case.
    let kinds = ["user_action", "other", "system_event", "User_Action", "notification", ""];
    let stream: Vec<(&str, Value)> = kinds.iter().map(|kind| (*kind, event(kind))).collect();
    let (rows, request) = run(&seed, &events(&stream), "SELECT event_id, payload ->> 'x' AS x FROM filtered_events").await;
    let expected = ["user_action", "system_event", "notification"].map(|id| json!({"event_id": id, "x": id}));
    assert_eq!(rows, expected);
    // L-52, L-55: split first, filled in after.
    assert_eq!(request.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
}

#[tokio::test(flavor = "multi_thread")]
async fn l29_l30_rolling_metrics_counts_every_row_in_six_windows() {
    let seed = Seed {
        script: "rolling_metrics.sql",
        endpoint: "https://analytics.app.com/realtime",
        header: ("x-api-key", "{}"),
        variable: "ANALYTICS_KEY",
    };
    let metric = |name: &str, value: f64| {
        ("metric_update", json!({"metric_name": name, "value": value, "dimensions": {"host": "a"}, "timestamp": AT}))
    };
    let stream = events(&[
        metric("cpu", 1.5),
        metric("cpu", 4.5),
        metric("mem", 7.0),
        ("other", json!({"metric_name": "cpu", "value": 99})),
    ]);
    let (rows, _) = run(&seed, &stream, "").await;
    let mut points: BTreeMap<String, i64> = BTreeMap::new();
    let mut windows = BTreeSet::new();
    for row in &rows {
        let name = row["metric_name"].as_str().unwrap();
        *points.entry(name.into()).or_default() += row["data_points"].as_i64().unwrap();
        windows.insert((name, row["window"]["start"].as_str().unwrap()));
        let value = |key: &str| row[key].as_f64().unwrap();
        assert!(value("min_value") <= value("avg_value") && value("avg_value") <= value("max_value"), "{row}");
    }
    assert_eq!(points, BTreeMap::from([("cpu".into(), 12), ("mem".into(), 6)]));
    assert_eq!(windows.len(), rows.len(), "a window comes once: {rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l31_l32_price_alerts_finds_moves_of_more_than_five_percent() {
    let seed = Seed {
        script: "price_alerts.sql",
        endpoint: "https://market-data.broker.com/sse/prices",
        header: ("authorization", "Bearer {}"),
        variable: "BROKER_TOKEN",
    };
    let price = |kind: &'static str, symbol: &str, price: Value, second: u32| {
        let timestamp = format!("2026-03-01T12:00:{second:02}Z");
        (kind, json!({"symbol": symbol, "price": price, "volume": 10, "bid": price, "ask": price, "timestamp": timestamp}))
    };
    let stream = events(&[
        price("price_update", "A", json!(100), 1),
        price("trade", "B", json!("20.00"), 2),
        price("trade", "A", json!(104.99), 3),
        price("quote", "A", json!(500), 4),
        price("trade", "A", json!(120.7385), 5),
        price("trade", "B", json!(18), 6),
        // L-45: from zero there is no percentage; the row goes, the rest stays.
        price("trade", "C", json!(0), 7),
        price("trade", "C", json!(5), 8),
        price("trade", "C", json!(10), 9),
    ]);
    let (rows, _) = run(&seed, &stream, "").await;
    let found: Vec<(&str, f64, f64, f64, &str)> = rows
        .iter()
        .map(|row| {
            let number = |key: &str| row[key].as_f64().unwrap();
            let timestamp = row["timestamp"].as_str().unwrap();
            (
                row["symbol"].as_str().unwrap(),
                number("current_price"),
                number("prev_price"),
                number("pct_change").round(),
                timestamp,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("A", 120.7385, 104.99, 15.0, "2026-03-01T12:00:05Z"),
            ("B", 18.0, 20.0, -10.0, "2026-03-01T12:00:06Z"),
            ("C", 10.0, 5.0, 100.0, "2026-03-01T12:00:09Z"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l33_l34_repo_activity_counts_events_and_contributors() {
    let seed = Seed {
        script: "repo_activity.sql",
        endpoint: "https://api.github.com/events",
        header: ("authorization", "token {}"),
        variable: "GITHUB_TOKEN",
    };
    let event = |kind: &str, actor: Value| {
        ("", json!({"event_type": kind, "repo_name": "r", "actor": actor, "action": null, "payload": {}, "created_at": AT}))
    };
    let stream = events(&[
        event("Push", json!("ann")),
        event("Push", json!("ann")),
        event("Push", json!("bob")),
        event("Fork", Value::Null),
    ]);
    let (rows, _) = run(&seed, &stream, "").await;
    assert_eq!(
        without_window(rows),
        [
            json!({"repo_name": "r", "event_type": "Push", "event_count": 3, "unique_contributors": 2}),
            json!({"repo_name": "r", "event_type": "Fork", "event_count": 1, "unique_contributors": 0}),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l35_l36_trending_topics_orders_the_rows_of_each_window() {
    let seed = Seed {
        script: "trending_topics.sql",
        endpoint: "https://news-api.com/v2/stream",
        header: ("x-api-key", "{}"),
        variable: "NEWS_API_KEY",
    };
    let article = |kind: &'static str, category: &str, source: &str| {
        (
            kind,
            json!({"article_id": "1", "title": "t", "category": category, "source": source, "summary": "s", "url": "u", "published_at": AT}),
        )
    };
    let stream = events(&[
        article("update", "sport", "Post"),
        article("breaking_news", "economy", "Post"),
        article("update", "economy", "Radio"),
        article("advert", "sport", "Shop"),
        article("update", "economy", "Post"),
    ]);
    let (mut rows, _) = run(&seed, &stream, "").await;
    for row in &mut rows {
        row["sources"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    }
    assert_eq!(
        without_window(rows),
        [
            json!({"category": "economy", "article_count": 3, "sources": ["Post", "Radio"]}),
            json!({"category": "sport", "article_count": 1, "sources": ["Post"]}),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn l37_l38_system_alerts_tells_how_severe_a_value_is() {
    let seed = Seed {
        script: "system_alerts.sql",
        endpoint: "https://monitoring.internal/sse/metrics",
        header: ("x-auth-token", "{}"),
        variable: "MONITORING_TOKEN",
    };
    let metric = |metric: &'static str, value: f64| {
        (metric, json!({"host": "h", "metric": metric, "value": value, "tags": {}, "timestamp": AT}))
    };
    let stream = events(&[
        metric("cpu", 80.0),
        metric("cpu", 85.0),
        metric("cpu", 90.5),
        metric("memory", 86.0),
        metric("disk", 96.0),
        metric("disk", 89.0),
        metric("network", 100.5),
        metric("fan", 1000.0),
    ]);
    let (rows, _) = run(&seed, &stream, "").await;
    let found: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["metric"].as_str().unwrap(), row["severity"].as_str().unwrap())).collect();
    assert_eq!(found, [("cpu", "OK"), ("cpu", "CRITICAL"), ("memory", "WARNING"), ("disk", "CRITICAL"), ("network", "OK")]);
    assert_eq!(rows[1], json!({"host": "h", "metric": "cpu", "value": 90.5, "severity": "CRITICAL", "timestamp": AT}));
}

#[tokio::test(flavor = "multi_thread")]
async fn l07_without_the_right_token_the_feed_fails_with_the_reason() {
    let server = Server::start([Answer::status(401)]).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streamgauge/seeds/system_alerts.sql");
    let script = std::fs::read_to_string(path).unwrap().replace("https://monitoring.internal/sse/metrics", &server.url());
    let mut command = program();
    let file = written(&script);
    command.arg("run").arg(file.path()).env("MONITORING_TOKEN", SECRET);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("401") && !err.contains(SECRET), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_an_unset_variable_is_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streamgauge/seeds/system_alerts.sql");
    let mut command = program();
    command.arg("run").arg(path).env_remove("MONITORING_TOKEN");
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("MONITORING_TOKEN"), "{err}");
}
