//! `--now`: an event's time becomes the moment in which it is sent, in the way in which it was written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::source::EventSource;
use crate::feed::Parser;
use crate::format::unix_format;
use crate::table::peek::Summary;
use crate::time::Timestamp;

/// Events that are looked at for the field that is their time.
const SAMPLES: u64 = 100;
/// Bytes of one event that are looked at.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// The field that `peek` proposes as the event time, if any.
pub fn event_time(source: &EventSource) -> std::io::Result<Option<String>> {
    let mut events = source.open()?;
    let mut summary = Summary::default();
    let mut parser = Parser::new(EVENT_BYTES_MAX);
    let (mut wire, mut id) = (Vec::new(), String::new());
    while summary.events() < SAMPLES && events.next(&mut wire, &mut id)? {
        parser.feed(&wire, &mut |event: crate::feed::Event<'_>| summary.push(event, std::time::Duration::ZERO));
        wire.clear();
    }
    Ok(summary.columns().into_iter().find(|column| column.event_time).map(|column| column.name))
}

/// The data of an event with the time at `field` (a name, or else a dotted path) moved to `now`; as it is where there is none.
pub fn moved(data: &[u8], field: &str, now: Timestamp) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(data).ok()?;
    let place = place(text, field)?;
    let new = written_as(&text[place.clone()], now)?;
    Some([&text[..place.start], &new, &text[place.end..]].concat().into_bytes())
}

/// Where the value of a field stands.
fn place(text: &str, field: &str) -> Option<Range<usize>> {
    let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).ok()?;
    let range = |raw: &RawValue| {
        let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
        start..start + raw.get().len()
    };
    if let Some(raw) = fields.get(field) {
        return Some(range(raw));
    }
    let (outer, inner) = field.split_once('.')?;
    let outer = range(fields.get(outer)?);
    let inner = place(&text[outer.clone()], inner)?;
    Some(outer.start + inner.start..outer.start + inner.end)
}

/// `now` in the form of the JSON value `old`: RFC 3339 text, or a number since 1970 in the unit that its size tells; `None` for what is no time.
fn written_as(old: &str, now: Timestamp) -> Option<String> {
    let text = old.strip_prefix('"').and_then(|old| old.strip_suffix('"'));
    let number = text.unwrap_or(old);
    let new = match (number.split('.').next().unwrap_or_default().trim_start_matches('-').parse::<u128>(), text) {
        (Ok(size), _) if number.parse::<f64>().is_ok() => {
            let nanos = now.nanos();
            let (whole, rest, digits) = match unix_format(size) {
                "unix_seconds" => (nanos / 1_000_000_000, nanos % 1_000_000_000, 9),
                "unix_millis" => (nanos / 1_000_000, nanos % 1_000_000, 6),
                "unix_micros" => (nanos / 1_000, nanos % 1_000, 3),
                _ => (nanos, 0, 1),
            };
            match number.contains('.') {
                true => format!("{whole}.{rest:0digits$}"),
                false => whole.to_string(),
            }
        }
        (_, Some(_)) => now_text(text?, now),
        _ => return None,
    };
    Some(if text.is_some() { format!("\"{new}\"") } else { new })
}

/// RFC 3339 with as many decimals as milliseconds need; only the date where only a date stood.
fn now_text(old: &str, now: Timestamp) -> String {
    let millis = Timestamp(now.nanos() / 1_000_000 * 1_000_000).to_string();
    if old.len() == 10 { millis.chars().take(10).collect() } else { millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_moved_in_its_own_form_and_all_else_stays() {
        let now = Timestamp(1_796_000_000_123_456_789);
        for (data, field, expect) in [
            (r#"{"b":1.0, "ts":"2026-03-01T12:00:00Z","a":[ ]}"#, "ts", r#"{"b":1.0, "ts":"2026-11-30T00:53:20.123Z","a":[ ]}"#),
            (r#"{"ts":1772366400}"#, "ts", r#"{"ts":1796000000}"#),
            (r#"{"ts":1772366400.5}"#, "ts", r#"{"ts":1796000000.123456789}"#),
            (r#"{"ts":1772366400000}"#, "ts", r#"{"ts":1796000000123}"#),
            (r#"{"ts":1772366400000000}"#, "ts", r#"{"ts":1796000000123456}"#),
            (r#"{"ts":1772366400000000000}"#, "ts", r#"{"ts":1796000000123456789}"#),
            (r#"{"ts":"1772366400000"}"#, "ts", r#"{"ts":"1796000000123"}"#),
            (r#"{"meta":{"id":7,"dt":"2026-03-01"}}"#, "meta.dt", r#"{"meta":{"id":7,"dt":"2026-11-30"}}"#),
            (r#"{"a":{"b":{"c":1772366400}}}"#, "a.b.c", r#"{"a":{"b":{"c":1796000000}}}"#),
            (r#"{"a.b":1772366400,"a":{"b":1}}"#, "a.b", r#"{"a.b":1796000000,"a":{"b":1}}"#),
        ] {
            assert_eq!(moved(data.as_bytes(), field, now).map(|data| String::from_utf8(data).unwrap()).as_deref(), Some(expect));
        }
        for (data, field) in [(r#"{"ts":null}"#, "ts"), (r#"{"x":1}"#, "ts"), ("no json", "ts"), (r#"{"ts":{"a":1}}"#, "ts")] {
            assert_eq!(moved(data.as_bytes(), field, now), None, "{data}");
        }
    }
}
