//! Why nothing comes: a sentence for each reason.

use super::{TIMED, create, engine, event, open, rest, table, take, until};
use crate::support::server::{Answer, Server, Signal};

/// Reads a table until it says that it is silent because of this.
async fn check(script: impl Into<Vec<Answer>>, options: &str, expect: &[&str]) {
    let server = Server::start(script).await;
    let engine = engine(&create("t", &server, TIMED, options)).await;
    let table = table(&engine);
    assert_eq!(table.silence().as_deref(), Some("no query reads it yet"));
    let _output = open(&engine, "SELECT n FROM t").await;
    until(|| table.silence().is_some_and(|why| expect.iter().all(|part| why.contains(part)))).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    check([Answer::silence()], "", &["connecting"]).await;
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let expect = ["not connected: ", "503", ", next attempt at 2"];
    check([Answer::status(503)], "reconnect_delay = '50s'", &expect).await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_has_come() {
    check([Answer::stream().text(":\n").stall()], "", &["connected, no events yet"]).await;
}

#[tokio::test]
async fn events_of_other_types_only() {
    let answer = Answer::stream().event("a", "{}").event("b", "{}").stall();
    check([answer], "events = 'c'", &["all 2 events so far are of types that are not wanted"]).await;
}

#[tokio::test]
async fn events_that_cannot_be_read() {
    let answer = Answer::stream().event("a", "{}").event("b", "nonsense").stall();
    check([answer], "", &["none of 2 events could be read; the last: ", "JSON"]).await;
}

#[tokio::test]
async fn times_far_ahead_of_the_clock() {
    let answer = Answer::stream().event("a", "{\"ts\":\"2201-01-01T00:00:00Z\"}").stall();
    check([answer], "idle_timeout = '100ms'", &["the times of 1 rows lie further ahead of the clock than max_future"]).await;
}

#[tokio::test]
async fn no_rows_any_more() {
    let answer = Answer::stream().text(&event(1, 0.5)).stall();
    check([answer], "idle_timeout = '100ms'", &["no rows for longer than idle_timeout"]).await;
}

#[tokio::test]
async fn a_feed_that_has_failed() {
    check([Answer::status(401)], "", &["failed: ", "401"]).await;
}

#[tokio::test]
async fn a_feed_that_has_ended() {
    check([Answer::status(204)], "", &["the feed has ended without a row"]).await;
    check([Answer::stream().text(&event(1, 0.5))], "reconnect = 'false'", &["the feed has ended"]).await;
}

#[tokio::test]
async fn no_silence_while_rows_flow_and_none_for_others() {
    let server = Server::start([Answer::stream().text(&event(1, 0.5)).stall()]).await;
    let engine = engine(&create("t", &server, TIMED, "")).await;
    let mut output = open(&engine, "SELECT n FROM t").await;
    take(&mut output, 1).await;
    assert_eq!(table(&engine).silence(), None);
    drop(output);
    until(|| table(&engine).silence().as_deref() == Some("no query reads it any more")).await;
    assert_eq!(rest(&mut open(&engine, "SELECT n FROM t LIMIT 0").await).await, Vec::<String>::new());
}

#[tokio::test]
async fn changes_of_other_tables_only_counted_since_it_is_read() {
    let change = |answer: Answer| answer.event("message", r#"{"op":"c","after":{"n":1},"source":{"table":"other"}}"#);
    let server = Server::start([change(change(Answer::stream())).stall(), change(Answer::stream()).stall()]).await;
    let options = "format = 'debezium_json', table = 'mine'";
    let engine = engine(&create("t", &server, "n BIGINT PRIMARY KEY", options)).await;
    for count in [2, 1] {
        let output = open(&engine, "SELECT n FROM t").await;
        let expect = format!("{count} events so far, and no change of a row of mine");
        until(|| table(&engine).silence().as_deref() == Some(&expect)).await;
        drop(output);
        server.closed().await;
    }
}

#[tokio::test]
async fn what_an_earlier_query_has_seen_is_no_sign_of_life() {
    let server = Server::start([Answer::stream().text(&event(1, 0.5)).stall(), Answer::stream().stall()]).await;
    let engine = engine(&create("t", &server, TIMED, "")).await;
    take(&mut open(&engine, "SELECT n FROM t").await, 1).await;
    server.closed().await;
    let _output = open(&engine, "SELECT n FROM t").await;
    until(|| table(&engine).silence().as_deref() == Some("connected, no events yet")).await;
}

#[tokio::test]
async fn a_feed_that_is_connected_and_sends_nothing_is_silent_until_the_next_event() {
    let signal = Signal::default();
    let server = Server::start([Answer::stream().text(&event(1, 0.5)).wait(&signal).text(&event(2, 1.5)).stall()]).await;
    let engine = engine(&create("t", &server, TIMED, "expect_every = '300ms'")).await;
    let table = table(&engine);
    let mut output = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut output, 1).await, ["n=1"]);
    until(|| table.state_text() == "silent").await;
    let why = table.silence().unwrap();
    assert!(why.contains("no event for 300ms (expect_every)"), "{why}");
    signal.notify_one();
    assert_eq!(take(&mut output, 1).await, ["n=2"]);
    until(|| table.state_text() == "silent").await;
    let states: Vec<String> = table.feed_status().log().entries_kept().iter().map(|turn| turn.state.to_string()).collect();
    assert_eq!(states, ["connecting", "connected", "silent", "connected", "silent"]);
    // It is one connection all the time.
    assert_eq!(table.feed_status().snapshot().connects, 1);
}
