//! What a feed is doing and has done, for everyone who asks: counted by its reader, read by others at any time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Timestamp;

/// Distinct warnings kept; a feed that goes on warning says nothing new.
const WARNINGS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody reads it, so there is no connection.
    NotRead,
    Connecting,
    Connected,
    /// Waiting until the next attempt.
    BackingOff,
    /// Stopped by its user until it is resumed.
    Paused,
    /// Closed by its user until it is told to connect again.
    Disconnected,
    /// Given up: the last error says why.
    Failed,
    /// Came to its end: nothing follows.
    Completed,
}

impl State {
    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            State::NotRead => "not read",
            State::Connecting => "connecting",
            State::Connected => "connected",
            State::BackingOff => "backing off",
            State::Paused => "paused",
            State::Disconnected => "disconnected",
            State::Failed => "failed",
            State::Completed => "completed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The living status of one feed, shared between its reader and its watchers. Holds no secret.
#[derive(Debug)]
pub struct Status {
    events: AtomicU64,
    filtered: AtomicU64,
    repeated: AtomicU64,
    bytes: AtomicU64,
    connects: AtomicU64,
    oversized: AtomicU64,
    discarded_partial: AtomicU64,
    last_event_at: AtomicU64,
    last_byte_at: AtomicU64,
    slow: Mutex<Slow>,
}

/// What became of the events of one read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) filtered: u64,
    pub(super) repeated: u64,
    pub(super) oversized: u64,
}

/// What changes with connections, not with bytes.
#[derive(Debug, Clone)]
struct Slow {
    state: State,
    since: Timestamp,
    last_event_id: String,
    heartbeat: Option<Duration>,
    last_error: Option<String>,
    reconnect_at: Option<Timestamp>,
    warnings: Vec<String>,
}

/// A status as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub state: State,
    /// When the state was entered.
    pub since: Timestamp,
    /// Events handed on.
    pub events: u64,
    /// Events of types that were not wanted.
    pub filtered: u64,
    /// Events that the server sent again after a reconnect and that counted before.
    pub repeated: u64,
    /// Bytes read, after decompression.
    pub bytes: u64,
    /// Connections that came about.
    pub connects: u64,
    /// Events dropped for their size.
    pub oversized: u64,
    /// Connections that ended inside an event; the standard discards it.
    pub discarded_partial: u64,
    pub last_event_at: Option<Timestamp>,
    pub last_byte_at: Option<Timestamp>,
    /// What a reconnect sends; empty where there is none.
    pub last_event_id: String,
    /// The gap between heartbeats, once it is known.
    pub heartbeat: Option<Duration>,
    pub last_error: Option<String>,
    /// When the next attempt starts, while backing off.
    pub reconnect_at: Option<Timestamp>,
    /// What is not as it should be without stopping the feed; each once.
    pub warnings: Vec<String>,
}

impl Default for Status {
    fn default() -> Self {
        Status::new()
    }
}

impl Status {
    pub fn new() -> Self {
        Status {
            events: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
            discarded_partial: AtomicU64::new(0),
            last_event_at: AtomicU64::new(0),
            last_byte_at: AtomicU64::new(0),
            slow: Mutex::new(Slow {
                state: State::NotRead,
                since: Timestamp::now(),
                last_event_id: String::new(),
                heartbeat: None,
                last_error: None,
                reconnect_at: None,
                warnings: Vec::new(),
            }),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let slow = self.slow(|slow| slow.clone());
        let time = |at: &AtomicU64| match at.load(Relaxed) {
            0 => None,
            nanos => Some(Timestamp(nanos as i64)),
        };
        Snapshot {
            state: slow.state,
            since: slow.since,
            events: self.events.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            connects: self.connects.load(Relaxed),
            oversized: self.oversized.load(Relaxed),
            discarded_partial: self.discarded_partial.load(Relaxed),
            last_event_at: time(&self.last_event_at),
            last_byte_at: time(&self.last_byte_at),
            last_event_id: slow.last_event_id,
            heartbeat: slow.heartbeat,
            last_error: slow.last_error,
            reconnect_at: slow.reconnect_at,
            warnings: slow.warnings,
        }
    }

    /// Bytes were read and what was in them handed on.
    pub(super) fn read(&self, now: Timestamp, bytes: u64, counts: Counts) {
        self.last_byte_at.store(now.nanos() as u64, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        if counts.events + counts.filtered + counts.repeated > 0 {
            self.last_event_at.store(now.nanos() as u64, Relaxed);
        }
        for (total, count) in [
            (&self.events, counts.events),
            (&self.filtered, counts.filtered),
            (&self.repeated, counts.repeated),
            (&self.oversized, counts.oversized),
        ] {
            if count > 0 {
                total.fetch_add(count, Relaxed);
            }
        }
    }

    pub(super) fn position(&self, last_event_id: &str, heartbeat: Option<Duration>) {
        self.slow(|slow| {
            if slow.last_event_id != last_event_id {
                slow.last_event_id.clear();
                slow.last_event_id.push_str(last_event_id);
            }
            slow.heartbeat = heartbeat.or(slow.heartbeat);
        });
    }

    /// Nobody reads the feed any more; a failure or an end is still worth telling.
    pub(crate) fn rest(&self, state: State) {
        if !matches!(self.slow(|slow| slow.state), State::Failed | State::Completed) {
            self.enter(state);
        }
    }

    pub(crate) fn enter(&self, state: State) {
        if state == State::Connected {
            self.connects.fetch_add(1, Relaxed);
        }
        self.slow(|slow| {
            if slow.state != state {
                (slow.state, slow.since) = (state, Timestamp::now());
            }
            slow.reconnect_at = None;
        });
    }

    pub(super) fn back_off(&self, reason: String, wait: Duration) {
        self.enter(State::BackingOff);
        self.slow(|slow| {
            slow.last_error = Some(reason);
            slow.reconnect_at = Some(Timestamp::now().plus(wait));
        });
    }

    pub(super) fn fail(&self, reason: String) {
        self.enter(State::Failed);
        self.slow(|slow| slow.last_error = Some(reason));
    }

    pub(super) fn discarded_partial(&self) {
        self.discarded_partial.fetch_add(1, Relaxed);
    }

    pub(super) fn warn(&self, warning: String) {
        self.slow(|slow| {
            if slow.warnings.len() < WARNINGS_MAX && !slow.warnings.contains(&warning) {
                tracing::warn!("{warning}");
                slow.warnings.push(warning);
            }
        });
    }

    fn slow<T>(&self, action: impl FnOnce(&mut Slow) -> T) -> T {
        action(&mut self.slow.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
