//! One client of a channel: what it is told first, then everything that comes, from wherever it left off.
//!
//! A client holds places in views and no events. It is asked for bytes only when its connection can take them, so one that does not
//! read costs nothing but its place; when the history has moved past that, it is told and let go, and comes back for a snapshot.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::ask::{Ask, When};
use super::channel::{Channel, End, Next, events, failure};
use super::counters::{Counters, OpenClient};
use super::frame::{self, FrameFields};
use super::position::{Position, Start};
use crate::error::Result;
use crate::time::Timestamp;
use crate::view::{Followed, Health, Live, Snapshot};

/// How long a client waits before it comes back after a broken connection.
const RETRY: Duration = Duration::from_secs(3);

/// Clients of a server that stops come back spread over this time, so that they do not all come at once.
const RETURN_MS: std::ops::RangeInclusive<u64> = 1000..=10_000;

/// Rows of a snapshot that are written at once.
const SNAPSHOT_ROWS: usize = 512;

/// Bytes of changes that one client encodes for itself at once.
const CATCH_UP_BYTES: usize = 256 * 1024;

/// The history is read in pieces of so many entries.
const CATCH_UP_ENTRIES: usize = 64;

/// Bytes of a snapshot that is kept for the next client.
const KEPT_SNAPSHOT_BYTES: usize = 256 * 1024;

/// A connected client.
pub struct Client {
    channel: Arc<Channel>,
    turns: watch::Receiver<u64>,
    /// What is sent before anything else.
    greeting: Option<Bytes>,
    /// Snapshots to send, by view, and how many rows of the first are sent.
    snapshots: Vec<(usize, Snapshot)>,
    sent_rows: usize,
    /// Rows of all snapshots, until their end is told.
    snapshot_rows: Option<usize>,
    /// The last change of each view that it has.
    at: Arc<[u64]>,
    /// Its next run, while it has everything before that.
    turn: Option<u64>,
    heartbeat: Heart,
    /// Events it still wants.
    left: Option<u64>,
    /// Why it gets no more, once that is so.
    over: Option<&'static str>,
    /// Its name in the log.
    id: String,
    events: u64,
    open: OpenClient,
}

/// When a sign of life is due.
struct Heart {
    /// How long after the last write, and a timer until then; `None` for never. One timer for good: to put it off is far cheaper than to
    /// set another with each write.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    as_event: bool,
}

/// What a client says and is told besides changes.
pub struct Greeting<'a> {
    /// The named stream, if it is one.
    pub stream: Option<&'a str>,
    pub ask: &'a Ask,
    /// Between two heartbeats; `None` for none.
    pub heartbeat: Option<Duration>,
}

