//! The watermark of a table: how rows raise it, and how it goes on while nothing comes; a rule that is told the time.

use std::time::Duration;

use tokio::time::Instant;

use super::bursts::Bursts;
use super::spec::{EventTime, TableSpec};
use crate::time::{Timestamp, TimestampArray, Watermark};

/// The greatest event time seen minus the delay; with the clock while a connection is up and silent; still while none is up.
#[derive(Debug)]
pub(super) struct Clock {
    delay: Duration,
    idle_after: Option<Duration>,
    by_arrival: bool,
    /// An event time further ahead of the clock does not move the watermark: one wrong clock must not make all others late. `None` where the
    /// clock has no say.
    ahead_max: Option<Duration>,
    bursts: Bursts,
    /// The greatest time of arrival so far.
    arrival: Timestamp,
    /// What the rows say, without the help of the clock.
    by_rows: Timestamp,
    last_rows: Option<Instant>,
    /// Since when a connection has been up and no row has come; `None` while there is no connection.
    silent_since: Option<Instant>,
    sent: Option<Watermark>,
    /// The greatest watermark that was no supposition of a silence.
    promised: Timestamp,
}

/// What of a clock outlives the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SavedClock {
    pub(super) arrival: Timestamp,
    pub(super) by_rows: Timestamp,
    /// The last watermark that was no supposition; without a meaning where none was sent.
    pub(super) sent: Timestamp,
    pub(super) has_sent: bool,
}

/// What rows did to the watermark.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Raised {
    /// The watermark, if it moved.
    pub(super) watermark: Option<Watermark>,
    /// Rows too far ahead of the clock to move it, and the time of the last of them.
    pub(super) ahead: usize,
    pub(super) far: Option<Timestamp>,
}

impl Clock {
    pub(super) fn new(spec: &TableSpec) -> Self {
        Clock::with(spec.delay, spec.idle, spec.max_future, matches!(spec.time, EventTime::Arrival))
    }

    fn with(delay: Duration, idle_after: Option<Duration>, ahead_max: Option<Duration>, by_arrival: bool) -> Self {
        Clock {
            delay,
            idle_after,
            by_arrival,
            ahead_max,
            bursts: Bursts::default(),
            arrival: Timestamp::MIN,
            by_rows: Timestamp::MIN,
            last_rows: None,
            silent_since: None,
            sent: None,
            promised: Timestamp::MIN,
        }
    }

    pub(super) fn save(&self) -> SavedClock {
        SavedClock { arrival: self.arrival, by_rows: self.by_rows, sent: self.promised, has_sent: self.sent.is_some() }
    }

    /// Goes on from there, not connected yet: the feed is not idle, whatever it was.
    pub(super) fn load(&mut self, saved: SavedClock) {
        (self.arrival, self.by_rows) = (saved.arrival, saved.by_rows);
        self.promised = if saved.has_sent { saved.sent } else { Timestamp::MIN };
        self.sent = saved.has_sent.then_some(Watermark::at(saved.sent));
    }

    /// Goes on as another spec of the same event time says.
    pub(super) fn adopt(&mut self, spec: &TableSpec) {
        (self.delay, self.idle_after, self.ahead_max) = (spec.delay, spec.idle, spec.max_future);
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
        let arrival = self.arrival(wall);
        let most = self.ahead_max.map_or(i64::MAX, |most| arrival.plus(most).nanos());
        let credible = times.values().iter().filter(|time| **time <= most);
        let (count, latest) = credible.fold((0, i64::MIN), |(count, latest), time| (count + 1, latest.max(*time)));
        if let (Some(idle), Some(since), false) = (self.idle_after, self.silent_since, self.by_arrival) {
            let near = |times: &TimestampArray| {
                TimestampArray::from_iter_values(times.values().iter().copied().filter(|time| *time <= most))
            };
            let near = (count < times.len()).then(|| near(times));
            self.bursts.rows(near.as_ref().unwrap_or(times), now, now.duration_since(since), self.by_rows, idle);
        }
        self.last_rows = Some(now);
        self.silent_since = self.silent_since.map(|_| now);
        self.by_rows = self.by_rows.max(Timestamp(latest).minus(self.delay));
        let last = || times.values().iter().rev().find(|time| **time > most).map(|time| Timestamp(*time));
        let far = if count < times.len() { last() } else { None };
        Raised { watermark: self.advance(self.by_rows, false), ahead: times.len() - count, far }
    }

    /// How long the silences between bursts last, where rows come in bursts.
    pub(super) fn period(&self) -> Option<Duration> {
        self.bursts.period()
    }

    /// The watermark after a while without rows, if it moved: a feed in order of arrival goes with the clock, a silent one from
    /// its last rows on, once it has been silent for long enough on a connection that is up.
    pub(super) fn tick(&mut self, now: Instant, wall: Timestamp) -> Option<Watermark> {
        let since = self.silent_since?;
        if self.by_arrival {
            let arrival = self.arrival(wall);
            return self.advance(arrival.minus(self.delay), false);
        }
        let back = self.bursts.hold_back();
        if now.duration_since(since) < self.idle_after?.max(back) {
            return None;
        }
        let silent = self.last_rows.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.advance(self.by_rows.plus(silent.saturating_sub(back)), true)
    }

