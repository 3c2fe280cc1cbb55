//! The text of a number becomes an integer, a decimal or a float, exactly: never by way of a type that loses digits.

/// Why a text is not the number that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotANumber {
    /// It is no number at all.
    Shape,
    /// It has a fraction where none is possible.
    Fraction,
    /// It is beyond the type.
    Range,
}

/// A whole number; `1.0` and `1e3` are whole.
pub fn integer(text: &str) -> Result<i128, NotANumber> {
    match small(text) {
        Some(value) => Ok(value.into()),
        None => match scaled(text, 0)? {
            (value, true) => Ok(value),
            (_, false) => Err(NotANumber::Fraction),
        },
    }
}

/// The common case: an optional minus and at most 18 digits.
pub fn small(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

/// The number times 10^`scale`, and whether that is exact; else it is rounded, halves away from zero.
pub fn scaled(text: &str, scale: i8) -> Result<(i128, bool), NotANumber> {
    let bytes = text.as_bytes();
    let (negative, bytes) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match bytes.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&bytes[..at], exponent(&bytes[at + 1..])?),
        None => (bytes, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    let digits = || whole.iter().chain(fraction).map(|byte| byte.wrapping_sub(b'0'));
    if whole.len() + fraction.len() == 0 || digits().any(|digit| digit > 9) {
        return Err(NotANumber::Shape);
    }
    let significant = || digits().skip_while(|digit| *digit == 0);
    // The value is the digits as one whole number, times 10^shift.
    let shift = exponent + i64::from(scale) - fraction.len() as i64;
    let kept = significant().count() as i64 + shift.min(0);
    let mut value = 0i128;
    let mut exact = true;
    for (at, digit) in (0i64..).zip(significant()) {
        if at < kept {
            value = value.checked_mul(10).and_then(|value| value.checked_add(digit.into())).ok_or(NotANumber::Range)?;
        } else {
            if at == kept && digit >= 5 {
                value = value.checked_add(1).ok_or(NotANumber::Range)?;
            }
            exact &= digit == 0;
        }
    }
    if shift > 0 && value != 0 {
        let factor = u32::try_from(shift).ok().and_then(|shift| 10i128.checked_pow(shift)).ok_or(NotANumber::Range)?;
        value = value.checked_mul(factor).ok_or(NotANumber::Range)?;
    }
    Ok((if negative { -value } else { value }, exact))
}

/// Exponents are held at ± a million: far beyond every type, and sums of them cannot overflow.
fn exponent(bytes: &[u8]) -> Result<i64, NotANumber> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NotANumber::Shape);
    }
    let value = digits.iter().fold(0i64, |value, byte| (value * 10 + i64::from(byte - b'0')).min(1_000_000));
    Ok(if negative { -value } else { value })
}

/// A float, rounded to the nearest; `NaN`, `Infinity` and `-Infinity` are the only words.
pub fn float<F: Float>(text: &str) -> Result<F, NotANumber> {
    if let Some(value) = F::plain(text) {
        return Ok(value);
    }
    let word = text.trim_start_matches(['-', '+']);
    if !word.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return match text {
            "NaN" | "Infinity" | "-Infinity" => F::read(text).ok_or(NotANumber::Shape),
            _ => Err(NotANumber::Shape),
        };
    }
    match F::read(text) {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(NotANumber::Range),
        None => Err(NotANumber::Shape),
    }
}

/// Powers of ten that a double holds exactly, as far as [`PLAIN_DIGITS`] digits need them.
const TENS: [f64; PLAIN_DIGITS + 1] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// So many digits are a whole number below 2^53, which a double holds exactly.
const PLAIN_DIGITS: usize = 15;

/// The common case: few digits, perhaps with a point among them. One division of exact numbers is the nearest double (Clinger, 1990).
fn plain(text: &str) -> Option<f64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > PLAIN_DIGITS + 1 {
        return None;
    }
    let (mut value, mut count, mut point) = (0u64, 0, None);
    for byte in digits {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => {
                value = value * 10 + u64::from(digit);
                count += 1;
            }
            _ if *byte == b'.' && point.is_none() => point = Some(count),
            _ => return None,
        }
    }
    if count == 0 || count > PLAIN_DIGITS {
        return None;
    }
    let value = value as f64 / TENS[count - point.unwrap_or(count)];
    Some(if negative { -value } else { value })
}

