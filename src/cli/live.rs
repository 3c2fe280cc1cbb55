//! Running queries on the live screen: what feeds and views do, drawn anew a few times a second.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::args::Exit;
use super::present::{EndConditions, messages_of, until};
use super::screen::{FeedLine, Model, Terminal, ViewPane};
use crate::engine::{Engine, Output, Query};
use crate::error::{Code, Error, Result};
use crate::operator::Message;
use crate::table::Table;
use crate::time::{Timestamp, Watermark};

/// Fast enough to look alive, slow enough to read.
const FRAME: Duration = Duration::from_millis(200);
/// How long a rate looks back.
const RATE_SPAN: Duration = Duration::from_secs(2);

/// Shows queries until their feeds end, a limit is reached, or the user leaves.
pub async fn live(engine: &Engine, queries: &[Query], ends: EndConditions) -> Result<Exit> {
    let mut outputs = engine.open(queries)?;
    let name = |output: &Output| output.name.clone().unwrap_or_else(|| "result".into());
    let names: Vec<String> = outputs.iter().map(name).collect();
    let views = outputs.iter().map(|output| ViewPane::new(name(output), &output.schema)).collect();
    let mut model = Model { views, ..Model::default() };
    let mut messages = messages_of(&mut outputs);
    let mut rates = HashMap::new();
    let deadline = ends.timeout.map(|timeout| Instant::now() + timeout);
    let mut left = ends.limit.unwrap_or(u64::MAX);
    let mut frame = interval(FRAME);
    frame.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut terminal = Terminal::open().map_err(unusable)?;
    let user = terminal.left();
    tokio::pin!(user);
    while left > 0 {
        tokio::select! {
            next = messages.next() => match next {
                Some((index, message)) => {
                    if let Message::Changes(changes) = message? {
                        let (changes, count) = changes.first(left);
                        model.apply(&names[index], &changes)?;
                        left -= count;
                    }
                }
                None => break,
            },
            _ = frame.tick() => {
                refresh(&mut model, engine, &outputs, &mut rates);
                terminal.show(&model).map_err(unusable)?;
            }
            () = until(deadline) => break,
            key = &mut user => {
                key.map_err(unusable)?;
                break;
            }
        }
    }
    Ok(Exit::Done)
}

fn unusable(error: io::Error) -> Error {
    Error::new(Code::Output, format!("the terminal cannot be used: {error}")).hint("give --format ndjson for plain rows")
}

/// Events at an earlier moment, from which the rate is counted.
type Rates = HashMap<String, (Instant, u64, f64)>;

fn refresh(model: &mut Model, engine: &Engine, outputs: &[Output], rates: &mut Rates) {
    let reports: Vec<_> = outputs.iter().filter_map(|output| Some(output.progress.as_ref()?.read())).collect();
    let late = reports.iter().map(|(_, report)| report.late_rows).sum();
    model.now = Some(Timestamp::now());
    model.feeds = engine.tables().iter().map(|table| feed_line(table, late, rates)).collect();
    let silence = engine.tables().iter().find_map(|table| table.silence());
    for (pane, (_, report)) in model.views.iter_mut().zip(&reports) {
        pane.next_close = report.next_close;
        pane.silent = silence.clone();
    }
}

fn feed_line(table: &Table, late: u64, rates: &mut Rates) -> FeedLine {
    let feed = table.feed_status().snapshot();
    let status = table.status().snapshot();
    let name = table.spec().name.clone();
    let (since, before, rate) = rates.entry(name.clone()).or_insert((Instant::now(), feed.events, 0.0));
    if since.elapsed() >= RATE_SPAN {
        *rate = feed.events.saturating_sub(*before) as f64 / since.elapsed().as_secs_f64();
        (*since, *before) = (Instant::now(), feed.events);
    }
    FeedLine {
        name,
        state: feed.state.to_string(),
        rate: *rate,
        events: feed.events,
        reconnects: feed.connects.saturating_sub(1),
        watermark: status.watermark.map(|time| Watermark { time, idle: status.idle }),
        dropped: feed.oversized,
        late,
        bad: status.bad,
    }
}
