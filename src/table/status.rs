//! What a table tells about itself: rows, bad events with their reasons, the watermark.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::feed::{self, Journal};
use crate::format::Bad;
use crate::time::{Timestamp, Watermark};

/// Bad events kept with their reason, the latest ones: enough to see a pattern, small enough to forget about.
pub const SAMPLES: usize = 64;

/// Live counters of a table beside those of its feed. Cheap to update, safe to read at any time.
#[derive(Debug)]
pub struct TableStatus {
    rows: AtomicU64,
    bad: AtomicU64,
    ahead: AtomicU64,
    skipped: AtomicU64,
    unmatched: AtomicU64,
    watermark: AtomicI64,
    idle: AtomicBool,
    lag_ms: AtomicI64,
    held: AtomicUsize,
    samples: Journal<BadSample>,
    /// Columns that were in none of the first events, as sentences.
    absent: Mutex<Vec<String>>,
    /// The last row that was too far ahead of the clock: its time, and that of the clock.
    far: Mutex<Option<(Timestamp, Timestamp)>>,
    /// In milliseconds; 0 where the feed does not arrive in bursts.
    burst_ms: AtomicU64,
    before: Mutex<Before>,
}

/// What had been counted when the feed began anew: silence is a matter of what came since.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    pub(super) events: u64,
    pub(super) filtered: u64,
    pub(super) rows: u64,
    pub(super) bad: u64,
    pub(super) ahead: u64,
    pub(super) skipped: u64,
}

/// A bad event: what came, and why it is no row.
#[derive(Debug, Clone, PartialEq)]
pub struct BadSample {
    pub received: Timestamp,
    pub bad: Bad,
}

/// [`TableStatus`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSnapshot {
    /// Rows decoded since the start; of a keyed table, what was told of them.
    pub rows: u64,
    /// Records that could not be read.
    pub bad: u64,
    /// Rows with a time so far ahead of the clock that they do not move the watermark.
    pub ahead: u64,
    /// Records of a change feed that are about no row of this table: other tables, transactions, tombstones.
    pub skipped: u64,
    /// Deletes of rows that were not there.
    pub unmatched: u64,
    /// `None` until a row has moved it.
    pub watermark: Option<Timestamp>,
    /// Silent for longer than `idle_timeout`: the watermark goes on with the clock.
    pub idle: bool,
    /// How much later than its event time the last row came in; below zero where clocks differ. `None` before the first.
    pub lag_ms: Option<i64>,
    pub samples: Vec<BadSample>,
    /// What is not as it should be without making an event bad, as sentences.
    pub notes: Vec<String>,
    /// The last row that was too far ahead of the clock: its time, and that of the clock.
    pub far: Option<(Timestamp, Timestamp)>,
}

impl TableSnapshot {
    /// What there is to say of rows too far ahead of the clock, without their number.
    pub fn far_sample(&self) -> Option<String> {
        self.far.map(|(time, clock)| format!("the last: {time} when it was {clock}"))
    }
}

/// A time as one says it: `14 s`, `2 min`.
fn rough(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", (ms + 500) / 1_000),
        _ => format!("{} min", (ms + 30_000) / 60_000),
    }
}

impl Default for TableStatus {
    fn default() -> Self {
        TableStatus {
            rows: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            unmatched: AtomicU64::new(0),
            watermark: AtomicI64::new(Timestamp::MIN.0),
            idle: Default::default(),
            lag_ms: AtomicI64::new(i64::MIN),
            held: AtomicUsize::new(0),
            samples: Journal::new(SAMPLES),
            absent: Mutex::default(),
            far: Mutex::default(),
            burst_ms: AtomicU64::new(0),
            before: Mutex::default(),
        }
    }
}

impl TableStatus {
    /// Memory of the rows of a keyed table.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    pub(super) fn holds(&self, bytes: usize) {
        self.held.store(bytes, Relaxed);
    }

    pub fn snapshot(&self) -> TableSnapshot {
        let watermark = Timestamp(self.watermark.load(Relaxed));
        TableSnapshot {
            rows: self.rows.load(Relaxed),
            bad: self.bad.load(Relaxed),
            ahead: self.ahead.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            unmatched: self.unmatched.load(Relaxed),
            watermark: (watermark != Timestamp::MIN).then_some(watermark),
            idle: self.idle.load(Relaxed),
            lag_ms: Some(self.lag_ms.load(Relaxed)).filter(|lag| *lag != i64::MIN),
            samples: self.samples.entries_kept(),
            notes: self.notes(),
            far: *self.far.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Bad events with their reasons, the latest of them.
    pub fn samples(&self) -> &Journal<BadSample> {
        &self.samples
    }

    /// The feed begins anew, and the watermark with it, unless they go on from a checkpoint; what was counted stays.
    pub(super) fn begin(&self, feed: &feed::FeedSnapshot, watermark: Option<Watermark>) {
        self.watermark.store(i64::MIN, Relaxed);
        self.watermark(watermark.unwrap_or(Watermark::at(Timestamp::MIN)));
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Before {
            events: feed.events,
            filtered: feed.filtered,
            rows: self.rows.load(Relaxed),
            bad: self.bad.load(Relaxed),
            ahead: self.ahead.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
        };
    }

    pub(super) fn before(&self) -> Before {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows were decoded; the last one that came, if one did, came in so long after its event time.
    pub(super) fn rows(&self, rows: usize, ahead: usize, lag_ms: Option<i64>) {
        if let Some(lag_ms) = lag_ms {
            self.lag_ms.store(lag_ms, Relaxed);
        }
        self.rows.fetch_add(rows as u64, Relaxed);
        self.ahead.fetch_add(ahead as u64, Relaxed);
    }

    /// What a change feed told that made no difference.
    pub(super) fn ignored(&self, skipped: u64, unmatched: u64) {
        self.skipped.fetch_add(skipped, Relaxed);
        self.unmatched.fetch_add(unmatched, Relaxed);
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.absent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.burst_ms.load(Relaxed) {
            0 => {}
            ms => notes.push(format!("arrives in bursts every ~{}; the watermark waits for them", rough(ms))),
        }
        notes
    }

    /// A row came whose time was too far ahead of the clock.
    pub(super) fn far(&self, time: Timestamp, clock: Timestamp) {
        *self.far.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, clock));
    }

    /// How long the silences between bursts last, if rows come in bursts.
    pub(super) fn bursts(&self, period: Option<Duration>) {
        let ms = period.map_or(0, |period| u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        let told = self.burst_ms.load(Relaxed);
        // A rhythm that is not exact is told once.
        if ms == 0 || ms.abs_diff(told) > told / 4 {
            self.burst_ms.store(ms, Relaxed);
        }
    }

    /// Columns that were in none of the first events and have not come since.
    pub(super) fn absent(&self, absent: Vec<String>) {
        let mut known = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.iter().filter(|sentence| !known.contains(sentence)).for_each(|sentence| tracing::warn!("{sentence}"));
        *known = absent;
    }

    pub(super) fn watermark(&self, watermark: Watermark) {
        // What silence supposed is not taken back before those who look.
        self.watermark.fetch_max(watermark.time.nanos(), Relaxed);
        self.idle.store(watermark.idle, Relaxed);
    }

    /// Counts a bad record without keeping it.
    pub(super) fn drop_bad(&self) {
        self.bad.fetch_add(1, Relaxed);
    }

    /// Counts a bad record and keeps it as a sample.
    pub(super) fn keep_bad(&self, bad: Bad, received: Timestamp) {
        self.drop_bad();
        self.samples.write(BadSample { received, bad });
    }
}
