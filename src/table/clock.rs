//! The watermark of a table: how rows raise it, and how it goes on while nothing comes; a rule that is told the time.

use std::time::Duration;

use tokio::time::Instant;

use super::spec::{EventTime, Spec};
use crate::time::{Timestamp, TimestampArray, Watermark};

/// An event time further ahead of the clock than this does not move the watermark: one wrong clock must not make all others late.
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The greatest event time seen minus the delay; with the clock while a connection is up and silent; still while none is up.
#[derive(Debug)]
pub(super) struct Clock {
    delay: Duration,
    idle_after: Option<Duration>,
    by_arrival: bool,
    /// The greatest time of arrival so far.
    arrival: Timestamp,
    /// What the rows say, without the help of the clock.
    by_rows: Timestamp,
    last_rows: Option<Instant>,
    /// Since when a connection has been up and no row has come; `None` while there is no connection.
    silent_since: Option<Instant>,
    sent: Option<Watermark>,
}

/// What of a clock outlives the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) arrival: Timestamp,
    pub(super) by_rows: Timestamp,
    /// The last watermark; without a meaning where none was sent.
    pub(super) sent: Timestamp,
    pub(super) has_sent: bool,
}

/// What rows did to the watermark.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Raised {
    /// The watermark, if it moved.
    pub(super) watermark: Option<Watermark>,
    /// Rows too far ahead of the clock to move it.
    pub(super) ahead: usize,
}

impl Clock {
    pub(super) fn new(spec: &Spec) -> Self {
        Clock::with(spec.delay, spec.idle, matches!(spec.time, EventTime::Arrival))
    }

    fn with(delay: Duration, idle_after: Option<Duration>, by_arrival: bool) -> Self {
        Clock {
            delay,
            idle_after,
            by_arrival,
            arrival: Timestamp::MIN,
            by_rows: Timestamp::MIN,
            last_rows: None,
            silent_since: None,
            sent: None,
        }
    }

    pub(super) fn save(&self) -> Saved {
        let sent = self.sent.map_or(Timestamp::MIN, |sent| sent.time);
        Saved { arrival: self.arrival, by_rows: self.by_rows, sent, has_sent: self.sent.is_some() }
    }

    /// Goes on from there, not connected yet: the feed is not idle, whatever it was.
    pub(super) fn load(&mut self, saved: Saved) {
        (self.arrival, self.by_rows) = (saved.arrival, saved.by_rows);
        self.sent = saved.has_sent.then_some(Watermark::at(saved.sent));
    }

    /// Goes on as another spec of the same event time says.
    pub(super) fn adopt(&mut self, spec: &Spec) {
        (self.delay, self.idle_after) = (spec.delay, spec.idle);
    }

    /// The last watermark, for readers that come later.
    pub(super) fn sent(&self) -> Option<Watermark> {
        self.sent
    }

    /// The time of arrival of what comes now: the wall clock, which may be set back, but not here.
    pub(super) fn arrival(&mut self, wall: Timestamp) -> Timestamp {
        self.arrival = self.arrival.max(wall);
        self.arrival
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.silent_since = Some(now);
    }

    /// Without a connection nothing is known: the feed is no longer idle, and others wait for what it will be sent again.
    pub(super) fn disconnected(&mut self) -> Option<Watermark> {
        self.silent_since = None;
        self.advance(Timestamp::MIN, false)
    }

    /// For so long nobody listened to the feed, because its readers were busy: that is no silence.
    pub(super) fn not_listening(&mut self, away: Duration) {
        for since in [&mut self.last_rows, &mut self.silent_since].into_iter().flatten() {
            *since += away;
        }
    }

    /// Rows with these event times have come.
    pub(super) fn rows(&mut self, times: &TimestampArray, now: Instant, wall: Timestamp) -> Raised {
        self.last_rows = Some(now);
        self.silent_since = self.silent_since.map(|_| now);
        let most = self.arrival(wall).plus(AHEAD_MAX).nanos();
        let credible = times.values().iter().filter(|time| **time <= most);
        let (count, latest) = credible.fold((0, i64::MIN), |(count, latest), time| (count + 1, latest.max(*time)));
        self.by_rows = self.by_rows.max(Timestamp(latest).minus(self.delay));
        Raised { watermark: self.advance(self.by_rows, false), ahead: times.len() - count }
    }

    /// The watermark after a while without rows, if it moved: a feed in order of arrival goes with the clock, a silent one from
    /// its last rows on, once it has been silent for long enough on a connection that is up.
    pub(super) fn tick(&mut self, now: Instant, wall: Timestamp) -> Option<Watermark> {
        let since = self.silent_since?;
        if self.by_arrival {
            let arrival = self.arrival(wall);
            return self.advance(arrival.minus(self.delay), false);
        }
        if now.duration_since(since) < self.idle_after? {
            return None;
        }
        let silent = self.last_rows.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.advance(self.by_rows.plus(silent), true)
    }