impl Client {
    /// Connects a client; gives the id of the place after which its changes begin, too.
    pub fn connect(channel: Arc<Channel>, greeting: &Greeting, open: OpenClient) -> Result<(Client, String)> {
        let ask = greeting.ask;
        let names: Vec<&str> = channel.parts().iter().map(|part| part.live.name.as_str()).collect();
        let start = ask.start(&names);
        let mut told = Vec::new();
        let mut at = Vec::with_capacity(names.len());
        let mut snapshots = Vec::new();
        let mut resets = Vec::new();
        for (index, part) in channel.parts().iter().enumerate() {
            let live = &part.live;
            let (after, fresh) = match &start {
                Start::New => (None, true),
                Start::Earliest => (Some(live.oldest() - 1), false),
                Start::Latest => (Some(live.head()), false),
                Start::Garbage => {
                    resets.push((index, "garbage"));
                    (None, true)
                }
                Start::After(places) => match places[index] {
                    None => (None, true),
                    Some(place) => match unresumable(live, place) {
                        None => (Some(place.seq), false),
                        Some(reason) => {
                            resets.push((index, reason));
                            (None, true)
                        }
                    },
                },
            };
            let wanted = match ask.snapshot {
                When::Auto => fresh,
                When::Always => true,
                When::Never => false,
            };
            at.push(match wanted {
                true => {
                    let snapshot = live.snapshot()?;
                    let seq = snapshot.seq;
                    snapshots.push((index, snapshot));
                    seq
                }
                false => after.unwrap_or_else(|| live.head()),
            });
        }
        let id = channel.ids(&at, 0).of(at[0]);
        let resumed = matches!(start, Start::After(_)) && resets.is_empty() && snapshots.is_empty();
        let rows = (!snapshots.is_empty()).then(|| snapshots.iter().map(|(_, snapshot)| snapshot.rows.num_rows()).sum());
        frame::retry(RETRY.as_millis() as u64, &mut told);
        let client = client_id();
        greet(&channel, &client, greeting, resumed, rows.is_none().then_some(id.as_str()), &mut told);
        tracing::info!(client, stream = greeting.stream, views = names.join(","), resumed, after = id, "a client connected");
        for (index, reason) in &resets {
            let live = &channel.parts()[*index].live;
            let oldest: Vec<u64> = channel.parts().iter().map(|part| part.live.oldest()).collect();
            let action = if rows.is_some() { "resnapshot" } else { "continue" };
            let oldest = channel.ids(&oldest, *index).of(live.oldest());
            let data = serde_json::json!({"reason": reason, "view": live.name, "oldest": oldest, "action": action});
            FrameFields::named("reset").write(data.to_string().as_bytes(), &mut told);
            Counters::add(&open.counters().resets, 1);
        }
        let timer = greeting.heartbeat.map(|every| (every, Box::pin(sleep(every))));
        let heartbeat = Heart { timer, as_event: ask.heartbeat_event };
        let client = Client {
            turns: channel.turns(),
            greeting: Some(told.into()),
            snapshots,
            sent_rows: 0,
            snapshot_rows: rows,
            at: at.into(),
            turn: None,
            heartbeat,
            left: ask.limit,
            over: None,
            id: client,
            events: 0,
            open,
            channel,
        };
        Ok((client, id))
    }

