//! How long to wait before the next connection, and when to stop trying; a policy that is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest wait that a server can ask for by `retry:`; browsers have a floor as well.
const SERVER_DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest wait that a server is obeyed in; what asks for more is taken for a mistake.
const SERVER_DELAY_MAX: Duration = Duration::from_secs(3600);
/// A connection that held for so long was healthy, whatever it brought.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// A connection that brought events has done its part if it held for half the wait: a server that drops its readers every second is read on
/// with a second's waits, also where the first events come at once.
const HELD_PER_WAIT: f64 = 2.0;
/// Spread of the reconnect after a steady stream came to its regular end, which happens to all its readers at once.
const AT_ONCE_SPREAD: Duration = Duration::from_millis(250);
/// Part of the wait that is added at random, so that the readers of one server do not come back in step.
const SPREAD: f64 = 0.5;

/// The retry policy of one feed.
#[derive(Debug, Clone)]
pub(super) struct Retry {
    delay: Duration,
    delay_max: Duration,
    attempts_max: Option<u64>,
    /// The server's `retry:`.
    asked: Option<Duration>,
    /// Failures since the last healthy connection: the exponent.
    failures: u32,
    /// Reconnects since the last good event.
    attempts: u64,
    connection: Option<Connection>,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    since: Instant,
    has_events: bool,
}

/// How a connection, or the attempt at one, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The body ended as HTTP says it should.
    Ended,
    /// Anything else; with the server's `Retry-After`.
    Failed(Option<Duration>),
}

impl Retry {
    pub(super) fn new(delay: Duration, delay_max: Duration, attempts_max: Option<u64>) -> Self {
        Retry { delay, delay_max, attempts_max, asked: None, failures: 0, attempts: 0, connection: None }
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.connection = Some(Connection { since: now, has_events: false });
    }

    /// Reconnects since the last good event.
    pub(super) fn attempts(&self) -> u64 {
        self.attempts
    }

    /// An event came in: the attempts count anew.
    pub(super) fn event(&mut self) {
        self.attempts = 0;
        if let Some(connection) = &mut self.connection {
            connection.has_events = true;
        }
    }

    /// The stream set its reconnection time. `false` if it is out of reason and our own longest wait stands in for it.
    pub(super) fn ask(&mut self, ms: u64) -> bool {
        let asked = Duration::from_millis(ms).max(SERVER_DELAY_MIN);
        let sane = asked <= SERVER_DELAY_MAX;
        self.asked = Some(if sane { asked } else { self.delay_max });
        sane
    }

