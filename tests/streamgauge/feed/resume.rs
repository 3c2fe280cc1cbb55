//! Going on where a connection was lost.

use std::sync::Arc;

use streamgauge::error::Code;
use streamgauge::feed::{Feed, FeedPosition, FeedState, FeedStatus, ReadOutcome};

use super::{feed, run, spec, take, turn};
use crate::support::server::{Answer, Server, file};

#[tokio::test]
async fn a_cut_at_any_byte_loses_and_doubles_nothing() {
    let events: Vec<String> = (1..=20).map(|number| format!("{{\"n\":{number}}}")).collect();
    for close_delimited in [false, true] {
        let whole = match close_delimited {
            true => Answer::replay(events.clone()).close_delimited(),
            false => Answer::replay(events.clone()),
        };
        let mut script: Vec<Answer> =
            (0..LONGER_THAN_THE_BODY).flat_map(|at| [whole.clone().cut_at(at), Answer::replay(events.clone())]).collect();
        script.push(Answer::status(204));
        let server = Server::start(script).await;
        let mut feed = feed(&server.url(), &[]);
        let mut cut_behind_the_last = false;
        for at in 0..LONGER_THAN_THE_BODY {
            let seen = take(&mut feed, events.len()).await;
            let seen: Vec<&str> = seen.iter().map(|event| event.data.as_str()).collect();
            assert_eq!(seen, events, "cut at {at}");
            let last = server.request(2 * at).await;
            assert_eq!(last.header("last-event-id"), None);
            cut_behind_the_last = server.requests().len() == 2 * at + 1;
            if cut_behind_the_last {
                // The cut came behind the last event: the answer meant for its reconnect is used up by hand.
                feed.resume_at(&FeedPosition::after("20"));
                assert_eq!(turn(&mut feed).await, ReadOutcome::Connected);
            }
            feed.resume_at(&FeedPosition::after(""));
        }
        assert!(cut_behind_the_last, "every byte had its turn");
    }
}

/// Bytes of twenty events as they are on the wire, at most.
const LONGER_THAN_THE_BODY: usize = 700;

#[tokio::test]
async fn what_a_server_sends_again_after_a_reconnect_counts_once() {
    let event = |id: u32| format!("id: {id}\ndata: {id}\n\n");
    let all: String = (1..=5).map(event).collect();
    for (resume, expected, repeated) in [("header", 5, 3), ("off", 8, 0)] {
        let first: String = (1..=3).map(event).collect();
        let server = Server::start([Answer::stream().text(&first).cut(), Answer::stream().text(&all), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[("resume", resume)])).await;
        assert_eq!((run.events.len(), run.status.repeated), (expected, repeated), "{resume}");
    }
}

