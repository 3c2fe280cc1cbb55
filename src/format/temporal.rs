//! The text of a point in time, a date or a time of day becomes a number; RFC 3339 and what is commonly written instead.

use crate::time::day_of;

const DAY_SECONDS: i64 = 86_400;

/// Nanoseconds since 1970 of `2026-03-01T12:00:00.5Z` and its kin: an offset (`+01:00`, `+0100`, `+01`) or none (UTC), a space
/// for the `T`, no seconds, the date alone. Digits beyond nanoseconds are cut. `None` where the text has another shape.
pub fn instant(text: &str) -> Option<i128> {
    read(text, |seconds, east| seconds - east)
}

/// The same of what a clock shows: the zone that the text may name is no part of it.
pub fn local(text: &str) -> Option<i128> {
    read(text, |seconds, _| seconds)
}

/// `moved` is given the seconds of the clock, and how many of them it is east of UTC.
fn read(text: &str, moved: impl FnOnce(i64, i64) -> i64) -> Option<i128> {
    let bytes = text.as_bytes();
    let days = days(bytes.first_chunk()?)?;
    let (seconds, nanos) = match bytes.get(10) {
        None => (0, 0),
        Some(b'T' | b't' | b' ') => {
            let (seconds, nanos, rest) = clock(&bytes[11..])?;
            (moved(seconds, offset(rest)?), nanos)
        }
        Some(_) => return None,
    };
    Some(i128::from(days * DAY_SECONDS + seconds) * 1_000_000_000 + i128::from(nanos))
}

/// Days since 1970 of `2026-03-01`, or of the UTC day in which a point in time lies.
pub fn date(text: &str) -> Option<i32> {
    let days = match text.len() {
        10 => days(text.as_bytes().first_chunk()?)?,
        _ => i64::try_from(instant(text)?.div_euclid(i128::from(DAY_SECONDS) * 1_000_000_000)).ok()?,
    };
    i32::try_from(days).ok()
}

/// Nanoseconds since midnight of `12:00`, `12:00:01` or `12:00:01.5`.
pub fn time_of_day(text: &str) -> Option<i64> {
    match clock(text.as_bytes())? {
        (seconds, nanos, []) if seconds < DAY_SECONDS => Some(seconds * 1_000_000_000 + nanos),
        _ => None,
    }
}

/// Days since 1970 of the ten bytes `YYYY-MM-DD`, in the Gregorian calendar.
fn days(bytes: &[u8; 10]) -> Option<i64> {
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    let month = two(bytes, 5)?;
    let day = two(bytes, 8)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    Some(day_of(year, month, day))
}

