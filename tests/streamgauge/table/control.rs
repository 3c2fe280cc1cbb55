//! Orders of a table's user, and readers that follow it in different ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use streamgauge::error::{Code, Error};
use streamgauge::feed::{Cause, FeedState};
use streamgauge::operator::Message;
use streamgauge::options::BadData;
use streamgauge::sql::{self, StatementKind};
use streamgauge::table::{Follow, Subscription, Table, TableSpec};

use super::{HUNG, create, engine, open, signal, table, take, until};
use crate::support::server::{Answer, Server};

/// Rows that a casual reader may lag behind, and then some.
const MANY: i64 = 300_000;

fn number(n: i64) -> String {
    format!("id: {n}\ndata: {{\"n\":{n}}}\n\n")
}

fn numbers(range: std::ops::Range<i64>) -> String {
    range.map(number).collect()
}

fn spec(statement: &str) -> TableSpec {
    let (statements, errors) = sql::parse(statement);
    assert_eq!(errors, []);
    let StatementKind::CreateTable(create) = &statements[0].kind else { panic!("no table") };
    TableSpec::new(create, &datafusion::prelude::SessionContext::new().state()).unwrap()
}

fn a_table(server: &Server, options: &str) -> Arc<Table> {
    Table::new(spec(&create("t", server, "n BIGINT", options)))
}

fn follow(table: &Arc<Table>, follow: Follow) -> Subscription {
    let subscription = table.subscribe(vec![0], follow).unwrap();
    table.start();
    subscription
}

/// Reads until so many rows have come; their number.
async fn rows(subscription: &mut Subscription, count: usize) -> Result<usize, Error> {
    let read = async {
        let mut rows = 0;
        while rows < count {
            match subscription.next().await.expect("the table goes on")? {
                Message::Changes(changes) => rows += changes.len(),
                Message::Watermark(_) | Message::Barrier(_) => {}
                Message::End => break,
            }
        }
        Ok(rows)
    };
    tokio::time::timeout(HUNG, read).await.expect("rows come")
}

async fn state(table: &Table, state: FeedState) {
    until(|| table.feed_status().snapshot().state == state).await;
}

