//! Points in time as the whole product counts them: nanoseconds since 1970-01-01T00:00:00Z, and the watermark made of them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::temporal_conversions::timestamp_ns_to_datetime;

use crate::error::{Code, Error, Result};

/// Event times, one a row: UTC, without a zone.
pub type TimestampArray = arrow::array::TimestampNanosecondArray;

/// Field metadata that marks the event time of a stream: on a table's column, and on a window with its `start` and `end`.
pub const EVENT_TIME: &str = "streamgauge.event_time";

/// A point in time in nanoseconds since the Unix epoch, UTC; covers the years 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every event.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// After every event: where the watermark stands once a feed has ended.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The wall clock. Only the edge asks for it; the middle is handed a time.
    pub fn now() -> Self {
        Timestamp::from(SystemTime::now())
    }

    pub fn nanos(self) -> i64 {
        self.0
    }

    /// The time `by` earlier, held at the ends of the range; the ends themselves do not move.
    pub fn minus(self, by: Duration) -> Self {
        match self {
            Timestamp::MIN | Timestamp::MAX => self,
            Timestamp(nanos) => Timestamp(nanos.saturating_sub(nanos_of(by))),
        }
    }

    /// The time `by` later, held at the ends of the range; the ends themselves do not move.
    pub fn plus(self, by: Duration) -> Self {
        match self {
            Timestamp::MIN | Timestamp::MAX => self,
            Timestamp(nanos) => Timestamp(nanos.saturating_add(nanos_of(by))),
        }
    }
}

/// Held at the ends of the range.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(nanos_of(since)),
            Err(before) => Timestamp(-nanos_of(before.duration())),
        }
    }
}

/// Whether a program can go by this clock: dates in HTTP, certificates and file formats begin with 1970.
pub fn check(clock: SystemTime) -> Result<()> {
    let time = Timestamp::from(clock);
    match time.nanos() < 0 {
        true => Err(Error::new(Code::Runtime, format!("the clock of this machine stands before 1970, at {time}"))
            .hint("set the clock, then start again")),
        false => Ok(()),
    }
}

/// A duration in nanoseconds, held at the end of the range.
pub fn nanos_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with `Z` and as many decimals as needed: `2026-03-01T12:00:00.5Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, timestamp_ns_to_datetime(self.0)) {
            (Timestamp::MIN, _) => f.write_str("the beginning of time"),
            (Timestamp::MAX, _) => f.write_str("the end of time"),
            (_, Some(time)) => {
                write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S"))?;
                let nanos = self.0.rem_euclid(1_000_000_000);
                if nanos != 0 {
                    let decimals = format!("{nanos:09}");
                    write!(f, ".{}", decimals.trim_end_matches('0'))?;
                }
                f.write_str("Z")
            }
            (_, None) => write!(f, "{} ns", self.0),
        }
    }
}

/// How far a stream has come: no row with an event time before `time` is expected any more.
///
/// An `idle` stream has been silent for so long that it holds nobody up: where streams meet, it is left out of the minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    pub time: Timestamp,
    pub idle: bool,
}

impl Watermark {
    pub fn at(time: Timestamp) -> Self {
        Watermark { time, idle: false }
    }

    pub fn idle(time: Timestamp) -> Self {
        Watermark { time, idle: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_told_and_harms_nothing() {
        let before = UNIX_EPOCH - Duration::from_millis(1_500);
        assert_eq!(Timestamp::from(before), Timestamp(-1_500_000_000));
        assert_eq!(
            check(before).unwrap_err().to_string(),
            "the clock of this machine stands before 1970, at 1969-12-31T23:59:58.5Z; set the clock, then start again"
        );
        check(UNIX_EPOCH).unwrap();
        check(SystemTime::now()).unwrap();
        assert!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(20_000_000_000)) < Timestamp(-i64::MAX + 1));
    }

    #[test]
    fn times_print_as_rfc_3339() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (1_772_366_400_000_000_000, "2026-03-01T12:00:00Z"),
        ] {
            assert_eq!(Timestamp(nanos).to_string(), text);
        }
    }

    #[test]
    fn the_ends_of_time_stay_where_they_are() {
        let day = Duration::from_secs(86_400);
        assert_eq!(Timestamp::MAX.minus(day), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.plus(day), Timestamp::MIN);
        assert_eq!(Timestamp(i64::MIN + 1).minus(day), Timestamp::MIN);
    }
}
