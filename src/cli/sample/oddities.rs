//! Feeds that are no table by nature: the answer of a language model, vehicles, and events that are bad in every way we know.

use super::numbers::Metrics;
use super::{Event, Pieces, Shape, Turn, pick};

/// A language model's answer: one piece of text an event, without ids and types; the last event is `[DONE]`.
pub(super) struct Answer;

/// An answer of no given count has so many events.
const ANSWER: u64 = 60;

impl Shape for Answer {
    fn event(&mut self, turn: Turn<'_>, event: &mut Event) -> bool {
        event.kind = "";
        event.id.clear();
        if turn.number > ANSWER && !turn.last {
            return false;
        }
        let out = &mut event.data;
        if turn.last || turn.number == ANSWER {
            out.raw("[DONE]");
            return true;
        }
        out.raw(r#"{"id":"answer-1","object":"chat.completion.chunk","created":"#).int(turn.time.nanos() / 1_000_000_000);
        out.raw(r#","model":"brook-2","choices":[{"index":0,"delta":"#);
        match turn.number {
            1 => out.raw(r#"{"role":"assistant","content":""}"#),
            _ => {
                let words =
                    [" the", " river", " rises", ",", " slowly", "\\n\\n", " –", " \\\"gauge\\\"", " 水", " by", " ten", "."];
                out.raw(r#"{"content":""#).raw(pick(turn.rng, &words)).raw("\"}")
            }
        };
        out.raw(r#","finish_reason":null}]}"#);
        true
    }
}

/// Vehicles: `reset` with all of them, then `add`, `update`, `remove`, a bare number with `delete`, and `keepalive`.
pub(super) struct Transit {
    pub vehicles: u64,
}

impl Shape for Transit {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        if turn.number == 1 {
            event.kind = "reset";
            event.data.raw("[");
            for vehicle in 0..self.vehicles {
                event.data.raw(if vehicle == 0 { "" } else { "," });
                self.vehicle(vehicle, &mut turn, &mut event.data);
            }
            event.data.raw("]");
            return true;
        }
        let vehicle = turn.rng.u64(..self.vehicles);
        match turn.rng.u8(..20) {
            0 => {
                event.kind = "remove";
                event.data.raw(r#"{"id":"v"#).int(vehicle as i64).raw(r#"","type":"vehicle"}"#);
            }
            1 => {
                event.kind = "delete";
                event.data.int(110_000_000_000_000_000 + vehicle as i64);
            }
            2 => {
                event.kind = "keepalive";
                event.data.raw("{}");
            }
            kind => {
                event.kind = if kind < 5 { "add" } else { "update" };
                self.vehicle(vehicle, &mut turn, &mut event.data);
            }
        }
        true
    }
}

impl Transit {
    fn vehicle(&self, number: u64, turn: &mut Turn<'_>, out: &mut Vec<u8>) {
        out.raw(r#"{"id":"v"#)
            .int(number as i64)
            .raw(r#"","type":"vehicle","attributes":{"latitude":52."#)
            .int(turn.rng.i64(100_000..999_999));
        out.raw(r#","longitude":4."#).int(turn.rng.i64(100_000..999_999)).raw(r#","bearing":"#);
        out.raw(pick(turn.rng, &["null", "45", "180", "\"270\""])).raw(r#","speed":"#).cents(turn.rng.i64(0..2_500));
        out.raw(r#","carriages":[],"updated_at":""#).time(turn).raw(r#""},"relationships":{"route":{"data":{"id":"R"#);
        out.int(number as i64 % 3).raw(r#"","type":"route"}},"stop":{"data":null}}}"#);
    }
}

/// System metrics of which every second event is one of [`BAD`], in turn.
pub(super) struct Bad(pub Metrics);

impl Shape for Bad {
    fn event(&mut self, mut turn: Turn<'_>, event: &mut Event) -> bool {
        let number = turn.number;
        if number.is_multiple_of(2) {
            let (_, piece) = BAD[(number / 2 - 1) as usize % BAD.len()];
            event.kind = "cpu";
            match piece {
                Piece::Text(text) => event.data.extend_from_slice(text),
                Piece::Value(value) => {
                    event.data.raw(r#"{"host":"web-1","metric":"cpu","value":"#);
                    event.data.extend_from_slice(value);
                    event.data.raw(r#","tags":{},"timestamp":""#).time(&mut turn).raw("\"}");
                }
                Piece::Time(time) => {
                    event.data.raw(r#"{"host":"web-1","metric":"cpu","value":1.5,"tags":{},"timestamp":"#).raw(time).raw("}");
                }
                Piece::Nested(depth) => {
                    event.data.raw(r#"{"host":"web-1","metric":"cpu","value":1.5,"tags":"#);
                    event.data.extend(std::iter::repeat_n(b'[', depth).chain(std::iter::repeat_n(b']', depth)));
                    event.data.raw(r#","timestamp":""#).time(&mut turn).raw("\"}");
                }
            }
            return true;
        }
        self.0.event(turn, event)
    }
}

/// What is wrong with an event.
#[derive(Debug, Clone, Copy)]
pub enum Piece {
    /// The whole data.
    Text(&'static [u8]),
    /// The JSON of the number column `value`.
    Value(&'static [u8]),
    /// The JSON of the column `timestamp`.
    Time(&'static str),
    /// A field nested so deep.
    Nested(usize),
}

/// Every sort of bad event, each with its name; those called "fine" are odd but must be read.
pub const BAD: &[(&str, Piece)] = &[
    ("cut off", Piece::Text(br#"{"host":"web-1","metric":"cpu","va"#)),
    ("doubled", Piece::Text(br#"{"host":"web-1"}{"host":"web-2"}"#)),
    ("an array", Piece::Text(br#"[{"host":"web-1","metric":"cpu","value":1.5}]"#)),
    ("a number", Piece::Text(b"42")),
    ("a string", Piece::Text(br#""web-1""#)),
    ("null", Piece::Text(b"null")),
    ("no JSON", Piece::Text(b"cpu is high on web-1")),
    ("HTML", Piece::Text(b"<html><body>502 Bad Gateway</body></html>")),
    ("single quotes", Piece::Text(b"{'host':'web-1'}")),
    ("a comma at the end", Piece::Text(br#"{"host":"web-1","metric":"cpu",}"#)),
    ("a control character in a string", Piece::Text(b"{\"host\":\"web\x01\"}")),
    ("half a surrogate pair", Piece::Text(br#"{"host":"web-\ud800"}"#)),
    ("a bad escape", Piece::Text(br#"{"host":"web-\x41"}"#)),
    ("a word for a number", Piece::Value(br#""many""#)),
    ("an object for a number", Piece::Value(br#"{"of":1}"#)),
    ("NaN", Piece::Value(b"NaN")),
    ("a number with a plus", Piece::Value(b"+1.5")),
    ("a number with leading zeros", Piece::Value(b"007")),
    ("a number too large for a double", Piece::Value(b"1e999")),
    ("a time in words", Piece::Time(r#""yesterday""#)),
    ("a time without a date", Piece::Time(r#""12:00:00""#)),
    ("a thirteenth month", Piece::Time(r#""2026-13-01T00:00:00Z""#)),
    ("a time before 1677", Piece::Time(r#""1066-10-14T09:00:00Z""#)),
    ("a time after 2262", Piece::Time(r#""2300-01-01T00:00:00Z""#)),
    ("a time as a number", Piece::Time("1772366400")),
    ("fine: invalid UTF-8, read as U+FFFD", Piece::Text(b"{\"host\":\"web-\xff\xfe\"}")),
    ("fine: a field nested ten thousand deep, kept as text", Piece::Nested(10_000)),
    ("fine: a number as text", Piece::Value(br#""83.5""#)),
    ("fine: null", Piece::Value(b"null")),
    ("fine: a time before 1970", Piece::Time(r#""1969-07-20T20:17:40Z""#)),
    ("fine: fields missing", Piece::Text(br#"{"host":"web-1"}"#)),
    ("fine: no field at all", Piece::Text(b"{}")),
    ("fine: a field twice", Piece::Text(br#"{"host":"web-1","host":"web-2"}"#)),
    ("fine: escapes and spaces", Piece::Text(br#" { "h\u006fst" : "w\u00e9b \ud83d\ude00" } "#)),
];
