//! Who reads a table: together, one after the other, slowly, not at all.

use std::time::Duration;

use super::{TIMED, counts, create, engine, event, open, query, rest, signal, table, take, timed, until};
use crate::support::server::{Answer, Server, file};

fn number(n: i64) -> String {
    format!("data: {{\"n\":{n},\"m\":{}}}\n\n", n * 10)
}

const NUMBERS: &str = "n BIGINT, m BIGINT";

#[tokio::test]
async fn queries_opened_together_share_a_connection_and_see_its_first_event() {
    let server = Server::start([Answer::stream().text(&number(1)).stall()]).await;
    let engine = engine(&create("t", &server, NUMBERS, "")).await;
    let queries = [query(&engine, "SELECT n FROM t").await, query(&engine, "SELECT m, n + m AS both FROM t").await];
    let mut outputs = engine.open(&queries).unwrap();
    assert_eq!(take(&mut outputs[0], 1).await, ["n=1"]);
    assert_eq!(take(&mut outputs[1], 1).await, ["m=10, both=11"]);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn who_comes_later_sees_what_comes_from_then_on_and_who_goes_leaves_the_others() {
    let go = signal();
    let answer = Answer::stream().text(&number(1)).wait(&go).text(&number(2)).wait(&go).text(&number(3)).stall();
    let server = Server::start([answer]).await;
    let engine = engine(&create("t", &server, NUMBERS, "")).await;
    let mut first = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut first, 1).await, ["n=1"]);
    let mut second = open(&engine, "SELECT m FROM t").await;
    // A reader at the door is let in before the feed is listened to again, so the next event is its first.
    go.notify_one();
    let seen = take(&mut second, 1).await;
    assert_eq!((seen, take(&mut first, 1).await), (vec!["m=20".to_string()], vec!["n=2".to_string()]));
    drop(first);
    go.notify_one();
    assert_eq!(take(&mut second, 1).await, ["m=30"]);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn who_comes_later_to_a_keyed_table_finds_its_rows_and_sees_what_changes_them() {
    let go = signal();
    let change = |n: i64, m: i64| format!("data: {{\"op\":\"c\",\"after\":{{\"n\":{n},\"m\":{m}}}}}\n\n");
    let answer = Answer::stream()
        .text(&(change(1, 10) + &change(2, 20) + &change(1, 11)))
        .wait(&go)
        .text(&(change(2, 21) + "data: {\"op\":\"d\",\"before\":{\"n\":1}}\n\n"))
        .stall();
    let server = Server::start([answer]).await;
    let engine = engine(&create("t", &server, NUMBERS, "format = 'debezium_json', primary_key = 'n'")).await;
    let mut first = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut first, 2).await, ["+ n=1", "+ n=2"]);
    let mut second = open(&engine, "SELECT m FROM t WHERE m > 10").await;
    let mut third = open(&engine, "SELECT n FROM t WHERE n < 0").await;
    assert_eq!(take(&mut second, 2).await, ["+ m=20", "+ m=11"]);
    go.notify_one();
    assert_eq!(take(&mut second, 3).await, ["- m=20", "+ m=21", "- m=11"]);
    assert_eq!(take(&mut first, 1).await, ["- n=1"]);
    assert!(third.messages.try_recv().is_err());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn who_comes_later_knows_how_far_the_feed_has_come() {
    let mute = Server::start([Answer::stream().stall()]).await;
    let go = signal();
    let other = Server::start([Answer::stream().wait(&go).text(&(event(1, 0.5) + &event(2, 1.5))).stall()]).await;
    let tables = create("a", &mute, TIMED, "idle_timeout = '100ms'") + &create("b", &other, TIMED, "idle_timeout = 'off'");
    let engine = engine(&tables).await;
    let _first = open(&engine, &counts("a")).await;
    until(|| engine.tables()[0].status().snapshot().idle).await;
    let mut union = open(&engine, &counts("(SELECT n, ts FROM a UNION ALL SELECT n, ts FROM b)")).await;
    go.notify_one();
    assert_eq!(take(&mut union, 1).await, ["rows=1, sum=1"]);
}

#[tokio::test]
async fn when_all_have_gone_the_connection_closes_and_a_new_query_begins_anew() {
    let answer = || Answer::stream().text(&format!("id: 7\n{}", number(1))).stall();
    let server = Server::start([answer(), answer()]).await;
    let engine = engine(&create("t", &server, NUMBERS, "")).await;
    let mut output = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut output, 1).await, ["n=1"]);
    drop(output);
    server.closed().await;
    until(|| table(&engine).silence().as_deref() == Some("no query reads it any more")).await;
    assert_eq!(take(&mut open(&engine, "SELECT m FROM t").await, 1).await, ["m=10"]);
    assert_eq!(server.request(1).await.header("last-event-id"), None);
}

