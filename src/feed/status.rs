//! What a feed is doing and has done, for everyone who asks: counted by its reader, read by others at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::gap::Gap;
use super::journal::Journal;
use super::parser::Event;
use super::secrets::Secrets;
use crate::error::{Code, Error};
use crate::time::Timestamp;

/// Turns of a feed kept: some hours of a bad one.
const HAPPENINGS: usize = 256;
/// Events kept as they came: enough to see what a feed sends.
const RECENT_EVENTS: usize = 64;
/// Events of one read that are kept: of a busy feed a sample, of a quiet one all.
pub(super) const RECENT_A_READ: usize = 8;
/// Bytes kept of an event's data, and of its type and id.
const RECENT_BYTES: usize = 1024;
/// Gaps kept, the latest ones; all of them are counted.
const GAPS: usize = 256;
/// Distinct warnings kept; a feed that goes on warning says nothing new.
const WARNINGS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// Nobody reads it, so there is no connection.
    NotRead,
    Connecting,
    Connected,
    /// Connected, and without an event for longer than its user expects.
    Silent,
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

impl FeedState {
    pub const ALL: [FeedState; 9] = [
        FeedState::NotRead,
        FeedState::Connecting,
        FeedState::Connected,
        FeedState::Silent,
        FeedState::BackingOff,
        FeedState::Paused,
        FeedState::Disconnected,
        FeedState::Failed,
        FeedState::Completed,
    ];

    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            FeedState::NotRead => "not read",
            FeedState::Connecting => "connecting",
            FeedState::Connected => "connected",
            FeedState::Silent => "silent",
            FeedState::BackingOff => "backing off",
            FeedState::Paused => "paused",
            FeedState::Disconnected => "disconnected",
            FeedState::Failed => "failed",
            FeedState::Completed => "completed",
        }
    }
}

impl std::fmt::Display for FeedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a connection, or an attempt at one, came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server ended the stream.
    Ended,
    /// The connection broke off.
    Broken,
    /// No byte came for too long, or no answer.
    Silent,
    /// An answer with an error status.
    Status,
    /// No connection came about.
    Unreachable,
    Redirect,
    ContentType,
    /// Its user said so.
    User,
    Other,
}

impl Cause {
    pub const ALL: [Cause; 9] = [
        Cause::Ended,
        Cause::Broken,
        Cause::Silent,
        Cause::Status,
        Cause::Unreachable,
        Cause::Redirect,
        Cause::ContentType,
        Cause::User,
        Cause::Other,
    ];

    /// The word for it in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Ended => "ended",
            Cause::Broken => "broken",
            Cause::Silent => "silent",
            Cause::Status => "status",
            Cause::Unreachable => "unreachable",
            Cause::Redirect => "redirect",
            Cause::ContentType => "content_type",
            Cause::User => "user",
            Cause::Other => "other",
        }
    }

    /// Why an attempt failed with this error.
    pub(super) fn of(error: &Error) -> Cause {
        match error.code() {
            Code::Connect => Cause::Unreachable,
            Code::Silent => Cause::Silent,
            Code::Status => Cause::Status,
            Code::Redirect => Cause::Redirect,
            Code::ContentType => Cause::ContentType,
            _ => Cause::Other,
        }
    }
}

/// A turn in the life of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub at: Timestamp,
    /// The state that was entered.
    pub state: FeedState,
    /// Why, where there is something to tell.
    pub reason: Option<String>,
}

/// An event as it came, its texts cut to a length for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentEvent {
    pub received: Timestamp,
    pub kind: String,
    pub id: String,
    pub data: String,
    /// Its type was not wanted.
    pub filtered: bool,
}

impl RecentEvent {
    pub(super) fn new(event: &Event<'_>, received: Timestamp, filtered: bool) -> Self {
        RecentEvent { received, kind: cut(event.kind), id: cut(event.id), data: cut(event.data), filtered }
    }
}

pub(super) fn cut(text: &str) -> String {
    match text.len() > RECENT_BYTES {
        true => format!("{}…", &text[..text.floor_char_boundary(RECENT_BYTES)]),
        false => text.into(),
    }
}

/// The living status of one feed, shared between its reader and its watchers. Shows no secret.
#[derive(Debug)]
pub struct FeedStatus {
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
    log: Journal<Happening>,
    recent: Journal<RecentEvent>,
    gaps: Journal<Gap>,
    /// How long all gaps lasted together.
    gap_nanos: AtomicU64,
    /// What the latest connection knows and a server may repeat.
    secrets: Mutex<Secrets>,
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
    state: FeedState,
    since: Timestamp,
    last_event_id: String,
    heartbeat: Option<Duration>,
    last_error: Option<String>,
    http_status: Option<u16>,
    attempts: u64,
    reconnects: [u64; Cause::ALL.len()],
    reconnect_at: Option<Timestamp>,
    warnings: Vec<String>,
}

/// A status as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSnapshot {
    pub state: FeedState,
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
    /// The status of the last answer.
    pub http_status: Option<u16>,
    /// Attempts to reconnect since the last event.
    pub attempts: u64,
    /// Connections, or attempts at one, that came to nothing and were followed by another: how many for which cause.
    pub reconnects: [(Cause, u64); Cause::ALL.len()],
    /// When the next attempt starts, while backing off.
    pub reconnect_at: Option<Timestamp>,
    /// Stretches that may have been missed.
    pub gaps: u64,
    /// How long they lasted together.
    pub gap_time: Duration,
    /// What is not as it should be without stopping the feed; each once.
    pub warnings: Vec<String>,
}

impl Default for FeedStatus {
    fn default() -> Self {
        FeedStatus::new()
    }
}

