//! Watermarks: with rows, without them, without a connection, and where feeds meet.

use std::time::Duration;

use super::{TIMED, counts, create, engine, event, next, open, rest, signal, table, take, timed, until};
use crate::support::server::{Answer, Server, file};

#[tokio::test]
async fn a_silent_feed_closes_its_windows_in_the_time_of_its_events() {
    let server = Server::start([Answer::stream().text(&event(1, 0.5)).stall()]).await;
    let engine = engine(&create("t", &server, TIMED, "idle_timeout = '300ms'")).await;
    let mut output = open(&engine, &counts("t")).await;
    assert_eq!(take(&mut output, 1).await, ["rows=1, sum=1"]);
    let status = table(&engine).status().snapshot();
    assert!(status.idle && status.watermark.unwrap().to_string().starts_with("2001-01-01T00:0"), "{status:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn while_the_connection_is_down_the_watermark_stands_still_and_what_is_sent_again_is_not_late() {
    let server = Server::start([
        Answer::stream().text(&event(1, 0.5)).cut(),
        Answer::hang_up(),
        Answer::stream().text(&event(2, 0.6)),
        Answer::status(204),
    ])
    .await;
    let options = "idle_timeout = '50ms', reconnect_delay = '400ms', reconnect_max_delay = '400ms'";
    let engine = engine(&create("t", &server, TIMED, options)).await;
    assert_eq!(rest(&mut open(&engine, &counts("t")).await).await, ["rows=2, sum=3"]);
}

#[tokio::test]
async fn by_time_of_arrival_windows_close_with_the_clock() {
    let server = Server::start([Answer::stream().text("data: {\"n\":7}\n\n").stall()]).await;
    let engine = engine(&create("t", &server, "n BIGINT", "")).await;
    let query = "SELECT sum(n) AS sum FROM t GROUP BY TUMBLE(INTERVAL '200 milliseconds')";
    assert_eq!(take(&mut open(&engine, query).await, 1).await, ["sum=7"]);
}

#[tokio::test]
async fn events_of_unwanted_types_are_silence_for_windows_and_life_for_the_watchdog() {
    let beat = signal();
    let first = Answer::stream().text(&format!("event: tick\n{}", event(1, 0.5)));
    let server = Server::start([(0..2000).fold(first, |answer, _| answer.wait(&beat).event("other", "{}"))]).await;
    let options = "events = 'tick', idle_timeout = '300ms', read_timeout = '250ms'";
    let engine = engine(&create("t", &server, TIMED, options)).await;
    let mut output = open(&engine, &counts("t")).await;
    let beats = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            beat.notify_one();
        }
    };
    tokio::select! {
        rows = take(&mut output, 1) => assert_eq!(rows, ["rows=1, sum=1"]),
        () = beats => {}
    }
    let feed = table(&engine).feed_status().snapshot();
    assert!(feed.filtered > 0 && feed.events == 1, "{feed:?}");
    assert_eq!(server.requests().len(), 1);
}

const UNION: &str = "(SELECT n, ts FROM a UNION ALL SELECT n, ts FROM b)";

#[tokio::test]
async fn where_feeds_meet_the_slower_one_counts() {
    let go = signal();
    let ahead = Server::start([Answer::stream().text(&event(1, 5.0)).stall()]).await;
    let behind = Server::start([Answer::stream()
        .text(&event(10, 0.5))
        .wait(&go)
        .text(&format!("{}{}", event(20, 0.7), event(30, 1.5)))
        .stall()])
    .await;
    let never = "idle_timeout = 'off'";
    let engine = engine(&(create("a", &ahead, TIMED, never) + &create("b", &behind, TIMED, never))).await;
    let mut output = open(&engine, &counts(UNION)).await;
    let progress = output.progress.clone().unwrap();
    until(|| progress.read().1.open_windows == 2).await;
    go.notify_one();
    assert_eq!(take(&mut output, 1).await, ["rows=2, sum=30"]);
}