#[tokio::test]
async fn a_feed_that_has_ended_or_failed_can_be_queried_again() {
    let server =
        Server::start([Answer::status(204), Answer::status(401), Answer::stream().text(&number(1)), Answer::status(204)]).await;
    let engine = engine(&create("t", &server, NUMBERS, "")).await;
    assert_eq!(rest(&mut open(&engine, "SELECT n FROM t").await).await, Vec::<String>::new());
    super::failure(&mut open(&engine, "SELECT n FROM t").await).await;
    assert_eq!(rest(&mut open(&engine, "SELECT n FROM t").await).await, ["n=1"]);
}

#[tokio::test]
async fn a_query_outlives_its_table_and_is_told_no_end_that_is_none() {
    let go = signal();
    let server = Server::start([Answer::stream().text(&number(1)).wait(&go).text(&number(2)).wait(&go)]).await;
    let engine = engine(&create("t", &server, NUMBERS, "reconnect = 'false'")).await;
    let mut output = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut output, 1).await, ["n=1"]);
    let (statements, _) = streamgauge::sql::parse("DROP TABLE t");
    assert!(engine.execute(&statements[0]).await.is_ok());
    go.notify_one();
    assert_eq!(take(&mut output, 1).await, ["n=2"]);
    drop(output);
    server.closed().await;
}

#[tokio::test]
async fn each_query_reads_a_finite_table_from_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let lines: String = (0..20_000).map(|n| timed(n, n as f64 / 100.0) + "\n").collect();
    let path = file(directory.path(), "t.ndjson", lines.as_bytes());
    let engine = engine(&format!("CREATE TABLE t ({TIMED}) WITH (connector = 'file', path = '{}')", path.display())).await;
    let mut first = open(&engine, "SELECT n FROM t").await;
    let mut seen = take(&mut first, 1).await;
    let second = rest(&mut open(&engine, "SELECT n FROM t").await).await;
    seen.extend(rest(&mut first).await);
    assert_eq!((seen.len(), second.len()), (20_000, 20_000));
    assert_eq!(seen, second);
}

#[tokio::test]
async fn a_table_can_meet_itself() {
    const ROWS: i64 = 50_000;
    let body: String = (0..ROWS).map(|n| event(n, 0.5)).collect();
    let server = Server::start([Answer::stream().text(&body), Answer::status(204)]).await;
    let engine = engine(&create("t", &server, TIMED, "")).await;
    let union = "(SELECT n, ts FROM t WHERE n % 2 = 0 UNION ALL SELECT n, ts FROM t)";
    let sum = (0..ROWS).sum::<i64>() + (0..ROWS).step_by(2).sum::<i64>();
    let rows = rest(&mut open(&engine, &counts(union)).await).await;
    assert_eq!(rows, [format!("rows={}, sum={sum}", ROWS + ROWS / 2)]);
    assert_eq!(server.requests()[0].header("last-event-id"), None);
}

#[tokio::test]
async fn who_does_not_read_stops_the_socket_and_no_watchdog_barks() {
    const PARTS: i64 = 64;
    const PART_ROWS: i64 = 4000;
    // Some 64 MiB: far more than sockets and queues hold.
    let fill = "x".repeat(230);
    let part = |part: i64| -> String {
        let rows = part * PART_ROWS..(part + 1) * PART_ROWS;
        rows.map(|n| format!("data: {{\"n\":{n},\"fill\":\"{fill}\"}}\n\n")).collect()
    };
    let answer = (0..PARTS).fold(Answer::stream(), |answer, number| answer.text(&part(number)));
    let server = Server::start([answer, Answer::status(204)]).await;
    let engine = engine(&create("t", &server, "n BIGINT, fill TEXT", "read_timeout = '200ms'")).await;
    let mut output = open(&engine, "SELECT n, fill FROM t").await;
    let table = table(&engine);
    // The time for which nothing more is read is the subject: several times the watchdog's patience.
    let mut read = (0, tokio::time::Instant::now());
    while read.0 == 0 || read.1.elapsed() < Duration::from_millis(1000) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let bytes = table.feed_status().snapshot().bytes;
        if bytes > read.0 {
            read = (bytes, tokio::time::Instant::now());
        }
    }
    assert!(read.0 < 40 << 20, "{} bytes were read for nobody", read.0);
    let mut expected = 0;
    while let Some(rows) = super::next(&mut output).await {
        for row in rows.unwrap() {
            assert!(row.starts_with(&format!("n={expected}, ")), "{row}");
            expected += 1;
        }
    }
    assert_eq!((expected, server.requests().len()), (PARTS * PART_ROWS, 2));
}
