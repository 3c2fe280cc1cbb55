//! Peek at real feeds and at what is none.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::get;
use proptest::prelude::*;
use serde_json::Value;
use streamgauge::cli::replay::{EventSource, Pace, Replay};
use streamgauge::cli::sample::{Kind, Settings};
use streamgauge::engine::{Answer, Engine};
use streamgauge::format::encode::{Encoder, Encoding};
use streamgauge::table::peek::{At, FeedLocation, Summary};
use streamgauge::{feed, sql};
use tokio::net::TcpListener;

use super::program::run;
use super::server::Server;
use crate::support::server::file as server_file;

#[tokio::test]
async fn a_feed_is_reported_and_its_table_proposed() {
    let source = EventSource::sample(Settings::new(Kind::StockPrices, 1));
    let server =
        Server::start(Replay { pace: Pace::PerSecond(10_000.0), retry: Some(Duration::from_secs(1)), ..Replay::new(source) })
            .await;
    let (code, out, err) = run(&["peek", &server.url, "-n", "30", "-H", "Authorization: Bearer s3cret"]).await;
    assert_eq!(code, 0, "{err}");
    for expect in ["price DOUBLE", "WATERMARK FOR timestamp", "headers = 'Authorization: {{ AUTHORIZATION }}'"] {
        assert!(out.contains(expect), "{expect} is not in:\n{out}");
    }
    assert!(out.starts_with("CREATE TABLE ") && out.ends_with(");\n"), "{out}");
    assert!(err.contains("  30 events"), "{err}");
    assert!(!out.contains("s3cret") && !err.contains("s3cret"), "{out}{err}");
    // An address without a scheme, the statement alone, another name.
    let address = server.url.strip_prefix("http://").unwrap();
    let (code, out, err) = run(&["peek", address, "-n", "30", "--sql", "--name", "My Prices"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("CREATE TABLE \"My Prices\" (") && out.contains(&server.url), "{out}");
    let (code, out, _) = run(&["peek", &server.url, "-n", "30", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["events"], &report["columns"][1]["name"]), (0, &30.into(), &"symbol".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_feed_that_ends_is_reported_with_what_it_had() {
    let settings = Settings { count: Some(20), ..Settings::new(Kind::News, 1) };
    let server = Server::start(Replay::new(EventSource::sample(settings))).await;
    let (code, out, err) = run(&["peek", &server.url]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("  20 events"), "{err}");
    assert!(out.starts_with("CREATE TABLE "), "{out}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_feed_exits_with_1_and_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/html", get(async || Html("<html>Welcome</html>")))
        .route("/away", get(async || Redirect::temporary("/away")))
        .route("/secret", get(async || StatusCode::UNAUTHORIZED));
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    for (path, expect) in [("html", "text/html"), ("away", "redirect"), ("secret", "401"), ("missing", "404")] {
        let (code, out, err) = run(&["peek", &format!("http://{address}/{path}"), "--timeout", "20s"]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{path}: {err}");
        assert!(err.contains(expect), "{path}: {err}");
    }
    for (args, code, expect) in [
        (["peek", "ftp://x/"], 2, "not http or https"),
        (["peek", "nonsense"], 2, "is no URL"),
        (["peek", "missing.ndjson"], 1, "the file 'missing.ndjson' is not there"),
        (["peek", "./missing"], 1, "is not there"),
    ] {
        let (found, _, err) = run(&args).await;
        assert_eq!(found, code, "{err}");
        assert!(err.contains(expect) && !err.contains("option '"), "{err}");
    }
    server.abort();
}

#[tokio::test]
async fn a_silent_feed_exits_with_1_when_the_time_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = async || {
        let body = axum::body::Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        ([("content-type", "text/event-stream")], body)
    };
    let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(silent))).await });
    let (code, _, err) = run(&["peek", &format!("http://{address}/"), "--timeout", "1s"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is an event stream, but no event came within 1s"), "{err}");
    server.abort();
}

/// What the statement for `events` reads of them, as NDJSON.
async fn read_back(directory: &Path, events: &[String]) -> (String, Vec<Value>) {
    let file = server_file(directory, "events.ndjson", events.join("\n").as_bytes());
    let mut summary = Summary::default();
    let push =
        |data: &String| summary.push(feed::Event { kind: "message", data, id: "", has_id: false, unseen: 0 }, Duration::ZERO);
    events.iter().for_each(push);
    let place = FeedLocation { at: At::File(file), headers: None, name: None };
    let statement = summary.report(&place, None).create_table;
    let engine = Engine::new().unwrap();
    let (statements, errors) = sql::parse(&format!("{statement}SELECT * FROM events;"));
    assert_eq!(errors, [], "{statement}");
    let mut query = None;
    for parsed in &statements {
        match engine.execute(parsed).await {
            Ok(Answer::Query(asked)) => query = Some(asked),
            Ok(_) => {}
            Err(errors) => panic!("{statement}: {errors:?}"),
        }
    }
    let mut output = engine.open(&[*query.unwrap()]).unwrap().swap_remove(0);
    let mut encoder = Encoder::append_only(Encoding::Ndjson, &output.schema);
    let mut text = Vec::new();
    while let Some(changes) = output.next_changes().await {
        encoder.write(&changes.unwrap(), &mut text).unwrap();
    }
    let text = String::from_utf8(text).unwrap();
    (statement, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Keys of all kinds: words of SQL, empty ones, quotes, signs, other alphabets, and such that differ only in their case.
fn key() -> impl Strategy<Value = String> {
    let words = [
        "",
        "a",
        "A",
        "id",
        "Id",
        "select",
        "from",
        "order",
        "primary",
        "PRIMARY KEY",
        "check",
        "constraint",
        "unique",
        "index",
        "foreign",
        "watermark",
        "end",
        "window",
        "value",
        "values",
        "interval",
        "struct",
        "array",
        "case",
        "null",
        "true",
        "not",
        "not null",
        "in",
        "as",
        "generated",
        "metadata",
        "timestamp",
        "date",
        "at",
        "a.b",
        "a b",
        "1",
        "\"",
        "'",
        "`",
        "--",
        "/*",
        ";",
        "\\",
        "\n",
        "\u{0}",
        "{{ X }}",
        "ä",
        "ÄÖ",
        "名",
        "@timestamp",
        "$",
        "_",
        "*",
        "%",
        "like",
        "table",
        "column",
        "key",
        "with",
        "for",
        "on",
        "using",
        "lateral",
        "over",
    ];
    prop_oneof![prop::sample::select(words.to_vec()).prop_map(str::to_string), "\\PC{0,6}", "[a-zA-Z_]{1,5}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        (-1000i32..1000).prop_map(|number| Value::from(f64::from(number) + 0.5)),
        "[a-z \"\\\\é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same but for what NULL stands for, too: fields that are missing, and what is empty.
fn is_read(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Null, Value::Null) => true,
        (Value::Object(written), Value::Object(read)) => {
            written.iter().all(|(name, value)| is_read(value, read.get(name).unwrap_or(&Value::Null)))
                && read.iter().all(|(name, value)| written.contains_key(name) || value.is_null())
        }
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(written, read)| is_read(written, read))
        }
        (Value::Number(written), Value::Number(read)) => written.as_f64() == read.as_f64(),
        _ => written == read,
    }
}

#[test]
fn what_is_proposed_is_taken_and_reads_every_value_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let objects = prop::collection::vec(prop::collection::hash_map(key(), value(), 1..6), 1..3);
    proptest!(ProptestConfig::with_cases(96), |(objects in objects)| {
        let objects: Vec<Value> = objects.into_iter().map(|map| Value::Object(map.into_iter().collect())).collect();
        let events: Vec<String> = objects.iter().map(Value::to_string).collect();
        let (statement, read) = runtime.block_on(read_back(directory.path(), &events));
        prop_assert_eq!(read.len(), objects.len(), "{}", statement);
        for (written, read) in objects.into_iter().zip(read) {
            let Value::Object(mut written) = written else { unreachable!() };
            // The one key that can name no column.
            written.remove("");
            if written.is_empty() {
                continue;
            }
            prop_assert!(is_read(&Value::Object(written.clone()), &read), "{}\n{:?}\n{:?}", statement, written, read);
        }
    });
}