    fn advance(&mut self, to: Timestamp, idle: bool) -> Option<Watermark> {
        let watermark = Watermark { time: self.promised.max(to), idle };
        if !idle {
            self.promised = watermark.time;
        }
        if watermark == self.sent.unwrap_or(Watermark::at(Timestamp::MIN)) {
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
        Clock::with(2 * SECOND, Some(10 * SECOND), Some(300 * SECOND), false)
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
                // What was supposed gives way to what is known.
                (17, Rows(&[110]), "108"),
                (26, Tick, ""),
                (28, Tick, "idle 119"),
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
                (13, Lose, "98"),
                (500, Tick, ""),
                (500, Connect, ""),
                (509, Tick, ""),
                (509, Rows(&[110, 111]), "109"),
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
        let clock = Clock::with(2 * SECOND, Some(10 * SECOND), Some(300 * SECOND), true);
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
        let mut clock = clock();
        let mut rows = |times: &[i64]| {
            let times = TimestampArray::from_iter_values(times.iter().map(|time| seconds(*time).nanos()));
            let Raised { watermark, ahead, far } = clock.rows(&times, Instant::now(), seconds(WALL));
            (show(watermark), ahead, far.map(|far| far.nanos() / 1_000_000_000))
        };
        let far = WALL + 7200;
        assert_eq!(rows(&[far]), (String::new(), 1, Some(far)));
        assert_eq!(rows(&[100, far, far + 1, 99]), ("98".into(), 2, Some(far + 1)));
        assert_eq!(rows(&[WALL + 299]), ((WALL + 297).to_string(), 0, None));
        assert_eq!(rows(&[WALL + 301]), (String::new(), 1, Some(WALL + 301)));
    }

    #[test]
    fn where_the_clock_has_no_say_every_time_counts() {
        let mut clock = Clock::with(2 * SECOND, Some(10 * SECOND), None, false);
        let times = TimestampArray::from_iter_values([seconds(WALL + 86_400 * 365).nanos()]);
        let Raised { watermark, ahead, .. } = clock.rows(&times, Instant::now(), seconds(WALL));
        assert_eq!((show(watermark), ahead), ((WALL + 86_400 * 365 - 2).to_string(), 0));
    }

    /// A row each second of event time, handed over in bursts at these seconds; the first row that is behind the watermark when it comes.
    fn late(mut clock: Clock, bursts: &[u64]) -> Option<i64> {
        let start = Instant::now();
        let (mut sent, mut next) = (Timestamp::MIN, 0);
        clock.connected(start);
        for tenth in 0..=bursts.last().unwrap() * 10 {
            let (now, wall) = (start + Duration::from_millis(tenth * 100), seconds(WALL));
            let mut moved = |watermark: Option<Watermark>| sent = watermark.map_or(sent, |watermark| sent.max(watermark.time));
            moved(clock.tick(now, wall));
            let second = tenth / 10;
            if tenth % 10 == 0 && bursts.contains(&second) {
                let times = next..=second as i64;
                if let Some(late) = times.clone().find(|time| seconds(*time) < sent) {
                    return Some(late);
                }
                next = second as i64 + 1;
                clock.rows(&TimestampArray::from_iter_values(times.map(|time| seconds(time).nanos())), now, wall);
            }
        }
        None
    }

    #[test]
    fn rows_that_a_proxy_keeps_back_are_not_late() {
        for bursts in [
            &[14, 28, 42][..],
            // The first burst is what there was when the connection was made.
            &[4, 18, 32, 46],
            &[20, 40, 60, 80],
            &[30, 60, 90],
            // Its rhythm is not exact.
            &[14, 30, 43, 62, 75, 90],
            // Short ones first, which end before the feed is idle.
            &[6, 13, 20, 30, 40, 52],
        ] {
            for delay in [0, 5] {
                let clock = Clock::with(delay * SECOND, Some(10 * SECOND), Some(300 * SECOND), false);
                assert_eq!(late(clock, bursts), None, "{bursts:?}, delay {delay}");
            }
        }
    }

    #[test]
    fn a_feed_without_bursts_is_idle_as_soon_as_ever_and_a_stall_is_forgotten() {
        // Rows that come as they happen, now and then after a silence.
        check(
            clock(),
            &[
                (0, Connect, ""),
                (0, Rows(&[100]), "98"),
                (12, Tick, "idle 110"),
                (20, Rows(&[120]), "118"),
                (30, Tick, "idle 128"),
            ],
        );
        let mut clock = clock();
        let start = Instant::now();
        let rows = |clock: &mut Clock, at: u64, times: &[i64]| {
            let times = TimestampArray::from_iter_values(times.iter().map(|time| seconds(*time).nanos()));
            clock.rows(&times, start + at as u32 * SECOND, seconds(WALL));
        };
        clock.connected(start);
        rows(&mut clock, 0, &[0]);
        // The server stood still for ten minutes and sends all that was meanwhile.
        rows(&mut clock, 600, &(1..=600).collect::<Vec<i64>>());
        assert!(clock.tick(start + 700 * SECOND, seconds(WALL)).is_none());
        for number in 1..=8 {
            rows(&mut clock, 700 + number * 20, &[700 + number as i64 * 20]);
        }
        assert_eq!(show(clock.tick(start + 870 * SECOND, seconds(WALL))), "idle 868");
        assert_eq!(clock.period(), None);
    }

    #[test]
    fn bursts_are_told_once_there_were_some() {
        let mut clock = clock();
        let start = Instant::now();
        clock.connected(start);
        for (burst, expect) in [None, None, Some(14), Some(14)].into_iter().enumerate() {
            let at = 14 * (burst as i64 + 1);
            let times = TimestampArray::from_iter_values((at - 14..at).map(|time| seconds(time).nanos()));
            clock.rows(&times, start + at as u32 * SECOND, seconds(WALL));
            assert_eq!(clock.period().map(|period| period.as_secs()), expect, "after burst {burst}");
        }
    }

    #[test]
    fn without_an_idle_timeout_silence_says_nothing() {
        let clock = Clock::with(Duration::ZERO, None, None, false);
        check(clock, &[(0, Connect, ""), (0, Rows(&[100]), "100"), (100_000, Tick, "")]);
    }
}