    fn advance(&mut self, to: Timestamp, idle: bool) -> Option<Watermark> {
        let before = self.sent.unwrap_or(Watermark::at(Timestamp::MIN));
        let watermark = Watermark { time: before.time.max(to), idle };
        if watermark == before {
            return None;
        }
        self.sent = Some(watermark);
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// The wall clock of these tests at second 0, 40 years after their events.
    const WALL: i64 = 2_000_000_000;

    fn seconds(time: i64) -> Timestamp {
        Timestamp(time * 1_000_000_000)
    }

    /// A step at a second of the clock that the feed is timed by.
    enum Step {
        Connect,
        Lose,
        /// Rows with event times in seconds.
        Rows(&'static [i64]),
        Tick,
        /// The readers were busy for so many seconds.
        Away(u64),
    }
    use Step::{Away, Connect, Lose, Rows, Tick};

    fn show(watermark: Option<Watermark>) -> String {
        match watermark {
            None => String::new(),
            Some(Watermark { time: Timestamp::MIN, idle }) => format!("{}none", if idle { "idle " } else { "" }),
            Some(Watermark { time, idle }) => {
                format!("{}{}", if idle { "idle " } else { "" }, time.nanos() as f64 / 1e9)
            }
        }
    }

    fn check(mut clock: Clock, steps: &[(u64, Step, &str)]) {
        let start = Instant::now();
        for (number, (second, step, expect)) in steps.iter().enumerate() {
            let (now, wall) = (start + *second as u32 * SECOND, seconds(WALL + *second as i64));
            let watermark = match step {
                Connect => {
                    clock.connected(now);
                    None
                }
                Lose => clock.disconnected(),
                Rows(times) => {
                    let times = TimestampArray::from_iter_values(times.iter().map(|time| seconds(*time).nanos()));
                    clock.rows(&times, now, wall).watermark
                }
                Tick => clock.tick(now, wall),
                Away(seconds) => {
                    clock.not_listening(*seconds as u32 * SECOND);
                    None
                }
            };
            assert_eq!(show(watermark), *expect, "step {number}, second {second}");
        }
    }

    fn clock() -> Clock {
        Clock::with(2 * SECOND, Some(10 * SECOND), false)
    }

    #[test]
    fn rows_raise_it_and_it_never_goes_back() {
        check(clock(), &[(0, Connect, ""), (0, Rows(&[100, 90]), "98"), (0, Rows(&[70]), ""), (0, Rows(&[101]), "99")]);
    }

    #[test]
    fn silence_counts_from_the_last_rows_in_their_own_time() {
        check(
            clock(),
            &[
                (0, Connect, ""),
                (5, Rows(&[100]), "98"),
                (14, Tick, ""),
                (15, Tick, "idle 108"),
                (16, Tick, "idle 109"),
                (17, Rows(&[101]), "109"),
                (26, Tick, ""),
                (28, Tick, "idle 110"),
            ],
        );
    }

    #[test]
    fn a_feed_that_never_sent_anything_is_idle_without_a_time() {
        check(clock(), &[(0, Tick, ""), (3, Connect, ""), (12, Tick, ""), (13, Tick, "idle none"), (14, Tick, "")]);
    }

    #[test]
    fn while_a_connection_is_down_it_stands_still_and_the_next_one_has_its_time() {
        check(
            clock(),
            &[
                (0, Connect, ""),
                (0, Rows(&[100]), "98"),
                (12, Tick, "idle 110"),
                (13, Lose, "110"),
                (500, Tick, ""),
                (500, Connect, ""),
                (509, Tick, ""),
                (509, Rows(&[110, 111]), ""),
                (510, Lose, ""),
                (520, Connect, ""),
                (530, Tick, "idle 130"),
            ],
        );
    }

    #[test]
    fn time_in_which_nobody_listens_is_no_silence() {
        check(clock(), &[(0, Connect, ""), (0, Rows(&[100]), "98"), (60, Away(55), ""), (61, Tick, ""), (65, Tick, "idle 108")]);
    }

    #[test]
    fn arrival_goes_with_the_clock_while_connected() {
        let clock = Clock::with(2 * SECOND, Some(10 * SECOND), true);
        check(
            clock,
            &[
                (0, Tick, ""),
                (1, Connect, ""),
                (2, Tick, "2000000000"),
                (3, Lose, ""),
                (9, Tick, ""),
                (10, Connect, ""),
                (10, Tick, "2000000008"),
                // The clock is set back.
                (4, Tick, ""),
            ],
        );
    }

    #[test]
    fn the_time_of_arrival_never_goes_back() {
        let mut clock = clock();
        assert_eq!([5, 3, 6].map(|wall| clock.arrival(seconds(wall))), [5, 5, 6].map(seconds));
    }

    #[test]
    fn a_time_far_ahead_moves_nothing_and_its_neighbours_count() {
        let far = WALL + 2 * 86_400;
        let mut clock = clock();
        let mut rows = |times: &[i64]| {
            let times = TimestampArray::from_iter_values(times.iter().map(|time| seconds(*time).nanos()));
            let Raised { watermark, ahead } = clock.rows(&times, Instant::now(), seconds(WALL));
            (show(watermark), ahead)
        };
        assert_eq!(rows(&[far]), (String::new(), 1));
        assert_eq!(rows(&[100, far, 99]), ("98".into(), 1));
        assert_eq!(rows(&[WALL + 3600]), ((WALL + 3598).to_string(), 0));
    }

    #[test]
    fn without_an_idle_timeout_silence_says_nothing() {
        let clock = Clock::with(Duration::ZERO, None, false);
        check(clock, &[(0, Connect, ""), (0, Rows(&[100]), "100"), (100_000, Tick, "")]);
    }
}
