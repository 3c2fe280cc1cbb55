//! One zone: its name, and how far its clocks are from UTC.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use chrono::{DateTime, Datelike, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::error::{Code, Error, Result, nearest};

/// A zone by its name, with all changes of its clocks, or a fixed distance from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Zone {
    Named(Tz),
    /// Seconds east of UTC.
    Fixed(i32),
}

/// What letters mean where they are no name of a place: always the same distance, in summer as well. As in PostgreSQL, in minutes.
const ABBREVIATIONS: [(&str, i32); 57] = [
    ("ACDT", 630),
    ("ACST", 570),
    ("ADT", -180),
    ("AEDT", 660),
    ("AEST", 600),
    ("AKDT", -480),
    ("AKST", -540),
    ("AST", -240),
    ("AWST", 480),
    ("BRST", -120),
    ("BRT", -180),
    ("BST", 60),
    ("CDT", -300),
    ("CEST", 120),
    ("CET", 60),
    ("CETDST", 120),
    ("CHAST", 765),
    ("CHADT", 825),
    ("CST", -360),
    ("EAT", 180),
    ("EDT", -240),
    ("EEST", 180),
    ("EET", 120),
    ("EETDST", 180),
    ("EST", -300),
    ("FJT", 720),
    ("GMT", 0),
    ("HKT", 480),
    ("HST", -600),
    ("ICT", 420),
    ("IDT", 180),
    ("IST", 120),
    ("JST", 540),
    ("KST", 540),
    ("MDT", -360),
    ("MEST", 120),
    ("MESZ", 120),
    ("MET", 60),
    ("METDST", 120),
    ("MEZ", 60),
    ("MST", -420),
    ("MUT", 240),
    ("NDT", -150),
    ("NPT", 345),
    ("NST", -210),
    ("NZDT", 780),
    ("NZST", 720),
    ("PDT", -420),
    ("PHT", 480),
    ("PKT", 300),
    ("PST", -480),
    ("SAST", 120),
    ("UCT", 0),
    ("UT", 0),
    ("UTC", 0),
    ("WET", 0),
    ("Z", 0),
];

/// All names of zones, by their small letters.
static NAMES: LazyLock<HashMap<String, Tz>> =
    LazyLock::new(|| TZ_VARIANTS.iter().map(|zone| (zone.name().to_ascii_lowercase(), *zone)).collect());

impl Zone {
    pub const UTC: Zone = Zone::Fixed(0);

    /// The zone of a name (`Europe/Berlin`, in any case), an abbreviation (`CET`), or a distance from UTC that is positive in the east
    /// (`+02:00`, `-0530`, `+2`), as in RFC 3339 and ISO 8601.
    pub fn read(text: &str) -> Result<Zone> {
        let text = text.trim();
        if let Some((_, minutes)) = ABBREVIATIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(Zone::Fixed(minutes * 60));
        }
        if let Some(zone) = NAMES.get(&text.to_ascii_lowercase()) {
            return Ok(Zone::Named(*zone));
        }
        match text.strip_prefix('+').map(|digits| (1, digits)).or_else(|| text.strip_prefix('-').map(|digits| (-1, digits))) {
            Some((sign, digits)) => distance(digits).map(|seconds| Zone::Fixed(sign * seconds)).ok_or_else(|| unknown(text)),
            None => Err(unknown(text)),
        }
    }

    /// How many seconds the clocks of this zone are ahead of UTC at an instant (seconds since 1970). `None` beyond the years that a
    /// calendar knows.
    pub fn offset(self, utc: i64) -> Option<i64> {
        match self {
            Zone::Fixed(seconds) => Some(seconds.into()),
            Zone::Named(zone) => {
                let at = DateTime::from_timestamp(utc.checked_sub(beyond(utc)?)?, 0)?;
                Some(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc().into())
            }
        }
    }

    /// The seconds that the clocks of this zone show at an instant, both counted from 1970.
    pub fn local(self, utc: i64) -> Option<i64> {
        utc.checked_add(self.offset(utc)?)
    }

    /// The instant at which the clocks of this zone show `local`. A time that they skip is read as if they had not been put forward yet,
    /// and of a time that they show twice the second counts: this is PostgreSQL's rule.
    pub fn instant(self, local: i64) -> Option<i64> {
        const DAY: i64 = 86_400;
        let before = self.offset(local.checked_sub(DAY)?)?;
        let after = self.offset(local.checked_add(DAY)?)?;
        if before == after {
            // Most days: nothing changes within a day on either side, or it changes back.
            let utc = local.checked_sub(before)?;
            if self.offset(utc)? == before {
                return Some(utc);
            }
        }
        // A time that exists is shown under one of the offsets around it; of two the smaller is the later instant.
        let shown = |offset: i64| (self.offset(local - offset) == Some(offset)).then_some(local - offset);
        [shown(after), shown(before)].into_iter().flatten().max().or_else(|| local.checked_sub(before))
    }
}

/// Seconds to take from an instant beyond the years whose changes the names are known for, so that it falls in a year like it: one that
/// begins on the same day of the week and has as many days. Of such years every 28 hold all kinds.
fn beyond(utc: i64) -> Option<i64> {
    const FROM: i32 = 2060;
    // The seconds of 2087-12-31T00:00:00Z: the table of names goes a little further.
    if utc < 3_723_667_200 {
        return Some(0);
    }
    let day_one = |year: i32| chrono::NaiveDate::from_ymd_opt(year, 1, 1);
    let first = day_one(DateTime::from_timestamp(utc, 0)?.year())?;
    let like = (FROM..FROM + 28)
        .filter_map(day_one)
        .find(|day| day.weekday() == first.weekday() && day.leap_year() == first.leap_year())?;
    Some((first - like).num_seconds())
}

