//! Feeds that arrive in bursts, as through a proxy that buffers: how far silence may be trusted; a rule that is told the time.
//!
//! Silence of a connected feed lets its watermark go on with the clock. Where a proxy keeps events back, what follows the silence belongs
//! into it: all of it would be late. So each silence that rows end is measured by them: how far they lie behind where silence would have
//! brought the watermark. The watermark is held back by the longest such distance of the latest silences, and by half a silence more, since
//! the next one may last longer. A feed whose events come as they happen is held back by nothing.
//!
//! Before a silence has ended there is one sign: rows of many seconds that come at once. Then it is held back by what they span, within
//! bounds, until the first silence tells more. A server that begins with rows of the past looks the same; there windows close later once.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::time::{Timestamp, TimestampArray};

/// Silences that are remembered: a stall is forgotten after so many.
const SILENCES: usize = 8;
/// Rows that follow within this time belong to the same burst.
const BURST: Duration = Duration::from_secs(1);
/// Rows that come at once and span no more are no sign of anything: clocks and threads differ by so much.
const SPAN_MIN: Duration = Duration::from_secs(1);
/// Without a silence that has ended, it is held back by at least and at most so many times `idle_timeout`.
const GUESS: (u32, u32) = (2, 6);

/// What the latest silences were.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    silences: VecDeque<Silence>,
    burst: Option<Burst>,
    /// What is held back before a silence has ended.
    guess: Duration,
}

#[derive(Debug)]
struct Silence {
    length: Duration,
    /// How far the rows behind it lie behind where it would have brought the watermark.
    behind: Duration,
}

impl Silence {
    fn hold_back(&self) -> Duration {
        // A little is the disorder of any feed.
        let is_burst = self.behind >= self.length / 8;
        self.behind + if is_burst { self.length } else { self.behind } / 2
    }
}

/// Rows that come close together.
#[derive(Debug)]
struct Burst {
    since: Instant,
    /// Where the rows before have brought the watermark, and where the silence would have.
    floor: Timestamp,
    supposed: Option<Timestamp>,
    /// The least and greatest time, of rows that are not late.
    least: Timestamp,
    greatest: Timestamp,
}

impl Bursts {
    /// Rows with these times came at once, after so long a silence; `floor` is the watermark by the rows before.
    pub(super) fn rows(&mut self, times: &TimestampArray, now: Instant, silent: Duration, floor: Timestamp, idle: Duration) {
        let goes_on =
            self.burst.as_ref().is_some_and(|burst| now.duration_since(burst.since) < BURST && silent < BURST.min(idle / 2));
        if !goes_on {
            let supposed = (silent >= idle / 2 && floor > Timestamp::MIN).then(|| floor.plus(silent));
            if supposed.is_some() {
                self.silences.truncate(SILENCES - 1);
                self.silences.push_front(Silence { length: silent, behind: Duration::ZERO });
            }
            self.burst = Some(Burst { since: now, floor, supposed, least: Timestamp::MAX, greatest: Timestamp::MIN });
        }
        let Some(burst) = &mut self.burst else { return };
        // What flows on is not looked at.
        if burst.supposed.is_none() && !(self.silences.is_empty() && rises(times)) {
            return;
        }
        // Rows that are late by those before say nothing about the silence.
        for time in times.values().iter().filter(|time| **time >= burst.floor.nanos()) {
            burst.least = burst.least.min(Timestamp(*time));
            burst.greatest = burst.greatest.max(Timestamp(*time));
        }
        if burst.least > burst.greatest {
            return;
        }
        if let (Some(supposed), Some(silence)) = (burst.supposed, self.silences.front_mut()) {
            silence.behind = between(burst.least, supposed).min(silence.length);
        } else {
            let span = between(burst.least, burst.greatest).saturating_sub(now.duration_since(burst.since));
            if span >= SPAN_MIN {
                self.guess = self.guess.max(span.clamp(idle.saturating_mul(GUESS.0), idle.saturating_mul(GUESS.1)));
            }
        }
    }

    /// How far silence is behind the clock: rows as old as this may still come.
    pub(super) fn hold_back(&self) -> Duration {
        self.silences.iter().map(Silence::hold_back).max().unwrap_or(self.guess)
    }

    /// How long the silences between bursts last, where the feed comes in bursts.
    pub(super) fn period(&self) -> Option<Duration> {
        let mut bursts: Vec<Duration> = self
            .silences
            .iter()
            .filter(|silence| silence.behind >= SPAN_MIN.max(silence.length / 4))
            .map(|silence| silence.length)
            .collect();
        bursts.sort_unstable();
        (bursts.len() >= 2 && bursts.len() * 2 > self.silences.len()).then(|| bursts[bursts.len() / 2])
    }
}

/// Whether these rows are of some time, and not only out of order.
fn rises(times: &TimestampArray) -> bool {
    match times.values().as_ref() {
        [first, .., last] => between(Timestamp(*first), Timestamp(*last)) >= SPAN_MIN,
        _ => false,
    }
}

/// From `earlier` to `later`; nothing where it is the other way round.
fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(later.nanos().saturating_sub(earlier.nanos())).unwrap_or(0))
}
