//! Columns that no event has are told after the first hundred events.

use super::{create, engine, open, table, take, until};
use crate::support::server::{Answer, Server};

/// So many events of the same payload.
fn events(count: usize, payload: &str) -> String {
    format!("data: {payload}\n\n").repeat(count)
}

#[tokio::test]
async fn a_column_that_no_event_has_is_told_with_the_field_that_could_be_meant() {
    let payload = r#"{"wiki":"en","meta":{"requestId":"r"},"user":"a"}"#;
    let server = Server::start([Answer::stream().text(&events(100, payload)).stall()]).await;
    let columns =
        r#"wikki TEXT, "Wiki" TEXT, meta STRUCT<reqestId TEXT, requestId TEXT>, unread TEXT, id TEXT METADATA FROM 'event_id'"#;
    let engine = engine(&create("t", &server, columns, "")).await;
    let table = table(&engine);
    let mut output = open(&engine, r#"SELECT wikki, "Wiki", meta, id FROM t"#).await;
    take(&mut output, 100).await;
    until(|| !table.warnings().is_empty()).await;
    assert_eq!(
        table.warnings(),
        [
            "column 'wikki' was in none of 100 events; the feed has 'wiki'",
            "column 'Wiki' was in none of 100 events; the feed has 'wiki'",
            "column 'meta.reqestId' was in none of 100 events",
            "column 'id' was in none of 100 events: they have no ids",
        ]
    );
}

#[tokio::test]
async fn ninety_nine_events_say_nothing_yet_and_a_column_that_comes_later_is_told_no_more() {
    let more = crate::support::server::Signal::default();
    let last = crate::support::server::Signal::default();
    let answer = Answer::stream().text(&events(99, r#"{"a":1}"#)).wait(&more).text(&events(1, r#"{"a":1}"#));
    let server = Server::start([answer.wait(&last).text(&events(1, r#"{"a":1,"b":2}"#)).stall()]).await;
    let engine = engine(&create("t", &server, "a BIGINT, b BIGINT", "")).await;
    let table = table(&engine);
    let mut output = open(&engine, "SELECT a, b FROM t").await;
    take(&mut output, 99).await;
    assert_eq!(table.warnings(), [""; 0]);
    more.notify_one();
    take(&mut output, 1).await;
    until(|| table.warnings() == ["column 'b' was in none of 100 events"]).await;
    last.notify_one();
    assert_eq!(take(&mut output, 1).await, ["a=1, b=2"]);
    until(|| table.warnings().is_empty()).await;
}