    /// The next bytes to send; `None` at the end. Cancel-safe: nothing is taken before it is given.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over.is_some() {
                return None;
            }
            self.turns.mark_unchanged();
            if let Some(bytes) = self.ready() {
                Counters::add(&self.open.counters().bytes, bytes.len() as u64);
                self.heartbeat.put_off();
                return Some(bytes);
            }
            tokio::select! {
                biased;
                _ = self.turns.changed() => {}
                () = self.heartbeat.due() => {
                    self.heartbeat.put_off();
                    return Some(self.heartbeat.beat());
                }
            }
        }
    }

    /// What can be sent at once.
    fn ready(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        if let Some(end) = self.channel.end().filter(|end| *end == End::Shutdown) {
            return Some(self.end(end));
        }
        loop {
            if self.over.is_some() {
                return None;
            }
            if self.snapshot_rows.is_some() {
                match self.snapshot() {
                    Some(bytes) if bytes.is_empty() => continue,
                    Some(bytes) => return Some(bytes),
                    None => {}
                }
            }
            match self.channel.next(self.turn) {
                Next::Run(run) => {
                    self.turn = self.turn.map(|turn| turn + 1);
                    self.at = run.at;
                    return Some(self.take(run.bytes, run.events));
                }
                Next::Wait(at) => {
                    self.at = at;
                    return None;
                }
                Next::End(end) => return Some(self.end(end)),
                Next::Behind { at, turn } => {
                    // A view whose snapshot is newer than the runs is waited for.
                    let due = |mine: &Arc<[u64]>| mine.iter().zip(at.iter()).position(|(mine, theirs)| mine < theirs);
                    if let Some(part) = due(&self.at) {
                        let bytes = self.catch_up(part, at[part]);
                        match bytes.is_empty() {
                            true => continue,
                            false => return Some(bytes),
                        }
                    }
                    if self.at != at {
                        return None;
                    }
                    let first = self.turn.is_none();
                    self.turn = Some(turn);
                    if let Some(failures) = self.failures().filter(|_| first) {
                        return Some(failures);
                    }
                }
            }
        }
    }

    /// A piece of the snapshots, then their end; empty where a piece has no events for this client.
    fn snapshot(&mut self) -> Option<Bytes> {
        let Some((part, snapshot)) = self.snapshots.first().cloned() else {
            let rows = self.snapshot_rows.take()?;
            let id = self.channel.ids(&self.at, 0).of(self.at[0]);
            let mut out = Vec::new();
            let data = serde_json::json!({"rows": rows, "id": id});
            FrameFields { id: Some(&id), name: Some("snapshot_end") }.write(data.to_string().as_bytes(), &mut out);
            return Some(out.into());
        };
        let whole = snapshot.rows.num_rows() <= SNAPSHOT_ROWS;
        if whole && let Some(bytes) = self.channel.kept_snapshot(part, snapshot.seq) {
            self.snapshots.remove(0);
            let count = events(&bytes);
            return Some(self.take(bytes, count));
        }
        let count = SNAPSHOT_ROWS.min(snapshot.rows.num_rows() - self.sent_rows);
        let rows = snapshot.rows.slice(self.sent_rows, count);
        self.sent_rows += count;
        if self.sent_rows == snapshot.rows.num_rows() {
            self.sent_rows = 0;
            self.snapshots.remove(0);
        }
        let encoded = self.channel.parts()[part].encoder.snapshot(&rows, snapshot.at.unwrap_or(Timestamp(0)));
        match encoded {
            Ok(encoded) => {
                Counters::add(&self.open.counters().render_errors, encoded.render_errors);
                Counters::add(&self.open.counters().oversized, encoded.oversized);
                if whole && encoded.bytes.len() <= KEPT_SNAPSHOT_BYTES {
                    self.channel.keep_snapshot(part, &snapshot, &encoded.bytes);
                }
                Some(self.take(encoded.bytes, encoded.events))
            }
            Err(error) => Some(self.fail(part, &error)),
        }
    }

    /// Changes of view `part` up to number `to` that this client has not, from the view's history.
    fn catch_up(&mut self, part: usize, to: u64) -> Bytes {
        let channel = Arc::clone(&self.channel);
        let live = &channel.parts()[part].live;
        let mut at = self.at.to_vec();
        let (mut out, mut count) = (Vec::new(), 0);
        for followed in live.after(at[part], CATCH_UP_ENTRIES) {
            match followed {
                Followed::Entry(entry) if entry.last <= to => match channel.encode(part, &entry, at[part] + 1, &at) {
                    Ok((bytes, events)) => {
                        out.extend_from_slice(&bytes);
                        count += events;
                        at[part] = entry.last;
                    }
                    Err(error) => return self.fail(part, &error),
                },
                Followed::Entry(_) => break,
                Followed::Gap { oldest } => return self.lagged(part, oldest),
                Followed::Dropped => return self.end(End::Dropped(live.name.clone())),
            }
            if out.len() > CATCH_UP_BYTES {
                break;
            }
        }
        self.at = at.into();
        self.take(out.into(), count)
    }

    /// The bytes of events, as many as the client still wants.
    fn take(&mut self, bytes: Bytes, count: u64) -> Bytes {
        let (bytes, count) = match &mut self.left {
            Some(left) if *left <= count => {
                self.over = Some("limit");
                let end = memchr::memmem::find_iter(&bytes, b"\n\n").nth(*left as usize - 1).map_or(bytes.len(), |at| at + 2);
                (bytes.slice(..end), *left)
            }
            Some(left) => {
                *left -= count;
                (bytes, count)
            }
            None => (bytes, count),
        };
        Counters::add(&self.open.counters().events, count);
        self.events += count;
        bytes
    }

    /// Tells the client that it was too slow.
    fn lagged(&mut self, part: usize, oldest: u64) -> Bytes {
        self.over = Some("lagged");
        let live = &self.channel.parts()[part].live;
        let dropped = oldest.saturating_sub(self.at[part] + 1);
        let counters = self.open.counters();
        Counters::add(&counters.lagged, 1);
        Counters::add(&counters.dropped, dropped);
        let oldest = self.channel.ids(&self.at, part).of(oldest);
        let data = serde_json::json!({"view": live.name, "dropped": dropped, "oldest": oldest});
        let mut out = Vec::new();
        FrameFields::named("lagged").write(data.to_string().as_bytes(), &mut out);
        out.into()
    }

    fn fail(&mut self, part: usize, error: &crate::error::Error) -> Bytes {
        self.over = Some("failed");
        let mut out = Vec::new();
        failure(&self.channel.parts()[part].live.name, error, &mut out);
        out.into()
    }

    fn end(&mut self, end: End) -> Bytes {
        self.over = Some(match end {
            End::Shutdown => "shutdown",
            End::Stopped => "stopped",
            End::Dropped(_) => "dropped",
        });
        let mut out = Vec::new();
        let told = match end {
            End::Shutdown => {
                frame::retry(fastrand::u64(RETURN_MS), &mut out);
                return out.into();
            }
            End::Stopped => serde_json::json!({"reason": "stopped"}),
            End::Dropped(view) => serde_json::json!({"reason": "dropped", "view": view}),
        };
        FrameFields::named("error").write(told.to_string().as_bytes(), &mut out);
        out.into()
    }

    /// The views that have failed already.
    fn failures(&self) -> Option<Bytes> {
        let mut out = Vec::new();
        for part in self.channel.parts() {
            if let Health::Failed(error) = part.live.health() {
                failure(&part.live.name, &error, &mut out);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        tracing::info!(client = self.id, events = self.events, reason = self.over.unwrap_or("left"), "a client is gone");
    }
}

impl Heart {
    /// Something was written.
    fn put_off(&mut self) {
        if let Some((every, timer)) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + *every);
        }
    }

    /// Until nothing was written for long enough. Cancel-safe.
    async fn due(&mut self) {
        match &mut self.timer {
            Some((_, timer)) => timer.await,
            None => pending().await,
        }
    }

    fn beat(&self) -> Bytes {
        let mut out = Vec::new();
        match self.as_event {
            true => {
                let millis = Timestamp::now().nanos() / 1_000_000;
                FrameFields::named("heartbeat").write(format!("{{\"timestamp\":{millis}}}").as_bytes(), &mut out);
            }
            false => frame::comment("heartbeat", &mut out),
        }
        out.into()
    }
}