#[tokio::test]
async fn events_between_numbered_ones_and_thousands_of_events_count_once_too() {
    let event = |id: u32| format!("id: {id}\ndata: {id}\n\n");
    let between = |id: u32| event(id) + "event: ping\ndata: p\n\ndata: between\n\n";
    let mixed = |range: std::ops::RangeInclusive<u32>| range.map(between).collect::<String>();
    let many = |range: std::ops::RangeInclusive<u32>| range.map(event).collect::<String>();
    for (first, then, expected) in [
        (mixed(1..=10), mixed(8..=12), 24),
        (mixed(1..=10), "data: between\n\n".to_string() + &mixed(8..=12), 24),
        (mixed(1..=10), "event: ping\ndata: p\n\ndata: between\n\n".to_string() + &mixed(11..=12), 24),
        (mixed(1..=3), mixed(1..=4), 8),
        (many(1..=5000), many(1..=5010), 5010),
        (many(1..=5000), many(2500..=5010), 5010),
    ] {
        let server =
            Server::start([Answer::stream().text(&first).cut(), Answer::stream().text(&then), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[("events", "message")])).await;
        assert_eq!((run.events.len(), run.status.gaps), (expected, 0), "{then}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_after_new_events_is_read_on_after_the_base_delay() {
    let event = |id: u32| format!("id: {id}\ndata: {id}\n\n");
    let mut script: Vec<Answer> = (1..=6).map(|id| Answer::stream().text(&event(id))).collect();
    script[0] = Answer::stream().text(&("retry: 100\n".to_string() + &event(1)));
    script[3] = script[3].clone().cut();
    // Nothing new: that is a failure, and the next one waits for longer.
    script.extend([Answer::stream().text(&event(6)), Answer::stream()]);
    script.push(Answer::status(204));
    let server = Server::start(script).await;
    let mut feed = feed(&server.url(), &[("reconnect_delay", "10s")]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(turn(&mut feed).await, ReadOutcome::Connected);
        assert_eq!(turn(&mut feed).await, ReadOutcome::Disconnected);
        let status = feed.status().snapshot();
        waits.push((status.reconnect_at.unwrap().nanos() - status.since.nanos()) / 1_000_000);
    }
    // Up to half as much is added at random.
    assert!(waits[..7].iter().all(|ms| (98..=151).contains(ms)), "{waits:?}");
    assert!((198..=301).contains(&waits[7]), "{waits:?}");
}

#[tokio::test]
async fn the_last_id_goes_with_every_reconnect_as_the_standard_counts_it() {
    for (body, expected) in [
        ("id: 1\ndata: a\n\ndata: b\n\n", Some("1")),
        ("id: 1\ndata: a\n\nid\ndata: b\n\n", None),
        ("id: 1\ndata: a\n\nid: 2\ndata: b\n", Some("1")),
        ("id: 1\ndata: a\n\nid: 2\n\n", Some("2")),
        ("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", Some("1")),
        ("id: …\ndata: a\n\n", Some("…")),
        ("data: a\n\n", None),
    ] {
        let server = Server::start([Answer::stream().text(body), Answer::stream().text(":\n"), Answer::status(204)]).await;
        run(feed(&server.url(), &[])).await;
        for request in &server.requests()[1..] {
            assert_eq!(request.header("last-event-id"), expected, "{body:?}");
        }
    }
}

#[tokio::test]
async fn an_id_that_no_header_can_carry_is_told_and_not_sent() {
    let long = "x".repeat(9000);
    for id in ["a\u{1}b", long.as_str()] {
        let server = Server::start([Answer::stream().text(&format!("id: {id}\ndata: a\n\n")), Answer::status(204)]).await;
        let run = run(feed(&server.url(), &[])).await;
        assert_eq!(server.requests()[1].header("last-event-id"), None);
        assert_eq!((run.status.warnings.len(), run.status.last_event_id.as_str()), (1, id));
    }
}

#[tokio::test]
async fn resume_takes_the_way_that_the_option_says() {
    for (resume, header, query) in [("header", Some("7&8"), None), ("query:since", None, Some("7%268")), ("off", None, None)] {
        let server = Server::start([Answer::stream().text("id: 7&8\ndata: a\n\n"), Answer::status(204)]).await;
        run(feed(&format!("{}/?a=b", server.url()), &[("resume", resume)])).await;
        let request = &server.requests()[1];
        assert_eq!((request.header("last-event-id"), request.query("since")), (header, query), "{resume}");
        assert_eq!(request.query("a"), Some("b"));
    }
}

#[tokio::test]
async fn a_feed_can_start_after_a_given_event() {
    let events: Vec<String> = (1..=5).map(|number| number.to_string()).collect();
    let server = Server::start([Answer::replay(events.clone()), Answer::status(204)]).await;
    assert_eq!(run(feed(&server.url(), &[("last_event_id", "3")])).await.data(), ["4", "5"]);
    let server = Server::start([Answer::replay(events), Answer::status(204)]).await;
    let mut restarted = feed(&server.url(), &[("last_event_id", "1")]);
    restarted.resume_at(&FeedPosition::after("4"));
    assert_eq!(run(restarted).await.data(), ["5"]);
}

#[tokio::test]
async fn a_paused_feed_goes_on_where_it_stopped() {
    let server =
        Server::start([Answer::stream().text("id: 1\ndata: a\n\n").stall(), Answer::stream().text("data: b\n\n").stall()]).await;
    let mut feed = feed(&server.url(), &[]);
    take(&mut feed, 1).await;
    feed.pause();
    assert_eq!(feed.status().snapshot().state, FeedState::Paused);
    assert_eq!(take(&mut feed, 1).await[0].data, "b");
    assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn the_servers_retry_is_the_floor_of_the_wait() {
    let server = Server::start([Answer::stream().text("retry: 90000\n\n").cut()]).await;
    let mut feed = feed(&server.url(), &[]);
    assert_eq!(turn(&mut feed).await, ReadOutcome::Connected);
    assert_eq!(turn(&mut feed).await, ReadOutcome::Disconnected);
    let status = feed.status().snapshot();
    let wait = (status.reconnect_at.unwrap().nanos() - status.since.nanos()) / 1_000_000_000;
    assert!((90..136).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_server_that_goes_on_elsewhere_is_told() {
    let server = Server::start([
        Answer::stream().text("id: 5\ndata: a\n\n"),
        Answer::stream().header("Last-Event-ID", "9").text("data: b\n\n"),
        Answer::status(204),
    ])
    .await;
    let run = run(feed(&server.url(), &[])).await;
    assert!(run.status.warnings[0].contains("events may be missing"), "{:?}", run.status.warnings);
}

#[tokio::test]
async fn an_event_cut_off_is_discarded_and_counted() {
    let server = Server::start([Answer::stream().text("data: a\n\ndata: b\n"), Answer::status(204)]).await;
    let run = run(feed(&server.url(), &[])).await;
    assert_eq!((run.data(), run.status.discarded_partial), (vec!["a"], 1));
}

#[tokio::test]
async fn files_are_finite_feeds() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("a.ndjson", "{\"a\":1}\n\n{\"a\":2}", vec![("message", "{\"a\":1}", ""), ("message", "{\"a\":2}", "")]),
        ("a.sse", "event: x\nid: 1\ndata: a\n\ndata: b\n\ndata: cut", vec![("x", "a", "1"), ("message", "b", "1")]),
        ("recorded", ": ok\n\ndata: a\n\n", vec![("message", "a", "")]),
        ("empty.ndjson", "", vec![]),
    ] {
        let path = file(directory.path(), name, content.as_bytes());
        let run = run(Feed::new(spec("file", &[("path", path.to_str().unwrap())]), Arc::new(FeedStatus::new()))).await;
        let seen: Vec<(&str, &str, &str)> =
            run.events.iter().map(|event| (event.kind.as_str(), event.data.as_str(), event.id.as_str())).collect();
        assert_eq!((seen, run.status.state), (expected, FeedState::Completed), "{name}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("nothing.ndjson"), directory.path().to_path_buf()] {
        let run = run(Feed::new(spec("file", &[("path", path.to_str().unwrap())]), Arc::new(FeedStatus::new()))).await;
        let error = run.error.unwrap();
        assert_eq!(error.code(), Code::File);
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    }
}
