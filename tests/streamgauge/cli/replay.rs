//! Replay over real HTTP: what a client gets, how it resumes, when it is done.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Response, StatusCode};
use streamgauge::cli::replay::{EventFields, EventSource, Flush, Layout, Pace, Replay};
use streamgauge::cli::sample::{Kind, Settings};
use streamgauge::feed::{Feed, FeedSpec, FeedStatus, ReadOutcome};
use streamgauge::options::{GivenOption, TableOptions};

use super::server::{Server, client};

fn lines(count: usize) -> EventSource {
    let text: String = (1..=count).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    EventSource::bytes(Bytes::from(text), Layout::Ndjson(EventFields::default()))
}

/// What came until the response ended or broke off, and whether it ended properly.
async fn read(response: Response) -> (String, bool) {
    let (mut text, mut chunks) = (Vec::new(), response.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => text.extend_from_slice(&chunk),
            Err(_) => return (String::from_utf8(text).unwrap(), false),
        }
    }
    (String::from_utf8(text).unwrap(), true)
}

/// Reads until `enough` is satisfied by what came.
async fn read_until(response: Response, enough: impl Fn(&str) -> bool) -> String {
    let (mut text, mut chunks) = (String::new(), response.bytes_stream());
    while !enough(&text) {
        text += std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap();
    }
    text
}

fn ids(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

/// Follows the feed as a client does, resuming by the last id, until the server says that nothing follows: all ids, and the connections it took.
async fn follow(server: &Server) -> (Vec<String>, usize) {
    let (mut all, mut connections) = (Vec::<String>::new(), 0);
    loop {
        let response = server.get(all.last().map(String::as_str)).await;
        if response.status() == StatusCode::NO_CONTENT {
            return (all, connections);
        }
        connections += 1;
        let (text, _) = read(response).await;
        all.extend(ids(&text).into_iter().map(String::from));
    }
}

#[tokio::test]
async fn a_file_comes_as_an_event_stream_and_ends() {
    let server = Server::start(Replay { retry: Some(Duration::from_millis(250)), ..Replay::new(lines(2)) }).await;
    let response = server.get(None).await;
    assert_eq!(response.status(), StatusCode::OK);
    for (name, value) in [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")] {
        assert_eq!(response.headers()[name], value);
    }
    assert_eq!(read(response).await, ("retry: 250\n\nid: 1\ndata: {\"n\":1}\n\nid: 2\ndata: {\"n\":2}\n\n".into(), true));
    server.stop().await;
}

#[tokio::test]
async fn a_client_goes_on_behind_its_last_event_by_header_or_query() {
    let server = Server::start(Replay::new(lines(3))).await;
    assert_eq!(ids(&read(server.get(Some("2")).await).await.0), ["3"]);
    let by_query = client().get(format!("{}any/path?last_event_id=1", server.url)).send().await.unwrap();
    assert_eq!(ids(&read(by_query).await.0), ["2", "3"]);
    assert_eq!(ids(&read(server.get(Some("unknown")).await).await.0), ["1", "2", "3"]);
    server.stop().await;
}

#[tokio::test]
async fn behind_the_last_event_the_answer_is_no_content() {
    let server = Server::start(Replay::new(lines(3))).await;
    assert_eq!(server.get(Some("3")).await.status(), StatusCode::NO_CONTENT);
    server.stop().await;
}

#[tokio::test]
async fn each_event_comes_once_across_cuts() {
    let expect: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    for flush in [Flush::Each, Flush::Coalesced] {
        let replay = Replay { drop_every: NonZeroU64::new(7), flush, ..Replay::new(lines(100)) };
        let server = Server::start(replay).await;
        let (text, ended) = read(server.get(None).await).await;
        assert_eq!(ids(&text), ["1", "2", "3", "4", "5", "6", "7"]);
        assert!(!ended, "the connection breaks off");
        assert_eq!(follow(&server).await, (expect.clone(), 15));
        server.stop().await;
    }
}

#[tokio::test]
async fn ids_that_are_json_resume_as_well() {
    let settings = Settings { count: Some(50), ..Settings::new(Kind::Wikipedia, 1) };
    let server = Server::start(Replay { drop_every: NonZeroU64::new(9), ..Replay::new(EventSource::sample(settings)) }).await;
    let (ids, connections) = follow(&server).await;
    assert_eq!((ids.len(), connections), (50, 6));
    assert!(ids[0].starts_with("[{\"topic\":") && ids.windows(2).all(|pair| pair[0] < pair[1]));
    server.stop().await;
}

#[tokio::test]
async fn a_loop_counts_on_and_resumes_in_a_later_round() {
    let server = Server::start(Replay { repeat: true, ..Replay::new(lines(3)) }).await;
    let text = read_until(server.get(None).await, |text| text.contains("id: 8\n")).await;
    assert_eq!(ids(&text)[..7], ["1", "2", "3", "4", "5", "6", "7"]);
    let text = read_until(server.get(Some("3000000")).await, |text| text.contains("id: 3000002\n")).await;
    assert!(text.starts_with("id: 3000001\ndata: {\"n\":1}\n\nid: 3000002\n"));
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_come_while_nothing_is_due() {
    let replay = Replay { pace: Pace::PerSecond(1e-6), heartbeat: Some(Duration::from_millis(1)), ..Replay::new(lines(2)) };
    let server = Server::start(replay).await;
    let text = read_until(server.get(None).await, |text| text.matches(": heartbeat\n\n").count() >= 3).await;
    assert_eq!(ids(&text), ["1"]);
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_every_response() {
    let replay = Replay { pace: Pace::PerSecond(1e-6), ..Replay::new(lines(2)) };
    let server = Server::start(replay).await;
    let (one, two) = (server.get(None).await, server.get(None).await);
    server.stop().await;
    assert_eq!(read(one).await, ("id: 1\ndata: {\"n\":1}\n\n".into(), true));
    assert!(read(two).await.1);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let settings = Settings { count: Some(200_000), ..Settings::new(Kind::SystemMetrics, 1) };
    let server = Server::start(Replay::new(EventSource::sample(settings).rendered().unwrap())).await;
    let _stalled = server.get(None).await;
    let (text, ended) = read(server.get(None).await).await;
    assert!(ended);
    assert_eq!(ids(&text).len(), 200_000);
    assert_eq!(ids(&read(server.get(Some("199999")).await).await.0), ["200000"]);
    server.stop().await;
}

#[tokio::test]
async fn the_connector_gets_each_event_once_across_cuts_and_completes() {
    let settings = Settings { count: Some(500), ..Settings::new(Kind::Wikipedia, 3) };
    let retry = Some(Duration::from_millis(1));
    let replay = Replay { drop_every: NonZeroU64::new(200), retry, ..Replay::new(EventSource::sample(settings)) };
    let server = Server::start(replay).await;
    let given = [("connector", "sse"), ("endpoint", &server.url)];
    let given = given.map(|(name, value)| GivenOption { name: name.into(), value: value.into(), span: None });
    let spec = FeedSpec::new(&TableOptions::read(&given).unwrap()).unwrap();
    let mut feed = Feed::new(spec, Arc::new(FeedStatus::new()));
    let mut ids = Vec::new();
    while feed.read(&mut |event| ids.push(event.id.to_string())).await.unwrap() != ReadOutcome::Ended {}
    assert_eq!(ids.len(), 500);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(feed.status().snapshot().connects, 3);
    server.stop().await;
}