    /// The wait before the next attempt; `None` once the attempts are used up. `random` lies in `0..1`.
    pub(super) fn lost(&mut self, loss: Loss, now: Instant, random: f64) -> Option<Duration> {
        if self.attempts_max.is_some_and(|most| self.attempts >= most) {
            return None;
        }
        self.attempts += 1;
        let base = self.asked.unwrap_or(self.delay);
        if let Some(Connection { since, has_events }) = self.connection.take() {
            let held = now.duration_since(since);
            let is_steady = held >= STEADY_AFTER;
            if is_steady || (has_events && held.mul_f64(HELD_PER_WAIT) >= base) {
                self.failures = 0;
            }
            if is_steady && loss == Loss::Ended && self.asked.is_none() {
                return Some(AT_ONCE_SPREAD.mul_f64(random));
            }
        }
        let grown = base.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.delay_max);
        self.failures = self.failures.saturating_add(1);
        let after = match loss {
            Loss::Failed(Some(after)) => after.min(SERVER_DELAY_MAX),
            _ => Duration::ZERO,
        };
        Some(grown.max(self.asked.unwrap_or_default()).max(after).mul_f64(1.0 + SPREAD * random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retry() -> Retry {
        Retry::new(SECOND, 60 * SECOND, None)
    }

    fn waits(retry: &mut Retry, loss: Loss, random: f64, times: usize) -> Vec<u64> {
        let now = Instant::now();
        (0..times).map(|_| retry.lost(loss, now, random).unwrap().as_millis() as u64).collect()
    }

    #[test]
    fn the_wait_doubles_up_to_the_cap_and_the_random_part_lies_above() {
        let failed = Loss::Failed(None);
        assert_eq!(waits(&mut retry(), failed, 0.0, 8), [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(waits(&mut retry(), failed, 1.0, 3), [1500, 3000, 6000]);
        assert_eq!(waits(&mut retry(), failed, 0.0, 200)[199], 60_000);
    }

    /// Waits in seconds after connections that bring events or not, and hold for so long.
    fn after_connections(retry: &mut Retry, has_events: bool, held: Duration, times: usize) -> Vec<u64> {
        let now = Instant::now();
        let mut wait = || {
            retry.connected(now);
            if has_events {
                retry.event();
            }
            retry.lost(Loss::Failed(None), now + held, 0.0).unwrap().as_secs()
        };
        (0..times).map(|_| wait()).collect()
    }

    #[test]
    fn a_connection_with_events_that_held_for_half_the_wait_starts_from_the_beginning() {
        assert_eq!(after_connections(&mut retry(), true, SECOND / 2, 4), [1, 1, 1, 1]);
        let mut asked = retry();
        asked.ask(3000);
        assert_eq!(after_connections(&mut asked, true, 2 * SECOND, 3), [3, 3, 3]);
        assert_eq!(after_connections(&mut asked, true, SECOND, 3), [6, 12, 24]);
    }

    #[test]
    fn a_stream_that_ends_at_once_or_brings_nothing_does_not() {
        assert_eq!(after_connections(&mut retry(), true, SECOND / 3, 4), [1, 2, 4, 8]);
        assert_eq!(after_connections(&mut retry(), false, 50 * SECOND, 4), [1, 2, 4, 8]);
    }

    #[test]
    fn a_steady_connection_starts_from_the_beginning_and_its_regular_end_goes_on_at_once() {
        let mut retry = retry();
        let now = Instant::now();
        waits(&mut retry, Loss::Failed(None), 0.0, 5);
        retry.connected(now);
        assert_eq!(retry.lost(Loss::Failed(None), now + 60 * SECOND, 0.0), Some(SECOND));
        retry.connected(now);
        assert!(retry.lost(Loss::Ended, now + 60 * SECOND, 1.0).unwrap() <= AT_ONCE_SPREAD);
    }

    #[test]
    fn what_the_server_asks_for_is_the_floor() {
        let mut retry = retry();
        assert!(retry.ask(90_000));
        assert_eq!(waits(&mut retry, Loss::Ended, 0.0, 2), [90_000, 90_000]);
        assert!(retry.ask(0));
        assert_eq!(retry.asked, Some(SERVER_DELAY_MIN));
        assert!(!retry.ask(99_999_999_999));
        assert_eq!(retry.asked, Some(60 * SECOND));
        let mut retry = self::retry();
        assert_eq!(waits(&mut retry, Loss::Failed(Some(7 * SECOND)), 0.0, 1), [7000]);
        assert_eq!(waits(&mut retry, Loss::Failed(Some(7 * SECOND)), 1.0, 1), [10_500]);
        let day = Duration::from_secs(86_400);
        assert_eq!(waits(&mut retry, Loss::Failed(Some(day)), 0.0, 1), [3_600_000]);
    }

    #[test]
    fn attempts_are_used_up_unless_an_event_comes_between() {
        let mut retry = Retry::new(SECOND, SECOND, Some(2));
        let now = Instant::now();
        let failed = Loss::Failed(None);
        assert!(retry.lost(failed, now, 0.0).is_some());
        retry.connected(now);
        assert!(retry.lost(failed, now, 0.0).is_some());
        retry.event();
        assert!(retry.lost(failed, now, 0.0).is_some());
        assert!(retry.lost(failed, now, 0.0).is_some());
        assert_eq!(retry.lost(failed, now, 0.0), None);
    }
}
