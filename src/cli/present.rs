//! Running queries in print: rows as they come, and on standard error why there are none.

use std::collections::{HashMap, HashSet};
use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::select_all;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, interval, sleep_until};

use super::args::{Exit, Format};
use super::diagnostic::complain;
use super::output_checkpoints::{CheckpointOutcome, OutputCheckpoints};
use super::print::Printer;
use super::sink::Sink;
use crate::engine::{Engine, Output, Query};
use crate::error::{Code, Error, Result};
use crate::feed::{self, Gap};
use crate::operator::Message;
use crate::plan::readable;
use crate::table::Table;

/// How a run ends before its feeds do.
#[derive(Debug, Clone, Copy, Default)]
pub struct EndConditions {
    /// After so many rows or changes, over all views.
    pub limit: Option<u64>,
    pub timeout: Option<Duration>,
}

/// How often the status line is drawn anew.
const STATUS_TICK: Duration = Duration::from_millis(500);
/// Without a terminal, silence is explained once it has lasted so long.
const SILENCE: Duration = Duration::from_secs(5);

/// Runs queries together until their feeds end, a limit is reached, or `interrupted` is ready.
pub async fn present(
    engine: &Engine,
    queries: &[Query],
    format: Format,
    sink: &mut Sink,
    ends: EndConditions,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit> {
    if ends.limit == Some(0) {
        return Ok(Exit::Done);
    }
    let outputs = engine.open(queries)?;
    let printer = Printer::of(sink, format, &outputs, engine.zone())?;
    print(outputs, engine.tables(), printer, None, ends, interrupted).await
}

/// Prints what outputs say until all has been said, a limit is reached, or `interrupted` is ready; with a keeper until the last
/// checkpoint has been taken then. There the first output that fails ends it all: without it no checkpoint is whole.
pub async fn print(
    mut outputs: Vec<Output>,
    tables: Vec<Arc<Table>>,
    mut printer: Printer<'_>,
    mut keeper: Option<OutputCheckpoints>,
    ends: EndConditions,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit> {
    let mut messages = messages_of(&mut outputs);
    let mut status = StatusLine::new(tables);
    let mut losses = Losses::default();
    let mut left = ends.limit.unwrap_or(u64::MAX);
    let deadline = ends.timeout.map(|timeout| Instant::now() + timeout);
    let mut tick = interval(STATUS_TICK);
    tokio::pin!(interrupted);
    let mut exit = Exit::Done;
    let mut failures: Vec<Error> = Vec::new();
    // Nothing is to come but the last checkpoint; all has been said.
    let (mut is_ending, mut is_silent) = (false, false);
    let mut timed_out = false;
    loop {
        tokio::select! {
            next = messages.next(), if !is_silent => match next {
                Some((index, Ok(Message::Changes(changes)))) => {
                    status.clear();
                    let count = printer.print(index, &changes, left)?;
                    (left, status.rows) = (left - count, status.rows + count);
                    if left == 0 {
                        break;
                    }
                }
                Some((index, Ok(message))) => {
                    if let Some(keeper) = &mut keeper {
                        keeper.note(index, &message);
                    }
                }
                // One result has failed; the others go on. Several over one feed fail for one reason.
                Some((_, Err(error))) => {
                    status.clear();
                    if !failures.contains(&error) {
                        complain(&error);
                        failures.push(error);
                    }
                    if keeper.is_some() {
                        break;
                    }
                }
                None => (is_ending, is_silent) = (true, true),
            },
            turn = turn(&mut keeper) => match turn {
                CheckpointOutcome::Nothing => {}
                CheckpointOutcome::Note(note) => {
                    status.clear();
                    eprintln!("note: {note}");
                }
                CheckpointOutcome::Over(taken) => {
                    if let Err(error) = taken {
                        status.clear();
                        complain(&error);
                        failures.push(error);
                    }
                    break;
                }
            },
            _ = tick.tick() => {
                losses.tell(&outputs, &mut status, false);
                status.show(&outputs);
            }
            () = until(deadline), if !is_ending => (is_ending, timed_out) = (true, true),
            () = &mut interrupted, if !is_ending => {
                exit = Exit::Interrupted;
                is_ending = true;
            }
        }
        match &mut keeper {
            Some(keeper) => {
                keeper.give(&mut printer)?;
                if is_ending {
                    keeper.finish();
                }
            }
            None if is_ending => break,
            None => {}
        }
    }
    status.clear();
    losses.tell(&outputs, &mut status, true);
    if timed_out && let Some(error) = never_connected(&status.tables) {
        complain(&error);
        failures.push(error);
    }
    if failures.is_empty() {
        status.explain_end(&outputs);
    }
    conclude(printer, &failures, exit)
}

/// How a run ends: a failure counts, unless its user has ended it.
fn conclude(printer: Printer<'_>, failures: &[Error], exit: Exit) -> Result<Exit> {
    match (printer.finish(), failures.first()) {
        (Err(error), _) if error.code() != Code::Closed => Err(error),
        (_, Some(failure)) if exit == Exit::Done => Ok(Exit::from(failure)),
        _ => Ok(exit),
    }
}

async fn turn(keeper: &mut Option<OutputCheckpoints>) -> CheckpointOutcome {
    match keeper {
        Some(keeper) => keeper.turn().await,
        None => std::future::pending().await,
    }
}

/// The messages of all outputs in one stream, each with the number of its output.
pub fn messages_of(outputs: &mut [Output]) -> impl Stream<Item = (usize, Result<Message>)> + Unpin + use<> {
    select_all(outputs.iter_mut().enumerate().map(|(index, output)| {
        let receiver = std::mem::replace(&mut output.messages, tokio::sync::mpsc::channel(1).1);
        futures::stream::unfold(receiver, |mut messages| async move { Some((messages.recv().await?, messages)) })
            .map(move |message| (index, message))
            .boxed()
    }))
}

/// Ready at the deadline, if there is one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What did not become rows, told on standard error: at its first sight, and how much it was at the end.
#[derive(Default)]
struct Losses {
    told: HashMap<String, u64>,
    warned: HashSet<String>,
}

impl Losses {
    fn tell(&mut self, outputs: &[Output], status: &mut StatusLine, last: bool) {
        for (name, warning) in warnings(&status.tables) {
            let note = format!("note: table {name}: {warning}");
            if !self.warned.contains(&note) {
                status.clear();
                eprintln!("{note}");
                self.warned.insert(note);
            }
        }
        for (what, count, sample) in losses(outputs, &status.tables) {
            let told = self.told.get(&what).copied().unwrap_or(0);
            if told == 0 || last && told < count {
                status.clear();
                eprintln!("note: {what}: {count}{sample}");
                self.told.insert(what, count);
            }
        }
    }
}

/// What feeds have to say without having failed.
fn warnings(tables: &[Arc<Table>]) -> Vec<(String, String)> {
    let of = |table: &Arc<Table>| {
        let name = table.spec().name.clone();
        table.warnings().into_iter().map(move |warning| (name.clone(), warning))
    };
    tables.iter().filter(|table| table.is_read()).flat_map(of).collect()
}

/// A feed that was to be read and with which no connection came about in all the time there was.
fn never_connected(tables: &[Arc<Table>]) -> Option<Error> {
    let is_there = |table: &&Arc<Table>| !table.is_read() || table.feed_status().snapshot().connects > 0;
    let table = tables.iter().find(|table| !is_there(table))?;
    let why = table.feed_status().snapshot().last_error.unwrap_or_else(|| "the server has not answered".into());
    Some(
        Error::new(Code::Connect, format!("table '{}' was never connected: {why}", table.spec().name))
            .hint("give it more --timeout"),
    )
}

/// Each kind of loss with its number, if there is any, and a sentence about the last one.
fn losses(outputs: &[Output], tables: &[Arc<Table>]) -> Vec<(String, u64, String)> {
    let mut losses = Vec::new();
    for table in tables.iter().filter(|table| table.is_read()) {
        let name = &table.spec().name.clone();
        let rows = table.status().snapshot();
        let sample = rows.samples.last().map_or(String::new(), |sample| format!("; the last: {}", sample.bad.reason));
        losses.push((format!("table {name}: events that could not be read"), rows.bad, sample));
        let sample = rows.far_sample().map_or(String::new(), |sample| format!("; {sample}"));
        losses.push((format!("table {name}: {}", Table::FAR), rows.ahead, sample));
        let (feed, gaps) = (table.feed_status(), table.feed_status().gaps());
        let sample = gaps.after(gaps.last().saturating_sub(1)).pop();
        let sample = sample.map_or(String::new(), |(_, gap)| format!("; the last: {}", missed(&gap, feed)));
        losses.push((format!("table {name}: stretches of the feed that may have been missed"), gaps.last(), sample));
        let oversized = table.feed_status().snapshot().oversized;
        losses.push((format!("table {name}: events over max_event_bytes, which were dropped"), oversized, String::new()));
    }
    for output in outputs {
        let Some(progress) = &output.progress else { continue };
        let report = progress.read().1;
        let name = output.name.as_ref().map_or_else(|| "query".to_string(), |name| format!("view {name}"));
        let sample = report.bad_samples.last();
        let of = |row: &str| if row.is_empty() { String::new() } else { format!(" ({})", readable(row)) };
        let sample = sample.map_or(String::new(), |sample| format!("; the last: {}{}", sample.reason, of(&sample.row)));
        losses.push((format!("{name}: rows that could not be computed"), report.bad_rows, sample));
        let sample = report.late_samples.last();
        let sample = sample.map_or(String::new(), |sample| {
            format!("; the last: {} when the watermark was at {} ({})", sample.time, sample.watermark, readable(&sample.row))
        });
        losses.push((format!("{name}: rows that came too late and were dropped"), report.late_rows, sample));
    }
    losses.retain(|(_, count, _)| *count > 0);
    losses
}

/// A gap in half a sentence.
fn missed(gap: &Gap, feed: &feed::FeedStatus) -> String {
    let id = |place: &str, id: &str| if id.is_empty() { String::new() } else { format!(" {place} id '{}'", feed.shown(id)) };
    let missing = gap.missing.map_or(String::new(), |missing| format!(", {missing} missing"));
    let (behind, before) = (id("behind", &gap.last_id), id("before", &gap.next_id));
    format!("from {} to {}{behind}{before}{missing}: {}", gap.from, gap.to, gap.reason)
}

/// The line below the rows: what the feeds do, and why nothing comes.
struct StatusLine {
    tables: Vec<Arc<Table>>,
    terminal: bool,
    shown: bool,
    explained: bool,
    rows: u64,
    since: Instant,
}

impl StatusLine {
    fn new(tables: Vec<Arc<Table>>) -> Self {
        StatusLine { tables, terminal: stderr().is_terminal(), shown: false, explained: false, rows: 0, since: Instant::now() }
    }

    fn show(&mut self, outputs: &[Output]) {
        if !self.terminal {
            if self.rows == 0 && !self.explained && self.since.elapsed() >= SILENCE {
                self.explained = true;
                eprintln!("note: no rows yet: {}", self.text(outputs));
            }
            return;
        }
        let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        let text: String = format!("{} rows · {}", self.rows, self.text(outputs)).chars().take(width.saturating_sub(1)).collect();
        let _ = write!(stderr(), "\r\x1b[2K\x1b[2m{text}\x1b[0m");
        self.shown = true;
    }

    /// A run that ends without a row says why, if a feed knows.
    fn explain_end(&self, outputs: &[Output]) {
        let is_silent = |table: &Arc<Table>| table.status().snapshot().rows == 0 && table.silence().is_some();
        let silent = self.tables.iter().any(|table| table.is_read() && is_silent(table));
        if self.rows == 0 && !self.explained && silent {
            eprintln!("note: no rows came: {}", self.text(outputs));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }

    fn text(&self, outputs: &[Output]) -> String {
        let feeds = self.tables.iter().filter(|table| table.is_read()).map(|table| {
            let feed = table.feed_status().snapshot();
            let what = table.silence().unwrap_or_else(|| format!("{}, {} events", feed.state, feed.events));
            let watermark = table.status().snapshot().watermark.map_or(String::new(), |time| format!(", watermark {time}"));
            format!("{}: {what}{watermark}", table.spec().name)
        });
        let close = outputs.iter().filter_map(|output| output.progress.as_ref()?.read().1.next_close).min();
        let close = close.map(|time| format!("next window closes at {time}"));
        feeds.chain(close).collect::<Vec<_>>().join(" · ")
    }
}
