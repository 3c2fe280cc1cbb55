//! Peek at real feeds and at what is none.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::get;
use streamgauge::cli::replay::{Pace, Replay, Source};
use streamgauge::cli::sample::{Kind, Settings};
use tokio::net::TcpListener;

use super::program::run;
use super::server::Server;

#[tokio::test]
async fn a_feed_is_reported_and_its_table_proposed() {
    let source = Source::sample(Settings::new(Kind::StockPrices, 1));
    let server =
        Server::start(Replay { pace: Pace::PerSecond(10_000.0), retry: Some(Duration::from_secs(1)), ..Replay::new(source) })
            .await;
    let (code, out, err) = run(&["peek", &server.url, "-n", "30", "-H", "Authorization: Bearer s3cret"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for expect in ["  30 events", "price DOUBLE", "WATERMARK FOR timestamp", "headers = 'Authorization: {{ AUTHORIZATION }}'"] {
        assert!(out.contains(expect), "{expect} is not in:\n{out}");
    }
    assert!(!out.contains("s3cret"), "{out}");
    let (code, out, _) = run(&["peek", &server.url, "-n", "30", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["events"], &report["columns"][1]["name"]), (0, &30.into(), &"symbol".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_feed_that_ends_is_reported_with_what_it_had() {
    let settings = Settings { count: Some(20), ..Settings::new(Kind::News, 1) };
    let server = Server::start(Replay::new(Source::sample(settings))).await;
    let (code, out, err) = run(&["peek", &server.url]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("  20 events"), "{out}");
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
    for (args, expect) in [(["peek", "ftp://x/"], "not http or https"), (["peek", "nonsense"], "is no URL")] {
        let (code, _, err) = run(&args).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(expect), "{err}");
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