#[tokio::test]
async fn where_feeds_meet_silent_mute_and_ended_ones_hold_nobody_up() {
    let silent = || Answer::stream().text(&event(10, 0.5)).stall();
    for (other, options) in [
        (silent(), "idle_timeout = '100ms'"),
        (Answer::stream().stall(), "idle_timeout = '100ms'"),
        (Answer::stream().text(&event(10, 0.5)), "reconnect = 'false'"),
        (Answer::status(204), ""),
    ] {
        let go = signal();
        let one = Server::start([Answer::stream().wait(&go).text(&format!("{}{}", event(1, 0.6), event(2, 1.5))).stall()]).await;
        let two = Server::start([other]).await;
        let engine = engine(&(create("a", &one, TIMED, "idle_timeout = 'off'") + &create("b", &two, TIMED, options))).await;
        let mut output = open(&engine, &counts(UNION)).await;
        let other = engine.tables().into_iter().find(|table| table.spec().name == "b").unwrap();
        // It says all it has to say before the feed beside it does.
        until(|| other.status().snapshot().idle || other.silence().is_some_and(|why| why.contains("ended"))).await;
        go.notify_one();
        let rows = take(&mut output, 1).await;
        assert!(rows[0] == "rows=1, sum=1" || rows[0] == "rows=2, sum=11", "{options}: {rows:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_feed_beside_a_silent_one_is_not_the_end_of_time() {
    let go = signal();
    let ended = Server::start([Answer::stream().wait(&go).text(&event(1, 3.0))]).await;
    let more = signal();
    let silent = Server::start([Answer::stream().text(&event(10, 3.0)).wait(&more).text(&event(20, 4.2)).wait(&more)]).await;
    let options = "reconnect = 'false', idle_timeout = '100ms'";
    let engine = engine(&(create("a", &ended, TIMED, options) + &create("b", &silent, TIMED, options))).await;
    let mut output = open(&engine, &counts(UNION)).await;
    let find = |name: &str| engine.tables().into_iter().find(|table| table.spec().name == name).unwrap();
    until(|| find("b").status().snapshot().idle).await;
    go.notify_one();
    assert_eq!(take(&mut output, 1).await, ["rows=2, sum=11"]);
    until(|| find("a").silence().is_some_and(|why| why.contains("ended"))).await;
    more.notify_one();
    until(|| find("b").status().snapshot().rows == 2).await;
    more.notify_one();
    assert_eq!(rest(&mut output).await, ["rows=1, sum=20"]);
    assert_eq!(output.progress.as_ref().unwrap().read().1.late_rows, 0);
}

#[tokio::test]
async fn every_end_of_a_feed_closes_all_windows_and_ends_the_query() {
    let events = event(1, 0.5) + &event(2, 9.5);
    let whole = || Answer::stream().text(&events);
    for (script, options) in [
        (vec![whole(), Answer::status(204)], ""),
        (vec![whole()], "reconnect = 'false'"),
        (vec![whole().text("data: [DONE]\n\n").stall()], "terminator = '[DONE]'"),
    ] {
        let server = Server::start(script).await;
        let engine = engine(&create("t", &server, TIMED, options)).await;
        assert_eq!(rest(&mut open(&engine, &counts("t")).await).await, ["rows=1, sum=1", "rows=1, sum=2"], "{options}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "t.ndjson", format!("{}\n{}\n", timed(1, 0.5), timed(2, 9.5)).as_bytes());
    let engine = engine(&format!("CREATE TABLE t ({TIMED}) WITH (connector = 'file', path = '{}')", path.display())).await;
    assert_eq!(rest(&mut open(&engine, &counts("t")).await).await, ["rows=1, sum=1", "rows=1, sum=2"]);
}

#[tokio::test]
async fn a_time_far_ahead_makes_nobody_late() {
    let far = "data: {\"n\":100,\"ts\":\"2201-01-01T00:00:00Z\"}\n\n";
    for events in
        [[far.into(), event(1, 0.5), event(2, 0.6), event(3, 2.0)], [event(1, 0.5), far.into(), event(2, 0.6), event(3, 2.0)]]
    {
        let one_by_one = events.iter().fold(Answer::stream(), |answer, event| answer.text(event));
        for answer in [Answer::stream().text(&events.concat()), one_by_one] {
            let server = Server::start([answer]).await;
            let engine = engine(&create("t", &server, TIMED, "reconnect = 'false'")).await;
            let mut output = open(&engine, &counts("t")).await;
            assert_eq!(rest(&mut output).await, ["rows=2, sum=3", "rows=1, sum=3", "rows=1, sum=100"]);
            assert_eq!(table(&engine).status().snapshot().ahead, 1);
        }
    }
}

#[tokio::test]
async fn a_time_that_goes_back_counts_where_its_window_is_open_and_is_told_where_not() {
    let go = signal();
    let answer = Answer::stream().text(&(event(1, 1.2) + &event(2, 1.1) + &event(3, 2.5))).wait(&go).text(&event(4, 1.9));
    let server = Server::start([answer.text(&event(5, 2.1))]).await;
    let engine = engine(&create("t", &server, TIMED, "reconnect = 'false'")).await;
    let mut output = open(&engine, &counts("t")).await;
    assert_eq!(take(&mut output, 1).await, ["rows=2, sum=3"]);
    go.notify_one();
    assert_eq!(rest(&mut output).await, ["rows=2, sum=8"]);
    assert_eq!(output.progress.as_ref().unwrap().read().1.late_rows, 1);
}

#[tokio::test]
async fn the_tables_allowed_lateness_corrects_closed_windows() {
    let go = signal();
    let answer = Answer::stream().text(&(event(1, 0.5) + &event(2, 1.5))).wait(&go).text(&event(3, 0.6));
    let server = Server::start([answer]).await;
    let engine = engine(&create("t", &server, TIMED, "reconnect = 'false', allowed_lateness = '10s'")).await;
    let mut output = open(&engine, &counts("t")).await;
    assert_eq!(next(&mut output).await.unwrap().unwrap(), ["+ rows=1, sum=1"]);
    go.notify_one();
    assert_eq!(rest(&mut output).await, ["- rows=1, sum=1", "+ rows=2, sum=4", "+ rows=1, sum=2"]);
}

#[tokio::test]
async fn the_watermarks_delay_waits_for_rows_out_of_order() {
    let events = event(1, 0.5) + &event(2, 3.0) + &event(3, 0.6) + &event(4, 6.0) + &event(5, 0.7);
    let one_by_one = events.split_inclusive("\n\n").fold(Answer::stream(), |answer, event| answer.text(event));
    let go = signal();
    let server = Server::start([one_by_one.wait(&go)]).await;
    let columns = "n BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds'";
    let engine = engine(&create("t", &server, columns, "reconnect = 'false'")).await;
    let mut output = open(&engine, &counts("t")).await;
    let first = take(&mut output, 1).await;
    // The row behind the watermark may have come in the batch that raised it.
    assert!(first[0].starts_with("rows=2, sum=4") || first[0].starts_with("rows=3, sum=9"), "{first:?}");
    go.notify_one();
    assert_eq!(rest(&mut output).await, ["rows=1, sum=2", "rows=1, sum=4"]);
}

#[tokio::test]
async fn what_a_server_sends_again_counts_once_in_a_view() {
    let numbered = |n: i64| format!("id: {n}\n{}", event(n, 0.5));
    let all: String = (1..=6).map(numbered).collect();
    let first: String = (1..=4).map(numbered).collect();
    let server = Server::start([Answer::stream().text(&first).cut(), Answer::stream().text(&all), Answer::status(204)]).await;
    let engine = engine(&create("t", &server, TIMED, "")).await;
    assert_eq!(rest(&mut open(&engine, &counts("t")).await).await, ["rows=6, sum=21"]);
    assert_eq!(table(&engine).feed_status().snapshot().repeated, 4);
}

#[tokio::test]
async fn a_generated_column_can_be_the_event_time_and_rows_without_one_are_told() {
    let events = "data: {\"n\":1,\"ms\":978307200500}\n\ndata: {\"n\":2}\n\ndata: {\"n\":3,\"ms\":978307200900}\n\n";
    let server = Server::start([Answer::stream().text(events)]).await;
    let columns = "n BIGINT, ms BIGINT, ts TIMESTAMP GENERATED ALWAYS AS (to_timestamp_millis(ms)), WATERMARK FOR ts";
    let engine = engine(&create("t", &server, columns, "reconnect = 'false'")).await;
    let query = "SELECT sum(n) AS sum, max(ts) AS latest FROM t GROUP BY TUMBLE(INTERVAL '1 second')";
    assert_eq!(rest(&mut open(&engine, query).await).await, ["sum=4, latest=2001-01-01T00:00:00.900Z"]);
    let status = table(&engine).status().snapshot();
    assert_eq!((status.rows, status.bad), (2, 1));
    assert_eq!(status.samples[0].bad.reason, "event time 'ts' is missing");
    assert!(status.samples[0].bad.data.starts_with("n=2"), "{:?}", status.samples[0]);
}