/// Seconds of `2`, `02`, `0530`, `05:30` or `05:30:15`.
fn distance(digits: &str) -> Option<i32> {
    let number = |text: &str| -> Option<i32> {
        match text.len() <= 2 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        }
    };
    let parts: Vec<&str> = match digits.split(':').collect::<Vec<_>>() {
        parts if parts.len() == 1 && digits.len() == 4 && digits.is_ascii() => vec![&digits[..2], &digits[2..]],
        parts => parts,
    };
    let (hours, minutes, seconds) = match parts[..] {
        [hours] => (number(hours)?, 0, 0),
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, number(seconds)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60 && seconds < 60).then_some((hours * 60 + minutes) * 60 + seconds)
}

fn unknown(text: &str) -> Error {
    let error = Error::new(Code::Query, format!("time zone '{text}' is not known"));
    let city = |zone: &&Tz| zone.name().rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&text.replace(' ', "_")));
    let near = TZ_VARIANTS
        .iter()
        .find(city)
        .map(|zone| zone.name())
        .or_else(|| nearest(text, TZ_VARIANTS.iter().map(|zone| zone.name())));
    match near {
        _ if text.get(..3).is_some_and(|name| name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("gmt")) => {
            error.hint("write a distance from UTC as '+02:00', which is two hours east of it")
        }
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("give a name such as 'Europe/Berlin', or a distance from UTC such as '+02:00'"),
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Zone::Named(zone) => f.write_str(zone.name()),
            Zone::Fixed(0) => f.write_str("UTC"),
            Zone::Fixed(seconds) => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let size = seconds.unsigned_abs();
                write!(f, "{sign}{:02}:{:02}", size / 3600, size / 60 % 60)?;
                match size % 60 {
                    0 => Ok(()),
                    rest => write!(f, ":{rest:02}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp()
    }

    #[test]
    fn zones_are_read_by_name_abbreviation_and_distance() {
        for (text, shown) in [
            ("Europe/Berlin", "Europe/Berlin"),
            ("europe/berlin", "Europe/Berlin"),
            ("UTC", "UTC"),
            ("z", "UTC"),
            ("CET", "+01:00"),
            ("PDT", "-07:00"),
            ("+02:00", "+02:00"),
            ("-0530", "-05:30"),
            ("+2", "+02:00"),
            ("+05:41:16", "+05:41:16"),
        ] {
            assert_eq!(Zone::read(text).unwrap().to_string(), shown, "{text}");
        }
        for (text, error) in [
            ("Europe/Berln", "time zone 'Europe/Berln' is not known; did you mean 'Europe/Berlin'?"),
            ("Berlin", "time zone 'Berlin' is not known; did you mean 'Europe/Berlin'?"),
            ("new york", "time zone 'new york' is not known; did you mean 'America/New_York'?"),
            ("UTC+2", "time zone 'UTC+2' is not known; write a distance from UTC as '+02:00', which is two hours east of it"),
            (
                "+25:00",
                "time zone '+25:00' is not known; give a name such as 'Europe/Berlin', or a distance from UTC such as '+02:00'",
            ),
            ("", "time zone '' is not known; give a name such as 'Europe/Berlin', or a distance from UTC such as '+02:00'"),
        ] {
            assert_eq!(Zone::read(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn a_skipped_time_counts_by_the_old_offset_and_a_doubled_one_the_second_time() {
        let berlin = Zone::read("Europe/Berlin").unwrap();
        for (local, utc) in [
            ("2026-03-29T01:59:59Z", "2026-03-29T00:59:59Z"),
            ("2026-03-29T02:30:00Z", "2026-03-29T01:30:00Z"),
            ("2026-03-29T03:00:00Z", "2026-03-29T01:00:00Z"),
            ("2026-10-25T01:59:59Z", "2026-10-24T23:59:59Z"),
            ("2026-10-25T02:30:00Z", "2026-10-25T01:30:00Z"),
            ("2026-10-25T03:00:00Z", "2026-10-25T02:00:00Z"),
        ] {
            assert_eq!(berlin.instant(seconds(local)), Some(seconds(utc)), "{local}");
        }
        // Samoa had no 30 December 2011.
        let apia = Zone::read("Pacific/Apia").unwrap();
        assert_eq!(apia.instant(seconds("2011-12-30T12:00:00Z")), Some(seconds("2011-12-30T22:00:00Z")));
    }

    #[test]
    fn the_changes_of_a_year_go_on_beyond_the_table() {
        let berlin = Zone::read("Europe/Berlin").unwrap();
        for year in ["2026", "2087", "2088", "2099", "2100", "2101", "2150", "2400", "9999"] {
            assert_eq!(berlin.offset(seconds(&format!("{year}-07-01T00:00:00Z"))), Some(7200), "{year}");
            assert_eq!(berlin.offset(seconds(&format!("{year}-01-01T00:00:00Z"))), Some(3600), "{year}");
        }
        assert_eq!(berlin.offset(i64::MAX), None);
    }
}
