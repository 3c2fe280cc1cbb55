//! When a silent connection counts as dead; a rule that is told the time and learns the server's heartbeat.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::ReadTimeout;

/// The patience `auto` has at least: a busy network may swallow half a minute.
const SILENCE_MIN: Duration = Duration::from_secs(30);
/// The patience `auto` has with a server whose heartbeat is not known; the usual read timeout of SSE clients.
const SILENCE_UNKNOWN: Duration = Duration::from_secs(300);
/// Missed heartbeats that count as death.
const HEARTBEATS_MISSED: u32 = 3;
/// Heartbeats seen before their gap is believed.
const HEARTBEATS_MIN: u32 = 3;
/// Comments nearer to each other than this are one heartbeat; a reader away for longer has missed when they came.
const HEARTBEAT_GAP_MIN: Duration = Duration::from_secs(1);

/// The watchdog of one connection.
///
/// A heartbeat is a comment. Some servers send one after a silence, others at fixed intervals: the gap is the longest silence before
/// a comment, or the shortest time between two, whichever is longer.
#[derive(Debug, Clone)]
pub(super) struct Watchdog {
    rule: ReadTimeout,
    last_byte: Instant,
    last_comment: Option<Instant>,
    comments: u32,
    longest_silence: Duration,
    shortest_interval: Option<Duration>,
}

impl Watchdog {
    pub(super) fn new(rule: ReadTimeout, now: Instant) -> Self {
        Watchdog {
            rule,
            last_byte: now,
            last_comment: None,
            comments: 0,
            longest_silence: Duration::ZERO,
            shortest_interval: None,
        }
    }

    /// Bytes came, among them a comment or not.
    pub(super) fn bytes(&mut self, now: Instant, comment: bool) {
        if comment {
            self.comments = self.comments.saturating_add(1);
            self.longest_silence = self.longest_silence.max(now.duration_since(self.last_byte));
            if let Some(last) = self.last_comment.replace(now) {
                let interval = now.duration_since(last);
                if interval >= HEARTBEAT_GAP_MIN {
                    self.shortest_interval = Some(self.shortest_interval.map_or(interval, |shortest| shortest.min(interval)));
                }
            }
        }
        self.last_byte = now;
    }

    /// We have not been reading for so long: that is no silence of the server.
    pub(super) fn not_reading(&mut self, away: Duration) {
        self.last_byte += away;
        self.last_comment = self.last_comment.filter(|_| away < HEARTBEAT_GAP_MIN);
    }

    /// The gap between heartbeats, once enough of them have been seen.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        let interval = self.shortest_interval.filter(|_| self.comments >= HEARTBEATS_MIN)?;
        Some(interval.max(self.longest_silence))
    }

    /// How much silence is borne; `None` for any.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.rule {
            ReadTimeout::Off => None,
            ReadTimeout::After(patience) => Some(patience),
            ReadTimeout::Auto => Some(match self.heartbeat() {
                Some(gap) => gap.saturating_mul(HEARTBEATS_MISSED).max(SILENCE_MIN),
                None => SILENCE_UNKNOWN,
            }),
        }
    }

    /// When the connection is dead if no byte comes before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.patience().and_then(|patience| self.last_byte.checked_add(patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes at these seconds, a comment where the flag says so; gives the patience in seconds afterwards.
    fn patience(rule: ReadTimeout, bytes: &[(u64, bool)]) -> Option<u64> {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(rule, start);
        for (second, comment) in bytes {
            watchdog.bytes(start + Duration::from_secs(*second), *comment);
        }
        watchdog.patience().map(|patience| patience.as_secs())
    }

    #[test]
    fn auto_waits_three_heartbeats_but_at_least_half_a_minute() {
        assert_eq!(patience(ReadTimeout::Auto, &[]), Some(300));
        assert_eq!(patience(ReadTimeout::Auto, &[(20, true), (40, true)]), Some(300));
        assert_eq!(patience(ReadTimeout::Auto, &[(20, true), (40, true), (60, true)]), Some(60));
        assert_eq!(patience(ReadTimeout::Auto, &[(1, true), (2, true), (3, true)]), Some(30));
        assert_eq!(patience(ReadTimeout::After(Duration::from_secs(2)), &[(1, true)]), Some(2));
        assert_eq!(patience(ReadTimeout::Off, &[(1, true)]), None);
    }

    #[test]
    fn a_heartbeat_at_fixed_intervals_is_known_in_busy_times_too() {
        let busy: Vec<(u64, bool)> = (1..=120).map(|second| (second, second % 40 == 0)).collect();
        assert_eq!(patience(ReadTimeout::Auto, &busy), Some(120));
    }

    #[test]
    fn events_without_heartbeats_say_nothing_about_a_heartbeat() {
        let burst: Vec<(u64, bool)> = (1..=50).map(|second| (second, false)).collect();
        assert_eq!(patience(ReadTimeout::Auto, &burst), Some(300));
    }

    #[test]
    fn the_time_we_do_not_read_does_not_count() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(ReadTimeout::After(Duration::from_secs(10)), start);
        watchdog.not_reading(Duration::from_secs(100));
        assert_eq!(watchdog.deadline(), Some(start + Duration::from_secs(110)));
    }
}