pub trait Float: Copy {
    /// A short cut for common texts; `None` where there is none.
    fn plain(_text: &str) -> Option<Self> {
        None
    }
    fn read(text: &str) -> Option<Self>;
    fn is_finite(self) -> bool;
}

impl Float for f64 {
    fn plain(text: &str) -> Option<Self> {
        plain(text)
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

impl Float for f32 {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        for (text, expect) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("-12", Ok(-12)),
            ("+12", Ok(12)),
            ("1.0", Ok(1)),
            ("1e3", Ok(1000)),
            ("1200e-2", Ok(12)),
            ("0.5e1", Ok(5)),
            ("9007199254740993", Ok(9_007_199_254_740_993)),
            ("18446744073709551615", Ok(u64::MAX.into())),
            ("0e999999999999999999999", Ok(0)),
            ("1.5", Err(NotANumber::Fraction)),
            ("1e-1", Err(NotANumber::Fraction)),
            ("1e-99999999999999999999", Err(NotANumber::Fraction)),
            ("1e400", Err(NotANumber::Range)),
            ("1e99999999999999999999", Err(NotANumber::Range)),
            ("", Err(NotANumber::Shape)),
            ("-", Err(NotANumber::Shape)),
            (".", Err(NotANumber::Shape)),
            ("1e", Err(NotANumber::Shape)),
            ("0x10", Err(NotANumber::Shape)),
            ("1_000", Err(NotANumber::Shape)),
            ("٣", Err(NotANumber::Shape)),
        ] {
            assert_eq!(integer(text), expect, "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_and_excess_digits_round_halves_away_from_zero() {
        for (text, scale, expect) in [
            ("123.45", 2, Ok((12345, true))),
            ("123.455", 2, Ok((12346, false))),
            ("-123.455", 2, Ok((-12346, false))),
            ("123.4549999", 2, Ok((12345, false))),
            ("123.4500", 2, Ok((12345, true))),
            ("0.05", 1, Ok((1, false))),
            ("0.049", 1, Ok((0, false))),
            ("0.0004", 2, Ok((0, false))),
            ("9.99", 1, Ok((100, false))),
            ("1e-2", 2, Ok((1, true))),
            ("1.5E+1", 1, Ok((150, true))),
            ("12345", -2, Ok((123, false))),
            ("99999999999999999999.999999999999999999", 18, Ok((99999999999999999999999999999999999999, true))),
            ("0.30000000000000004", 10, Ok((3_000_000_000, false))),
            ("1e60", 2, Err(NotANumber::Range)),
        ] {
            assert_eq!(scaled(text, scale), expect, "{text}");
        }
    }

    #[test]
    fn floats_are_the_nearest() {
        assert_eq!(float::<f64>("0.1"), Ok(0.1));
        assert_eq!(float::<f64>("1e-400"), Ok(0.0));
        assert_eq!(float::<f64>("1e400"), Err(NotANumber::Range));
        assert_eq!(float::<f32>("1e39"), Err(NotANumber::Range));
        assert_eq!(float::<f64>("-Infinity"), Ok(f64::NEG_INFINITY));
        assert!(float::<f64>("NaN").unwrap().is_nan());
        for text in ["", "inf", "nan", "infinity", "-", "abc", "1x", "--1"] {
            assert_eq!(float::<f64>(text), Err(NotANumber::Shape), "{text}");
        }
    }

    #[test]
    fn a_plain_float_has_the_bits_of_the_nearest_double() {
        for text in
            ["0", "-0", "-0.0", "5.", ".5", "-.5", "0.1", "0.3", "123456789012345", "99999999.9999999", "0.00000000000001"]
        {
            assert_eq!(plain(text).map(f64::to_bits), text.parse().ok().map(f64::to_bits), "{text}");
        }
        for text in ["", "-", ".", "-.", "1..2", "1.2.3", "+1", "1e5", "--1", "1234567890123456", "0.000000000000001", "1 "] {
            assert_eq!(plain(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn floats_have_the_bits_of_the_nearest_double(text in "-?[0-9]{0,9}\\.?[0-9]{0,9}") {
            prop_assert_eq!(float::<f64>(&text).ok().map(f64::to_bits), text.parse().ok().map(f64::to_bits), "{}", text);
        }
    }
}
