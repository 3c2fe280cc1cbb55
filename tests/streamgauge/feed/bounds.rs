//! Limits: of size, of what one read hands on, and of silence.

use streamgauge::feed::{Parser, ReadOutcome};

use super::{Seen, feed, run, take};
use crate::support::server::{Answer, Server, Signal};

#[test]
fn a_line_of_64_mib_is_read_and_its_neighbours_too() {
    let mut parser = Parser::new(usize::MAX / 2);
    let (mut lengths, piece) = (Vec::new(), vec![b'x'; 16 * 1024]);
    let mut each = |event: streamgauge::feed::Event<'_>| lengths.push(event.data.len());
    parser.feed(b"data: a\n\ndata:", &mut each);
    for _ in 0..4096 {
        parser.feed(&piece, &mut each);
    }
    parser.feed(b"\n\ndata: b\n\n", &mut each);
    assert_eq!(lengths, [1, 64 << 20, 1]);
}

#[test]
fn what_is_too_large_is_dropped_and_counted_and_its_id_still_counts() {
    let large = "x".repeat(2000);
    for (stream, expected, oversized) in [
        (format!("data: a\n\nid: 7\ndata: {large}\n\ndata: b\n\n"), vec![("a", ""), ("b", "7")], 1),
        (format!("data: {large}\nid: 7\n\ndata: b\n\n"), vec![("b", "7")], 1),
        (format!("data: {0}\ndata: {0}\n\ndata: b\n\n", &large[..600]), vec![("b", "")], 1),
        (format!("event: {large}\ndata: a\nid: 7\n\ndata: b\n\n"), vec![("b", "7")], 1),
        (format!("id: {large}\ndata: a\n\ndata: b\n\n"), vec![("b", "")], 1),
        (format!("{large}: x\n:{large}\nretry:{large}\ndata: b\n\n"), vec![("b", "")], 0),
    ] {
        for size in [1, 100, 1999, usize::MAX] {
            let mut parser = Parser::new(1000);
            let mut seen = Vec::new();
            for chunk in stream.as_bytes().chunks(size.min(stream.len())) {
                parser.feed(chunk, &mut |event| seen.push(Seen::from(event)));
            }
            let seen: Vec<(&str, &str)> = seen.iter().map(|event| (event.data.as_str(), event.id.as_str())).collect();
            assert_eq!((seen, parser.oversized()), (expected.clone(), oversized), "{} in pieces of {size}", &stream[..20]);
        }
    }
}

#[tokio::test]
async fn an_endless_line_is_survived_and_told() {
    let line = Answer::stream().text("id: 1\ndata: ");
    let line = (0..100).fold(line, |answer, _| answer.bytes(vec![b'x'; 10_000])).text("\n\ndata: after\n\n");
    let server = Server::start([line, Answer::status(204)]).await;
    let run = run(feed(&server.url(), &[("max_event_bytes", "1KiB")])).await;
    assert_eq!(run.data(), ["after"]);
    assert_eq!((run.status.oversized, run.status.events), (1, 1));
    assert!(run.status.warnings[0].contains("max_event_bytes (1024 bytes)"), "{:?}", run.status.warnings);
    assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn one_read_hands_on_what_is_there_but_no_more_than_a_batch() {
    let events = "data:\n\n".repeat(100_000);
    let server = Server::start([Answer::stream().text(&events), Answer::status(204)]).await;
    let mut feed = feed(&server.url(), &[]);
    let (mut total, mut largest) = (0, 0);
    loop {
        let mut count = 0;
        let reading = feed.read(&mut |_| count += 1).await.unwrap();
        total += count;
        largest = largest.max(count);
        if reading == ReadOutcome::Ended {
            break;
        }
    }
    assert_eq!(total, 100_000);
    assert!(largest < 20_000, "{largest}");
}

#[tokio::test]
async fn an_event_is_handed_on_without_waiting_for_the_next() {
    let signal = Signal::default();
    let server = Server::start([Answer::stream().text("data: a\r\r").wait(&signal).text("data: b\n\n").stall()]).await;
    let mut feed = feed(&server.url(), &[]);
    assert_eq!(take(&mut feed, 1).await[0].data, "a");
    signal.notify_one();
    assert_eq!(take(&mut feed, 1).await[0].data, "b");
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let events: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let server =
        Server::start([events.iter().fold(Answer::stream(), |answer, data| answer.event("e", data)), Answer::status(204)]).await;
    let mut feed = feed(&server.url(), &[]);
    let mut seen = Vec::new();
    loop {
        let mut each = |event: streamgauge::feed::Event<'_>| seen.push(event.data.to_string());
        tokio::select! {
            biased;
            reading = feed.read(&mut each) => if reading.unwrap() == ReadOutcome::Ended { break },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(seen, events);
}

#[tokio::test]
async fn a_silent_server_is_left_for_a_new_connection() {
    let server = Server::start([
        Answer::stream().text("id: 1\ndata: a\n\n").stall(),
        Answer::silence(),
        Answer::stream().text("id: 2\ndata: b\n\n"),
        Answer::status(204),
    ])
    .await;
    let run = run(feed(&server.url(), &[("read_timeout", "1s"), ("connect_timeout", "1s")])).await;
    assert_eq!(run.data(), ["a", "b"]);
    assert_eq!(server.requests().len(), 4);
    assert!(run.status.last_error.is_some());
}
