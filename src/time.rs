//! Points in time as the whole product counts them: nanoseconds since 1970-01-01T00:00:00Z, and the watermark made of them.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::datatypes::{DataType, TimeUnit};
use arrow::temporal_conversions::timestamp_ns_to_datetime;

/// Event times, one a row: nanoseconds since 1970 in UTC.
pub type TimestampArray = arrow::array::TimestampNanosecondArray;

/// The zone that the type of every instant carries. A timestamp without a zone is a local time: what a clock on some wall shows.
pub const UTC: &str = "UTC";

/// The type of an instant, as `TIMESTAMP` and `TIMESTAMP WITH TIME ZONE` declare it.
pub fn instant(unit: TimeUnit) -> DataType {
    static ZONE: LazyLock<Arc<str>> = LazyLock::new(|| UTC.into());
    DataType::Timestamp(unit, Some(Arc::clone(&ZONE)))
}

/// The type of an instant that counts nanoseconds: that of event times and of the ends of windows.
pub fn instant_ns() -> DataType {
    instant(TimeUnit::Nanosecond)
}

/// Field metadata that marks the event time of a stream: on a table's column, and on a window with its `start` and `end`.
pub const EVENT_TIME: &str = "streamgauge.event_time";

/// Year, month and day of a day since 1970, in the Gregorian calendar; the year before 1 is 0.
pub fn civil(day: i64) -> (i64, i64, i64) {
    // Years from March on, in cycles of 400 years of 146,097 days.
    let day = day + MARCH_FIRST_OF_YEAR_0;
    let cycle = day.div_euclid(146_097);
    let day = day.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (cycle * 400 + year, month, day)
}

/// The day since 1970 of a date in the Gregorian calendar, which must be one.
pub fn day_of(year: i64, month: i64, day: i64) -> i64 {
    // Counted from March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - MARCH_FIRST_OF_YEAR_0
}

/// Days from the first of March of the year 0 to 1970.
const MARCH_FIRST_OF_YEAR_0: i64 = 719_468;

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
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
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