impl FeedStatus {
    pub fn new() -> Self {
        FeedStatus {
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
                state: FeedState::NotRead,
                since: Timestamp::now(),
                last_event_id: String::new(),
                heartbeat: None,
                last_error: None,
                http_status: None,
                attempts: 0,
                reconnects: [0; Cause::ALL.len()],
                reconnect_at: None,
                warnings: Vec::new(),
            }),
            log: Journal::new(HAPPENINGS),
            recent: Journal::new(RECENT_EVENTS),
            gaps: Journal::new(GAPS),
            gap_nanos: AtomicU64::new(0),
            secrets: Mutex::default(),
        }
    }

    pub fn snapshot(&self) -> FeedSnapshot {
        let slow = self.slow(|slow| slow.clone());
        let time = |at: &AtomicU64| match at.load(Relaxed) {
            0 => None,
            nanos => Some(Timestamp(nanos as i64)),
        };
        FeedSnapshot {
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
            http_status: slow.http_status,
            attempts: slow.attempts,
            reconnects: std::array::from_fn(|at| (Cause::ALL[at], slow.reconnects[at])),
            reconnect_at: slow.reconnect_at,
            gaps: self.gaps.last(),
            gap_time: self.gap_time(),
            warnings: slow.warnings,
        }
    }

    /// The turns of the feed, the latest of them.
    pub fn log(&self) -> &Journal<Happening> {
        &self.log
    }

    /// The events that came last, wanted or not; of a busy feed a sample.
    pub fn recent(&self) -> &Journal<RecentEvent> {
        &self.recent
    }

    /// The stretches that may have been missed, the latest of them.
    pub fn gaps(&self) -> &Journal<Gap> {
        &self.gaps
    }

    /// How long all gaps lasted together.
    pub fn gap_time(&self) -> Duration {
        Duration::from_nanos(self.gap_nanos.load(Relaxed))
    }

    /// Counts what gaps of an earlier life lasted, too.
    pub(crate) fn add_gap_time(&self, time: Duration) {
        self.gap_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A stretch of the feed at `place` may have been missed.
    pub(super) fn gap(&self, place: &str, gap: Gap) {
        let gap = Gap { last_id: cut(&gap.last_id), next_id: cut(&gap.next_id), ..gap };
        tracing::warn!(
            feed = place,
            from = %gap.from,
            to = %gap.to,
            last_id = self.shown(&gap.last_id),
            next_id = self.shown(&gap.next_id),
            missing = gap.missing,
            reason = %gap.reason,
            "events may be missing"
        );
        self.add_gap_time(Duration::from_nanos(gap.nanos()));
        self.gaps.write(gap);
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

    /// An event came: the feed works again.
    pub(super) fn proved(&self) {
        self.slow(|slow| slow.attempts = 0);
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

    /// No event has come for longer than expected, on a connection that is up.
    pub(crate) fn fall_silent(&self, reason: String) {
        if self.slow(|slow| slow.state) == FeedState::Connected {
            tracing::warn!("{reason}");
            self.turn(FeedState::Silent, Some(reason), |_| {});
        }
    }

    /// An event has come after such a time.
    pub(crate) fn heard_again(&self) {
        if self.slow(|slow| slow.state) == FeedState::Silent {
            tracing::info!("events come again");
            // The connection is the one of before.
            self.change(FeedState::Connected, Some("events come again".into()), |_| {});
        }
    }

    /// Nobody reads the feed any more; a failure or an end is still worth telling.
    pub(crate) fn rest(&self, state: FeedState) {
        if !matches!(self.slow(|slow| slow.state), FeedState::Failed | FeedState::Completed) {
            self.enter(state);
        }
    }

    pub(crate) fn enter(&self, state: FeedState) {
        self.turn(state, None, |_| {});
    }

    /// The feed has come to its end for this reason.
    pub(super) fn complete(&self, reason: &str) {
        self.turn(FeedState::Completed, Some(reason.into()), |_| {});
    }

    pub(super) fn back_off(&self, cause: Cause, reason: String, wait: Duration, attempts: u64) {
        self.turn(FeedState::BackingOff, Some(reason.clone()), |slow| {
            slow.last_error = Some(reason);
            slow.attempts = attempts;
            slow.reconnects[cause as usize] += 1;
            slow.reconnect_at = Some(Timestamp::now().plus(wait));
        });
    }

    pub(super) fn fail(&self, reason: String) {
        self.turn(FeedState::Failed, Some(reason.clone()), |slow| slow.last_error = Some(reason));
    }

    /// Its user has ordered a new connection.
    pub(super) fn reconnect(&self) {
        self.slow(|slow| {
            slow.attempts = 0;
            slow.reconnects[Cause::User as usize] += 1;
        });
    }

    /// A server has answered.
    pub(super) fn answered(&self, status: u16) {
        self.slow(|slow| slow.http_status = Some(status));
    }

    /// Takes what a connection knows and nobody may see.
    pub(super) fn hide(&self, secrets: Secrets) {
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    /// A text that the feed's server sent, `***` in place of each secret that it was told itself.
    pub fn shown(&self, text: &str) -> String {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).hide(text)
    }

    pub(super) fn keep(&self, event: RecentEvent) {
        self.recent.write(event);
    }

    fn turn(&self, state: FeedState, reason: Option<String>, more: impl FnOnce(&mut Slow)) {
        if state == FeedState::Connected {
            self.connects.fetch_add(1, Relaxed);
        }
        self.change(state, reason, more);
    }

    fn change(&self, state: FeedState, reason: Option<String>, more: impl FnOnce(&mut Slow)) {
        let at = Timestamp::now();
        self.slow(|slow| {
            if slow.state != state {
                (slow.state, slow.since) = (state, at);
                self.log.write(Happening { at, state, reason });
            }
            slow.reconnect_at = None;
            more(slow);
        });
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
        action(&mut self.slow.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