/// Seconds and nanoseconds of `HH:MM[:SS[.f…]]`, and what follows. A leap second counts as the second after it.
fn clock(bytes: &[u8]) -> Option<(i64, i64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let (hour, minute) = (two(head, 0)?, two(head, 3)?);
    if head[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let minutes = (hour * 60 + minute) * 60;
    let [b':', rest @ ..] = rest else { return Some((minutes, 0, rest)) };
    let (second, rest) = rest.split_first_chunk::<2>()?;
    let second = two(second, 0)?;
    if second > 60 {
        return None;
    }
    let [b'.' | b',', digits @ ..] = rest else { return Some((minutes + second, 0, rest)) };
    let (mut length, mut nanos, mut unit) = (0, 0, 1_000_000_000);
    while let Some(digit @ b'0'..=b'9') = digits.get(length) {
        // Zero after the ninth digit.
        unit /= 10;
        nanos += i64::from(digit - b'0') * unit;
        length += 1;
    }
    if length == 0 {
        return None;
    }
    Some((minutes + second, nanos, &digits[length..]))
}

/// Seconds east of UTC.
fn offset(bytes: &[u8]) -> Option<i64> {
    let bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
    let (sign, digits) = match bytes {
        [] | [b'Z' | b'z'] | b"UTC" | b"GMT" => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (two(digits, 0)?, 0),
        4 => (two(digits, 0)?, two(digits, 2)?),
        5 if digits[2] == b':' => (two(digits, 0)?, two(digits, 3)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

#[inline]
fn two(bytes: &[u8], at: usize) -> Option<i64> {
    let (tens, ones) = (bytes.get(at)?.wrapping_sub(b'0'), bytes.get(at + 1)?.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

#[cfg(test)]
mod tests {
    use arrow::temporal_conversions::date32_to_datetime;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_in_time_are_read_in_the_common_shapes() {
        let noon = 1_772_366_400_000_000_000;
        for (text, expect) in [
            ("2026-03-01T12:00:00Z", Some(noon)),
            ("2026-03-01t12:00:00z", Some(noon)),
            ("2026-03-01 12:00:00", Some(noon)),
            ("2026-03-01T12:00", Some(noon)),
            ("2026-03-01T12:00Z", Some(noon)),
            ("2026-03-01 12:00:00 UTC", Some(noon)),
            ("2026-03-01T13:30:00+01:30", Some(noon)),
            ("2026-03-01T10:30:00-0130", Some(noon)),
            ("2026-03-01 12:00:00.483215+00", Some(noon + 483_215_000)),
            ("2026-03-01T12:00:00.5Z", Some(noon + 500_000_000)),
            ("2026-03-01T12:00:00.1234567899Z", Some(noon + 123_456_789)),
            ("2026-03-01", Some(noon - 12 * 3_600_000_000_000)),
            ("2026-02-28T23:59:60Z", Some(noon - 12 * 3_600_000_000_000)),
            ("1969-12-31T23:59:59.999999999Z", Some(-1)),
            ("0000-01-01", Some(-62_167_219_200_000_000_000)),
            ("9999-12-31", Some(253_402_214_400_000_000_000)),
            ("2024-02-29", Some(1_709_164_800_000_000_000)),
            ("2025-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-03-00", None),
            ("2026-03-01T24:00:00Z", None),
            ("2026-03-01T12:60:00Z", None),
            ("2026-03-01T12:00:61Z", None),
            ("2026-03-01T12:00:00.Z", None),
            ("2026-03-01T12:00:00+25:00", None),
            ("2026-03-01T12:00:00Europe/Berlin", None),
            ("2026-03-01Z", None),
            ("2026-03-01T", None),
            ("2026-03-01T12", None),
            ("2026-3-1", None),
            ("20260301", None),
            ("", None),
            ("2026-03-0é", None),
            ("Sun, 01 Mar 2026 12:00:00 GMT", None),
        ] {
            assert_eq!(instant(text), expect, "{text}");
        }
    }

    #[test]
    fn dates_and_times_of_day_are_read() {
        assert_eq!(date("1970-01-02"), Some(1));
        assert_eq!(date("1969-12-31T23:59:59Z"), Some(-1));
        assert_eq!(date("1970-01-01T23:00:00-02:00"), Some(1));
        assert_eq!(date("01.02.1970"), None);
        assert_eq!(time_of_day("00:00:01.5"), Some(1_500_000_000));
        assert_eq!(time_of_day("23:59"), Some(86_340_000_000_000));
        assert_eq!(time_of_day("12:00Z"), None);
        assert_eq!(time_of_day("23:59:60"), None);
    }

    proptest! {
        #[test]
        fn every_day_is_the_day_that_chrono_says(day in -719_468i32..2_932_000) {
            let text = date32_to_datetime(day).unwrap().format("%Y-%m-%d").to_string();
            prop_assume!(text.len() == 10);
            prop_assert_eq!(date(&text), Some(day));
        }

        #[test]
        fn no_text_panics(text in "[-0-9T:.Z+é ]{0,40}") {
            let _ = (instant(&text), date(&text), time_of_day(&text));
        }
    }
}