#[tokio::test]
async fn a_paused_feed_is_closed_and_goes_on_where_it_stopped() {
    let server = Server::start([Answer::stream().text(&number(7)).stall(), Answer::stream().text(&number(8)).stall()]).await;
    let engine = engine(&create("t", &server, "n BIGINT", "")).await;
    let table = table(&engine);
    let mut output = open(&engine, "SELECT n FROM t").await;
    assert_eq!(take(&mut output, 1).await, ["n=7"]);
    table.pause();
    table.pause();
    server.closed().await;
    state(&table, FeedState::Paused).await;
    assert_eq!(table.silence().as_deref(), Some("paused by its user"));
    let mut late = open(&engine, "SELECT n FROM t").await;
    assert_eq!(server.requests().len(), 1);
    table.resume();
    assert_eq!((take(&mut output, 1).await, take(&mut late, 1).await), (vec!["n=8".to_string()], vec!["n=8".to_string()]));
    assert_eq!(server.request(1).await.header("last-event-id"), Some("7"));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_paused_feed_of_arrival_times_stands_still() {
    let server = Server::start([Answer::stream().text(&number(1)).stall()]).await;
    let table = a_table(&server, "");
    let mut reader = follow(&table, Follow::VIEW);
    rows(&mut reader, 1).await.unwrap();
    let watermark = || table.status().snapshot().watermark;
    let first = watermark();
    until(|| watermark() > first).await;
    table.pause();
    state(&table, FeedState::Paused).await;
    let still = watermark();
    // A reader that comes in is seen by the task that would send a watermark as well, several times over.
    for _ in 0..3 {
        let mut late = follow(&table, Follow::VIEW);
        let message = tokio::time::timeout(HUNG, late.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(message, Message::Watermark(at) if Some(at.time) == still), "{message:?}");
    }
    assert_eq!(watermark(), still);
}

#[tokio::test]
async fn a_disconnected_feed_connects_only_when_told_to() {
    let server = Server::start([Answer::stream().text(&number(1)).stall(), Answer::stream().text(&number(2)).stall()]).await;
    let table = a_table(&server, "");
    let mut reader = follow(&table, Follow::EXACT);
    rows(&mut reader, 1).await.unwrap();
    table.disconnect();
    server.closed().await;
    state(&table, FeedState::Disconnected).await;
    drop(reader);
    // Nobody reads it, and it stays as it is for who comes next.
    let mut reader = follow(&table, Follow::EXACT);
    state(&table, FeedState::Disconnected).await;
    assert_eq!(server.requests().len(), 1);
    table.reconnect();
    rows(&mut reader, 1).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn orders_hold_while_nobody_reads() {
    let server = Server::start([Answer::stream().text(&number(1)).stall()]).await;
    let table = a_table(&server, "");
    let state_now = || table.feed_status().snapshot().state;
    assert_eq!(state_now(), FeedState::NotRead);
    table.pause();
    assert_eq!(state_now(), FeedState::Paused);
    table.disconnect();
    assert_eq!(state_now(), FeedState::Disconnected);
    let mut reader = follow(&table, Follow::EXACT);
    table.resume();
    rows(&mut reader, 1).await.unwrap();
    drop(reader);
    state(&table, FeedState::NotRead).await;
}

#[tokio::test]
async fn a_reconnect_does_not_wait_for_the_next_attempt() {
    let server = Server::start([Answer::status(503), Answer::stream().text(&number(1)).stall()]).await;
    let table = a_table(&server, "reconnect_delay = '50s'");
    let mut reader = follow(&table, Follow::EXACT);
    state(&table, FeedState::BackingOff).await;
    table.reconnect();
    rows(&mut reader, 1).await.unwrap();
}

#[tokio::test]
async fn a_reconnect_closes_the_connection_that_is_there() {
    let server = Server::start([Answer::stream().text(&number(1)).stall(), Answer::stream().text(&number(2)).stall()]).await;
    let table = a_table(&server, "reconnect_delay = '50s'");
    let mut reader = follow(&table, Follow::EXACT);
    rows(&mut reader, 1).await.unwrap();
    table.reconnect();
    rows(&mut reader, 1).await.unwrap();
    assert_eq!(server.request(1).await.header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn a_kept_reader_outlives_the_failure_of_its_feed() {
    let first = Answer::stream().text(&number(1)).cut();
    let server = Server::start([first, Answer::status(401), Answer::stream().text(&number(2)).stall()]).await;
    let table = a_table(&server, "");
    let (mut kept, mut exact) =
        (table.subscribe(vec![0], Follow::VIEW).unwrap(), table.subscribe(vec![0], Follow::EXACT).unwrap());
    table.start();
    assert_eq!((rows(&mut kept, 1).await.unwrap(), rows(&mut exact, 1).await.unwrap()), (1, 1));
    let error = rows(&mut exact, 1).await.unwrap_err();
    assert_eq!(error.code(), Code::Status);
    let status = table.feed_status().snapshot();
    assert_eq!(status.state, FeedState::Failed);
    assert!(status.last_error.unwrap().contains("401"));
    // Others are told at once, without another request.
    assert_eq!(rows(&mut follow(&table, Follow::CASUAL), 1).await.unwrap_err().code(), Code::Status);
    assert_eq!(server.requests().len(), 2);
    table.reconnect();
    rows(&mut kept, 1).await.unwrap();
    assert_eq!(server.request(2).await.header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn a_kept_reader_outlives_a_bad_event_that_fails_its_table() {
    let answer = Answer::stream().text(&number(1)).event("message", "nonsense").text(&number(2)).stall();
    let server = Server::start([answer, Answer::stream().text(&number(3)).stall()]).await;
    let table = a_table(&server, "bad_data = 'fail'");
    assert_eq!(table.spec().bad_data, BadData::Fail);
    let mut kept = follow(&table, Follow::VIEW);
    rows(&mut kept, 1).await.unwrap();
    state(&table, FeedState::Failed).await;
    server.closed().await;
    table.reconnect();
    rows(&mut kept, 1).await.unwrap();
}

/// A feed of events numbered from 1, of which `bad` cannot be read until it is mended. It goes on some events before the one that it is
/// asked for, all in one piece.
async fn breaking(events: usize, bad: (usize, &'static str), data: fn(usize) -> String) -> (Server, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let answer = Answer::by(move |request| {
        let after: usize = request.header("last-event-id").map_or(0, |id| id.parse().unwrap());
        let is_bad = |n| n == bad.0 && !is_mended.load(SeqCst);
        let each = |n| format!("id: {n}\ndata: {}\n\n", if is_bad(n) { bad.1.to_string() } else { data(n) });
        Answer::stream().text(&(after.saturating_sub(5).max(1)..=events).map(each).collect::<String>()).stall()
    });
    (Server::start([answer]).await, mended)
}

#[tokio::test]
async fn what_stands_behind_a_bad_event_is_read_when_the_feed_is_connected_again() {
    let plain: fn(usize) -> String = |n| format!("{{\"n\":{n}}}");
    let pair: fn(usize) -> String = |n| format!("[{{\"n\":{n}}},{{\"n\":{n}}}]");
    let timed = "n BIGINT, ts TIMESTAMP GENERATED ALWAYS AS (to_timestamp_millis(nullif(n, 0))), WATERMARK FOR ts";
    for (columns, options, bad, data, each) in [
        ("n BIGINT", "", "nonsense", plain, 1),
        ("n BIGINT", ", framing = 'json_array'", "[{\"n\":0},{\"n\":\"x\"},{\"n\":0}]", pair, 2),
        ("n BIGINT, part BIGINT GENERATED ALWAYS AS (10 / n)", "", "{\"n\":0}", plain, 1),
        ("n BIGINT, part BIGINT GENERATED ALWAYS AS (10 / n)", ", framing = 'json_array'", "[{\"n\":1},{\"n\":0}]", pair, 2),
        (timed, "", "{\"n\":0}", plain, 1),
        ("n BIGINT PRIMARY KEY", "", "{\"n\":\"x\"}", plain, 1),
        ("n BIGINT PRIMARY KEY, part BIGINT GENERATED ALWAYS AS (10 / n)", "", "{\"n\":0}", plain, 1),
    ] {
        for place in [1, 2, 1_900] {
            let (server, mended) = breaking(2_000, (place, bad), data).await;
            let columns_wanted = if columns.contains("part") { vec![0, 1] } else { vec![0] };
            let table = Table::new(spec(&create("t", &server, columns, &format!("bad_data = 'fail'{options}"))));
            let mut kept = table.subscribe(columns_wanted, Follow::VIEW).unwrap();
            table.start();
            let case = format!("{columns} {options} {place}");
            assert_eq!(numbers_read(&mut kept, (place - 1) * each).await, doubled(1..place, each), "{case}");
            state(&table, FeedState::Failed).await;
            assert_eq!(table.status().snapshot().bad, 1, "{case}");
            // It is met again, and again it is the end.
            table.reconnect();
            until(|| table.status().snapshot().bad == 2).await;
            state(&table, FeedState::Failed).await;
            mended.store(true, SeqCst);
            table.reconnect();
            assert_eq!(numbers_read(&mut kept, (2_001 - place) * each).await, doubled(place..2_001, each), "{case}");
            let after = if place == 1 { None } else { Some((place - 1).to_string()) };
            for request in [1, 2] {
                assert_eq!(server.request(request).await.header("last-event-id"), after.as_deref(), "{case}");
            }
            assert_eq!(table.feed_status().snapshot().gaps, 0, "{case}");
        }
    }
}

fn doubled(range: std::ops::Range<usize>, each: usize) -> Vec<i64> {
    range.flat_map(|n| std::iter::repeat_n(n as i64, each)).collect()
}

/// The first column of the next rows, so many of them.
async fn numbers_read(subscription: &mut Subscription, count: usize) -> Vec<i64> {
    let read = async {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            if let Message::Changes(changes) = subscription.next().await.expect("the table goes on").unwrap() {
                numbers.extend(changes.rows.column(0).as_primitive::<Int64Type>().values());
            }
        }
        numbers
    };
    tokio::time::timeout(HUNG, read).await.expect("rows come")
}

#[tokio::test]
async fn a_casual_reader_that_holds_others_up_is_cut_off() {
    let server = Server::start([Answer::stream().text(&numbers(0..MANY)).stall()]).await;
    let table = a_table(&server, "");
    let mut casual = table.subscribe(vec![0], Follow::CASUAL).unwrap();
    let mut kept = table.subscribe(vec![0], Follow::VIEW).unwrap();
    table.start();
    assert_eq!(rows(&mut kept, MANY as usize).await.unwrap(), MANY as usize);
    let error = rows(&mut casual, MANY as usize).await.unwrap_err();
    assert_eq!(error.code(), Code::Slow);
    assert!(error.way_out().unwrap().contains("view"), "{error}");
}

#[tokio::test]
async fn a_casual_reader_holds_the_feed_up_as_long_as_it_is_alone() {
    let go = signal();
    let server = Server::start([Answer::stream().text(&numbers(0..MANY)).wait(&go).text(&number(MANY)).stall()]).await;
    let table = a_table(&server, "");
    let mut alone = follow(&table, Follow::CASUAL);
    until(|| table.status().snapshot().rows > 250_000).await;
    assert_eq!(rows(&mut alone, MANY as usize).await.unwrap(), MANY as usize);
    go.notify_one();
    rows(&mut alone, 1).await.unwrap();
}

#[tokio::test]
async fn a_casual_reader_that_waits_gives_way_to_who_comes() {
    let server = Server::start([Answer::stream().text(&numbers(0..MANY)).stall()]).await;
    let table = a_table(&server, "");
    let mut alone = follow(&table, Follow::CASUAL);
    until(|| table.status().snapshot().rows > 250_000).await;
    let mut other = follow(&table, Follow::EXACT);
    rows(&mut other, 1).await.unwrap();
    assert_eq!(rows(&mut alone, MANY as usize).await.unwrap_err().code(), Code::Slow);
}

#[tokio::test]
async fn a_table_takes_over_other_headers_without_losing_a_reader() {
    let refusing = Answer::by(|request| match request.header("x-key") {
        Some("new") => Answer::stream().text(&number(2)).event("other", "{\"n\":3}").text(&number(4)).stall(),
        _ => Answer::stream().text(&number(1)).stall(),
    });
    let server = Server::start([refusing]).await;
    let table = a_table(&server, "headers = 'X-Key: old'");
    let mut reader = follow(&table, Follow::EXACT);
    rows(&mut reader, 1).await.unwrap();
    let other = spec(&create("t", &server, "n BIGINT", "headers = 'X-Key: new', events = 'message'"));
    table.reconfigure(other).unwrap();
    assert_eq!(rows(&mut reader, 2).await.unwrap(), 2);
    assert_eq!(server.requests()[1].header("last-event-id"), Some("1"));
    assert_eq!(table.feed_status().snapshot().filtered, 1);
    assert!(table.spec().text.contains("X-Key: new"));
}

#[tokio::test]
async fn other_headers_wake_a_feed_that_has_failed() {
    let server = Server::start([Answer::by(|request| match request.header("x-key") {
        Some("new") => Answer::stream().text(&number(1)).stall(),
        _ => Answer::status(401),
    })])
    .await;
    let table = a_table(&server, "headers = 'X-Key: old'");
    let mut kept = follow(&table, Follow::VIEW);
    state(&table, FeedState::Failed).await;
    table.reconfigure(spec(&create("t", &server, "n BIGINT", "headers = 'X-Key: new'"))).unwrap();
    rows(&mut kept, 1).await.unwrap();
}

#[tokio::test]
async fn what_readers_would_notice_needs_the_table_anew() {
    let (server, other) = (Server::start([Answer::status(204)]).await, Server::start([Answer::status(204)]).await);
    let table = a_table(&server, "");
    for (statement, what) in [
        (create("t", &server, "n BIGINT, m BIGINT", ""), "schema"),
        (create("t", &server, "n TEXT", ""), "schema"),
        (create("t", &other, "n BIGINT", ""), "endpoint"),
        (create("t", &server, "n BIGINT", "framing = 'newline'"), "format"),
        (create("t", &server, "n BIGINT", "reconnect = 'false'"), "end"),
    ] {
        let error = table.reconfigure(spec(&statement)).unwrap_err();
        assert_eq!(error.code(), Code::Recreate);
        assert!(error.message().contains(&format!("another {what} ")), "{error}");
    }
}

#[tokio::test]
async fn a_table_tells_its_turns_what_came_and_why_it_connected_again() {
    let first = Answer::stream().text(&number(1)).event("other", &"x".repeat(5000)).cut();
    let last = Answer::stream().text("data: nonsense\n\n").text(&number(2)).stall();
    let server = Server::start([first, Answer::status(503), last]).await;
    let table = a_table(&server, "events = 'message'");
    let mut reader = follow(&table, Follow::EXACT);
    rows(&mut reader, 2).await.unwrap();
    let feed = table.feed_status();
    let count = |cause| feed.snapshot().reconnects.iter().find(|(known, _)| *known == cause).unwrap().1;
    assert_eq!((count(Cause::Broken), count(Cause::Status), count(Cause::User)), (1, 1, 0));
    assert_eq!((feed.snapshot().http_status, feed.snapshot().attempts), (Some(200), 0));

    let seen: Vec<_> = feed.recent().after(0).into_iter().map(|(at, event)| (at, event.kind, event.id, event.filtered)).collect();
    let message = |at, id: &str| (at, "message".to_string(), id.to_string(), false);
    assert_eq!(seen, [message(1, "1"), (2, "other".into(), "1".into(), true), message(3, "1"), message(4, "2")]);
    let (_, long) = &feed.recent().after(1)[0];
    assert_eq!(long.data, "x".repeat(1024) + "…");

    table.pause();
    feed.log().written_after(7).await;
    let turns: Vec<_> = feed.log().after(0).into_iter().map(|(_, turn)| turn.state).collect();
    use FeedState::{BackingOff, Connected, Connecting, Paused};
    assert_eq!(turns, [Connecting, Connected, BackingOff, Connecting, BackingOff, Connecting, Connected, Paused]);
    let reason = |at: usize| feed.log().after(0)[at].1.reason.clone().unwrap_or_default();
    assert!(reason(2).contains("broke") && reason(4).contains("503"), "{} {}", reason(2), reason(4));

    let bad = table.status().samples().after(0);
    assert_eq!((bad.len(), bad[0].0, bad[0].1.bad.data.as_str()), (1, 1, "nonsense"));
    table.reconnect();
    feed.log().written_after(8).await;
    assert_eq!(count(Cause::User), 1);
}

#[tokio::test]
async fn a_table_tells_how_much_later_than_its_time_a_row_came() {
    let server = Server::start([Answer::stream().text("data: {\"ts\":\"2001-01-01T00:00:00Z\"}\n\n").stall()]).await;
    let table = Table::new(spec(&create("t", &server, "ts TIMESTAMP, WATERMARK FOR ts", "")));
    assert_eq!(table.status().snapshot().lag_ms, None);
    let mut reader = follow(&table, Follow::EXACT);
    rows(&mut reader, 1).await.unwrap();
    let years = table.status().snapshot().lag_ms.unwrap() / (365 * 24 * 60 * 60 * 1000);
    assert!((20..200).contains(&years), "{years}");
}

#[tokio::test]
async fn literal_secrets_of_a_statement_show_nowhere() {
    const SECRET: &str = "geheim-und-lang";
    let server = Server::start([Answer::status(401).text(&format!("not {SECRET}"))]).await;
    let endpoint = server.url().replace("http://", &format!("http://u:{SECRET}@")) + "/?api_key=" + SECRET;
    let statement = format!(
        "CREATE TABLE t (n BIGINT, at TEXT METADATA FROM 'endpoint') WITH (connector = 'sse', endpoint = '{endpoint}', \
         headers = 'X-Key: {SECRET}, Accept: {{{{ A }}}}', method = 'POST', body = '{SECRET}')"
    );
    let engine = engine(&statement).await;
    let (shows, _) = sql::parse("SHOW CREATE TABLE t");
    let Ok(streamgauge::engine::Answer::Rows(shown)) = engine.execute(&shows[0]).await else { panic!("no rows") };
    let shown = streamgauge::operator::rows::text(&shown, 0);
    assert!(shown.contains("X-Key: ***, Accept: {{ A }}") && shown.contains("api_key=***"), "{shown}");
    let spec = table(&engine).spec();
    for text in [shown, format!("{spec:?} {}", spec.format.endpoint)] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(spec.text.contains(SECRET), "the definition itself is kept");
    let wrong = statement.replace("endpoint = 'http", "endpoint = 'ftp");
    let (statements, _) = sql::parse(&wrong);
    let Err(errors) = engine.execute(&statements[0]).await else { panic!("ftp is refused") };
    for error in &errors {
        let drawn = streamgauge::cli::diagnostic::render(error, "script", &wrong, false);
        assert!(!drawn.contains(SECRET) && drawn.contains("ftp://"), "{drawn}");
    }
}