/// Why a client cannot go on from its place, if so.
fn unresumable(live: &Live, place: Position) -> Option<&'static str> {
    match live.number(place.epoch, place.seq) {
        None => Some("epoch"),
        Some(seq) if seq > live.head() => Some("garbage"),
        Some(seq) if seq + 1 < live.oldest() => Some("retention"),
        Some(_) => None,
    }
}

fn client_id() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    format!("c_{:x}", NUMBER.fetch_add(1, Relaxed))
}

/// `event: connected`, with the id of the client's place if nothing comes before its changes.
fn greet(channel: &Channel, client: &str, greeting: &Greeting, resumed: bool, id: Option<&str>, out: &mut Vec<u8>) {
    let mut data = serde_json::json!({"clientId": client});
    if let Some(stream) = greeting.stream {
        data["stream"] = stream.into();
    }
    match channel.parts() {
        [part] => data["view"] = part.live.name.as_str().into(),
        parts => data["views"] = parts.iter().map(|part| part.live.name.as_str()).collect(),
    }
    data["format"] = serde_json::to_value(greeting.ask.shape.format).unwrap_or_default();
    data["resumed"] = resumed.into();
    FrameFields { id, name: Some("connected") }.write(data.to_string().as_bytes(), out);
}

#[cfg(test)]
mod tests;
