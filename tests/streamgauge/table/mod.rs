//! Tables from outside: time, readers and bad events, by queries over a scripted server.

mod control;
mod faults;
mod gaps;
mod keyed;
mod names;
mod readers;
mod silence;
mod time;

use std::sync::Arc;
use std::time::Duration;

use streamgauge::Engine;
use streamgauge::engine::{Answer, Output, Query};
use streamgauge::error::Error;
use streamgauge::operator::rows::text;
use streamgauge::sql;
use streamgauge::table::Table;

use crate::support::server::{self, Server};

/// So long a hung test lives; no test waits for it to pass.
const HUNG: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nobody tells about.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(HUNG, wait).await.expect("it comes to be so");
}

/// `CREATE TABLE` over a server; it reconnects without a wait, unless the options say otherwise.
fn create(name: &str, server: &Server, columns: &str, options: &str) -> String {
    let delay = if options.contains("reconnect_delay") { "" } else { ", reconnect_delay = '0s'" };
    let options = if options.is_empty() { String::new() } else { format!(", {options}") };
    format!("CREATE TABLE {name} ({columns}) WITH (connector = 'sse', endpoint = '{}'{delay}{options});", server.url())
}

/// Columns with an event time.
const TIMED: &str = "n BIGINT, ts TIMESTAMP, WATERMARK FOR ts";

/// A payload with a number and a time, in seconds of a day 25 years ago.
fn timed(n: i64, second: f64) -> String {
    let (minutes, seconds) = ((second / 60.0).floor(), second % 60.0);
    format!("{{\"n\":{n},\"ts\":\"2001-01-01T00:{minutes:02}:{seconds:06.3}Z\"}}")
}

/// An event with such a payload.
fn event(n: i64, second: f64) -> String {
    format!("data: {}\n\n", timed(n, second))
}

/// Rows a window of a second.
fn counts(table: &str) -> String {
    format!("SELECT count(*) AS rows, sum(n) AS sum FROM {table} GROUP BY TUMBLE(INTERVAL '1 second')")
}

/// An engine with these tables and views.
async fn engine(script: &str) -> Engine {
    let engine = Engine::new().unwrap();
    let (statements, errors) = sql::parse(script);
    assert_eq!(errors, []);
    for statement in &statements {
        engine.execute(statement).await.map_err(|errors| format!("{errors:?}")).unwrap();
    }
    engine
}

async fn query(engine: &Engine, text: &str) -> Query {
    let (statements, errors) = sql::parse(text);
    assert_eq!(errors, []);
    match engine.execute(&statements[0]).await {
        Ok(Answer::Query(query)) => *query,
        Ok(_) => panic!("{text} is no query"),
        Err(errors) => panic!("{text}: {errors:?}"),
    }
}

/// Starts one query.
async fn open(engine: &Engine, text: &str) -> Output {
    engine.open(&[query(engine, text).await]).unwrap().swap_remove(0)
}

/// The only table.
fn table(engine: &Engine) -> Arc<Table> {
    engine.tables().swap_remove(0)
}

/// The cells of the next rows, after `+` or `-` where results are corrected; `None` at the end.
async fn next(output: &mut Output) -> Option<Result<Vec<String>, Error>> {
    let changes = tokio::time::timeout(HUNG, output.next_changes()).await.expect("rows come")?;
    Some(changes.map(|changes| {
        let sign = |row| match (output.changelog, changes.weight(row)) {
            (false, _) => "",
            (true, 1..) => "+ ",
            (true, _) => "- ",
        };
        (0..changes.len()).map(|row| format!("{}{}", sign(row), text(&changes.rows, row))).collect()
    }))
}

/// So many rows, as they come.
async fn take(output: &mut Output, count: usize) -> Vec<String> {
    let mut rows = Vec::new();
    while rows.len() < count {
        rows.extend(next(output).await.unwrap_or_else(|| panic!("the query ended after {rows:?}")).unwrap());
    }
    rows
}

/// Everything to the end.
async fn rest(output: &mut Output) -> Vec<String> {
    let mut rows = Vec::new();
    while let Some(more) = next(output).await {
        rows.extend(more.unwrap());
    }
    rows
}

/// The error that ends a query.
async fn failure(output: &mut Output) -> Error {
    loop {
        match next(output).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("the query ended without an error"),
        }
    }
}

fn signal() -> server::Signal {
    server::Signal::default()
}
