//! How long to wait before the next connection, and when to stop trying; a policy that is told the time.
//!
//! A connection that brought something new has done what it is there for, however it ends: many servers send what there is and end the
//! answer. The wait is then the base one each time (`retry:`, or `reconnect_delay`), as in browsers. What brings nothing new is a failure,
//! and failures in a row wait longer and longer.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest wait that a server can ask for by `retry:`; browsers have a floor as well.
const SERVER_DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest wait that a server is obeyed in; what asks for more is taken for a mistake.
const SERVER_DELAY_MAX: Duration = Duration::from_secs(3600);
/// A connection that held for so long was healthy, whatever it brought.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// A connection that brought nothing but what was there before has done its part if it held for half the wait.
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
    /// Some of them were new.
    has_news: bool,
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
        self.connection = Some(Connection { since: now, has_events: false, has_news: false });
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

    /// An event came in that was not there before.
    pub(super) fn news(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.has_news = true;
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
        let mut has_failed = true;
        if let Some(Connection { since, has_events, has_news }) = self.connection.take() {
            let held = now.duration_since(since);
            let is_steady = held >= STEADY_AFTER;
            if is_steady || has_news || (has_events && held.mul_f64(HELD_PER_WAIT) >= base) {
                self.failures = 0;
            }
            if is_steady && loss == Loss::Ended && self.asked.is_none() {
                return Some(AT_ONCE_SPREAD.mul_f64(random));
            }
            has_failed = !has_news;
        }
        let grown = base.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.delay_max);
        if has_failed {
            self.failures = self.failures.saturating_add(1);
        }
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

    /// What a connection brings.
    #[derive(Clone, Copy, PartialEq)]
    enum Brings {
        Nothing,
        Repetitions,
        News,
    }

    /// Waits in seconds after connections that bring this, hold for so long and end so.
    fn after_connections(retry: &mut Retry, brings: Brings, held: Duration, loss: Loss, times: usize) -> Vec<u64> {
        let now = Instant::now();
        let mut wait = || {
            retry.connected(now);
            if brings != Brings::Nothing {
                retry.event();
            }
            if brings == Brings::News {
                retry.news();
            }
            retry.lost(loss, now + held, 0.0).unwrap().as_secs()
        };
        (0..times).map(|_| wait()).collect()
    }

    #[test]
    fn a_connection_with_something_new_is_no_failure_however_short_and_however_it_ends() {
        for loss in [Loss::Ended, Loss::Failed(None)] {
            let mut asked = retry();
            asked.ask(3000);
            for held in [Duration::ZERO, SECOND / 3, 20 * SECOND] {
                assert_eq!(after_connections(&mut retry(), Brings::News, held, loss, 9), [1; 9], "{loss:?} {held:?}");
                assert_eq!(after_connections(&mut asked, Brings::News, held, loss, 9), [3; 9], "{loss:?} {held:?}");
            }
        }
        // The first failure behind it waits as the first one does, and the next one that works begins anew.
        let mut mixed = retry();
        let mut next = |brings, times| after_connections(&mut mixed, brings, Duration::ZERO, Loss::Ended, times);
        assert_eq!((next(Brings::News, 2), next(Brings::Nothing, 3)), (vec![1, 1], vec![1, 2, 4]));
        assert_eq!((next(Brings::News, 2), next(Brings::Repetitions, 2)), (vec![1, 1], vec![1, 2]));
    }

    #[test]
    fn a_connection_without_anything_new_is_a_failure_unless_it_held_for_half_the_wait() {
        let ended = |brings, held| after_connections(&mut retry(), brings, held, Loss::Ended, 4);
        assert_eq!(ended(Brings::Repetitions, SECOND / 3), [1, 2, 4, 8]);
        assert_eq!(ended(Brings::Repetitions, 50 * SECOND), [1, 1, 1, 1]);
        assert_eq!(ended(Brings::Nothing, 50 * SECOND), [1, 2, 4, 8]);
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
