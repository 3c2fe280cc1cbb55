//! DataFusion's names of expressions as people write them, for `EXPLAIN` and errors.

use crate::window::{WindowKind, length};

/// Literals whose type DataFusion writes before them, as in `Int64(1)` and `Utf8("x")`.
const LITERALS: [&str; 15] = [
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float32",
    "Float64",
    "Boolean",
    "Utf8",
    "Utf8View",
    "LargeUtf8",
    "IntervalMonthDayNano",
];

/// The same text with plain literals, without the numbers of columns, and with windows as `TUMBLE(10s)`.
pub fn readable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '@' if !plain.is_empty() => number(rest),
            _ if letter.is_alphabetic() => word(rest),
            _ => 0,
        };
        let taken = match length {
            0 => {
                plain.push(letter);
                letter.len_utf8()
            }
            length if letter == '@' => length,
            length => {
                let (word, behind) = rest.split_at(length);
                match (literal(word, behind), word) {
                    (Some((value, taken)), _) => {
                        plain.push_str(&value);
                        length + taken
                    }
                    (None, word) if behind.starts_with('(') && WindowKind::named(word).is_some() => {
                        plain.push_str(&word.to_ascii_uppercase());
                        length
                    }
                    (None, word) => {
                        plain.push_str(word);
                        length
                    }
                }
            }
        };
        rest = &rest[taken..];
    }
    plain
}

/// The length of `@12` at the start of a text; 0 where more of a word follows, so that it is no column's number.
fn number(text: &str) -> usize {
    let digits = text[1..].bytes().take_while(u8::is_ascii_digit).count();
    let more = text[1 + digits..].starts_with(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.');
    if digits == 0 || more { 0 } else { 1 + digits }
}

fn word(text: &str) -> usize {
    text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len())
}

/// The value of a literal whose type is `word`, and how long the brackets behind it are.
fn literal(word: &str, behind: &str) -> Option<(String, usize)> {
    let inner = behind.strip_prefix('(').filter(|_| LITERALS.contains(&word))?;
    if let Some(quoted) = inner.strip_prefix('"') {
        let end = quoted.find("\")")?;
        let value = match word {
            "IntervalMonthDayNano" => interval(&quoted[..end])?,
            _ => format!("'{}'", &quoted[..end]),
        };
        return Some((value, end + 4));
    }
    let end = inner.find(')')?;
    Some((inner[..end].to_string(), end + 2))
}

/// `IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 10000000000 }`
fn interval(text: &str) -> Option<String> {
    let part = |name: &str| text.split_once(&format!("{name}: "))?.1.split([',', ' ']).next()?.parse::<i64>().ok();
    let (months, days, nanos) = (part("months")?, part("days")?, part("nanoseconds")?);
    let rest = days.checked_mul(86_400_000_000_000)?.checked_add(nanos)?;
    Some(match (months, rest) {
        (0, rest) => length(rest),
        (months, 0) => format!("{months} months"),
        (months, rest) => format!("{months} months {}", length(rest)),
    })
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_lose_what_only_the_planner_needs() {
        let ten = |seconds: i64| {
            format!("IntervalMonthDayNano(\"IntervalMonthDayNano {{ months: 0, days: 0, nanoseconds: {seconds}000000000 }}\")")
        };
        for (text, expect) in [
            (format!("tumble({})@1", ten(10)), "TUMBLE(10s)"),
            (format!("k@0, hop({},{})@2", ten(10), ten(60)), "k, HOP(10s,1m)"),
            ("count(Int64(1)) FILTER (WHERE w.id > Int64(1))@3".into(), "count(1) FILTER (WHERE w.id > 1)"),
            ("x@1 = Utf8(\"a@b (c)\") AND y@2".into(), "x = 'a@b (c)' AND y"),
            ("a@b.com, a@1.5, Int64(NULL), Utf8, hop (x), ü@3".into(), "a@b.com, a@1.5, NULL, Utf8, hop (x), ü"),
        ] {
            assert_eq!(readable(&text), expect);
        }
    }
}
