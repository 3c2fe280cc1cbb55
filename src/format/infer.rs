//! Finds the columns of a feed that nobody declared, from samples of its data, each with its evidence.

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use super::value::unix_format;
use super::{Column, is_json, temporal};
use crate::time::instant_ns;

/// Fields of one object that become columns of their own; an object with more (a map with ids as keys, say) stays JSON.
const FIELDS_MAX: usize = 256;

/// Characters of an example value that are kept.
const EXAMPLE_CHARS: usize = 60;

/// What the samples of one feed (or of one event type) have in common.
#[derive(Debug, Default)]
pub struct Samples {
    objects: usize,
    others: usize,
    fields: Vec<(String, Evidence)>,
}

/// A column as the samples suggest it.
#[derive(Debug, Clone, PartialEq)]
pub struct Inferred {
    pub column: Column,
    /// In how many of the samples the field is there, and not null.
    pub seen: usize,
    /// In how many it is there as null.
    pub nulls: usize,
    /// The number of samples.
    pub of: usize,
    /// The JSON text of one value, shortened.
    pub example: String,
    /// For whole numbers that are times: the value of `json.timestamp_format` that reads them.
    pub unix: Option<&'static str>,
}

impl Inferred {
    /// The type as SQL.
    pub fn sql_type(&self) -> String {
        field_type(&self.column.field())
    }
}

impl Samples {
    /// Takes the data of one event.
    pub fn push(&mut self, data: &str) {
        match serde_json::from_str(data) {
            Ok(Value::Object(object)) => {
                self.objects += 1;
                learn(&mut self.fields, &object);
            }
            _ => self.others += 1,
        }
    }

    /// How many of the samples are no JSON object.
    pub fn others(&self) -> usize {
        self.others
    }

    /// The columns, in the order in which their fields were first seen.
    pub fn columns(&self) -> Vec<Inferred> {
        // A table has one way to write numbers as times: the one most of its fields are in.
        let formats: Vec<&'static str> = self.fields.iter().filter_map(|(name, field)| field.unix(name)).collect();
        let count = |format| formats.iter().filter(|other| **other == format).count();
        let written = formats.iter().copied().max_by_key(|format| (count(*format), *format));
        let inferred = |(name, field): &(String, Evidence)| {
            let unix = field.unix(name).filter(|unix| Some(*unix) == written);
            let column = match unix {
                Some(_) => Column::new(name, instant_ns()),
                None => Column::from_field(&field.field(name), super::Origin::Payload),
            };
            let example = field.example.clone().unwrap_or_default();
            Inferred { column, seen: field.seen, nulls: field.nulls, of: self.objects, example, unix }
        };
        self.fields.iter().map(inferred).collect()
    }

    /// The column that is most likely the event time: a timestamp in (nearly) every sample, with a telling name if there are several.
    pub fn event_time(&self) -> Option<String> {
        let columns = self.columns();
        let timestamps = columns
            .iter()
            .filter(|column| matches!(column.column.data_type, DataType::Timestamp(..)) && column.seen == column.of);
        timestamps.min_by_key(|column| rank(&column.column.name)).map(|column| column.column.name.clone())
    }
}

/// How little a name says that it is when the event happened.
fn rank(name: &str) -> usize {
    const TELLING: [&str; 10] =
        ["event_time", "eventtime", "timestamp", "ts", "time", "@timestamp", "datetime", "created_at", "createdat", "date"];
    let name = name.to_ascii_lowercase();
    TELLING.iter().position(|telling| *telling == name).unwrap_or(TELLING.len())
}

/// Whether a field's name says that its numbers are times.
fn named_like_time(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    rank(&name) < 10
        || ["_at", "_ts", "_time", "timestamp", "time_ms", "_epoch", "epoch"].iter().any(|end| name.ends_with(end))
        || name.ends_with("dt")
}

fn learn(fields: &mut Vec<(String, Evidence)>, object: &serde_json::Map<String, Value>) {
    for (name, value) in object {
        let at = fields.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            fields.push((name.clone(), Evidence::default()));
            fields.len() - 1
        });
        fields[at].1.learn(value);
        if fields.len() > FIELDS_MAX {
            return;
        }
    }
}

/// What the values of one field were.
#[derive(Debug, Default)]
struct Evidence {
    seen: usize,
    nulls: usize,
    example: Option<String>,
    bools: usize,
    ints: usize,
    /// Whole numbers beyond BIGINT.
    big: usize,
    floats: usize,
    strings: usize,
    /// Strings that are points in time, and those that are dates alone.
    instants: usize,
    dates: usize,
    objects: usize,
    arrays: usize,
    /// The smallest and greatest size of a whole number.
    sizes: Option<(u64, u64)>,
    fields: Vec<(String, Evidence)>,
    items: Option<Box<Evidence>>,
}

impl Evidence {
    fn learn(&mut self, value: &Value) {
        if value.is_null() {
            self.nulls += 1;
            return;
        }
        self.seen += 1;
        if self.example.is_none() {
            self.example = Some(shorten(&value.to_string()));
        }
        match value {
            Value::Null => {}
            Value::Bool(_) => self.bools += 1,
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => {
                    self.ints += 1;
                    let size = value.unsigned_abs();
                    let (low, high) = self.sizes.unwrap_or((size, size));
                    self.sizes = Some((low.min(size), high.max(size)));
                }
                (None, Some(_)) => self.big += 1,
                (None, None) => self.floats += 1,
            },
            Value::String(text) => {
                self.strings += 1;
                match temporal::instant(text) {
                    Some(_) if text.len() == 10 => self.dates += 1,
                    Some(nanos) if i64::try_from(nanos).is_ok() => self.instants += 1,
                    _ => {}
                }
            }
            Value::Array(items) => {
                self.arrays += 1;
                let evidence = self.items.get_or_insert_default();
                items.iter().for_each(|item| evidence.learn(item));
            }
            Value::Object(object) => {
                self.objects += 1;
                learn(&mut self.fields, object);
            }
        }
    }

    /// The kind of unix time that the field's numbers are, if its name and their size say so.
    fn unix(&self, name: &str) -> Option<&'static str> {
        let (low, high) = self.sizes?;
        let format = unix_format(low.into());
        // Seconds before 2001 are more likely something else.
        let plausible = low >= 978_307_200 && unix_format(high.into()) == format;
        (plausible && self.ints == self.seen && named_like_time(name)).then_some(format)
    }

    /// The type that holds all values seen; JSON where there is no closer one.
    fn field(&self, name: &str) -> Field {
        let json = || Column::json(name).field();
        let plain = |data_type| Field::new(name, data_type, true);
        let seen = self.seen;
        match () {
            () if seen == 0 => json(),
            () if self.bools == seen => plain(DataType::Boolean),
            () if self.ints == seen => plain(DataType::Int64),
            () if self.ints + self.big == seen && self.sizes.is_none() => plain(DataType::UInt64),
            () if self.ints + self.big == seen => plain(DataType::Decimal128(20, 0)),
            () if self.ints + self.big + self.floats == seen => plain(DataType::Float64),
            () if self.dates == seen => plain(DataType::Date32),
            () if self.dates + self.instants == seen => plain(instant_ns()),
            () if self.strings == seen => plain(DataType::Utf8View),
            () if self.objects == seen && (1..=FIELDS_MAX).contains(&self.fields.len()) => {
                plain(DataType::Struct(self.fields.iter().map(|(name, field)| field.field(name)).collect::<Fields>()))
            }
            () if self.arrays == seen => match &self.items {
                Some(items) if items.seen > 0 => {
                    let item = items.field("item");
                    // A list of what has no closer type than JSON is JSON itself, which `->` reads.
                    if is_json(&item) { json() } else { plain(DataType::List(Arc::new(item))) }
                }
                _ => json(),
            },
            () => json(),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(EXAMPLE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The SQL name of a type, as `CREATE TABLE` takes it.
pub fn sql_type(data_type: &DataType) -> String {
    let plain = match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTEA",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Interval(_) => "INTERVAL",
        DataType::Timestamp(unit, zone) => {
            let digits = match unit {
                TimeUnit::Second => "(0)",
                TimeUnit::Millisecond => "(3)",
                TimeUnit::Microsecond => "(6)",
                TimeUnit::Nanosecond => "",
            };
            let local = if zone.is_none() { " WITHOUT TIME ZONE" } else { "" };
            return format!("TIMESTAMP{digits}{local}");
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::FixedSizeList(item, _) => {
            return format!("{}[]", field_type(item));
        }
        DataType::Struct(fields) => {
            let mut text = String::from("STRUCT<");
            for (index, field) in fields.iter().enumerate() {
                let joint = if index > 0 { ", " } else { "" };
                write!(text, "{joint}{} {}", identifier(field.name()), field_type(field)).expect("a string takes every text");
            }
            return text + ">";
        }
        DataType::Map(entries, _) => {
            return match entries.data_type() {
                DataType::Struct(parts) if parts.len() == 2 => {
                    format!("MAP({}, {})", field_type(&parts[0]), field_type(&parts[1]))
                }
                _ => "MAP".into(),
            };
        }
        DataType::Dictionary(_, values) => return sql_type(values),
        other => return other.to_string(),
    };
    plain.into()
}

/// The SQL name of a field's type; text that is JSON is `JSON`.
pub fn field_type(field: &Field) -> String {
    if is_json(field) { "JSON".into() } else { sql_type(field.data_type()) }
}

/// A name as SQL takes it, in double quotes where it is not a plain lower-case word.
pub fn identifier(name: &str) -> String {
    let mut bytes = name.bytes();
    let plain = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match plain {
        true => name.into(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(samples: &[&str]) -> Samples {
        let mut all = Samples::default();
        samples.iter().for_each(|data| all.push(data));
        all
    }

    #[test]
    fn types_are_the_closest_that_hold_all_values() {
        for (values, expect) in [
            (&["true", "false"][..], "BOOLEAN"),
            (&["1", "-2", "null"], "BIGINT"),
            (&["1", "2.5"], "DOUBLE"),
            (&["18446744073709551615"], "BIGINT UNSIGNED"),
            (&["18446744073709551615", "-1"], "DECIMAL(20, 0)"),
            (&["\"a\"", "\"2026-03-01T12:00:00Z\""], "TEXT"),
            (&["\"2026-03-01T12:00:00Z\"", "\"2026-03-01 12:00:00.5+01\""], "TIMESTAMP"),
            (&["\"2026-03-01\""], "DATE"),
            (&["\"2026-03-01\"", "\"2026-03-01T12:00:00Z\""], "TIMESTAMP"),
            (&["\"9000-03-01T12:00:00Z\""], "TEXT"),
            (&["1", "\"a\""], "JSON"),
            (&["null"], "JSON"),
            (&["[1,2]", "[]", "[2.5,null]"], "DOUBLE[]"),
            (&["[]"], "JSON"),
            (&["[1,\"a\"]"], "JSON"),
            (&["{}"], "JSON"),
            (&[r#"{"a":1}"#, r#"{"b c":{"d":[true]},"a":null}"#], "STRUCT<a BIGINT, \"b c\" STRUCT<d BOOLEAN[]>>"),
            (&[r#"{"a":1}"#, "[1]"], "JSON"),
        ] {
            let samples: Vec<String> = values.iter().map(|value| format!("{{\"x\":{value}}}")).collect();
            let columns = learned(&samples.iter().map(String::as_str).collect::<Vec<_>>()).columns();
            assert_eq!(columns[0].sql_type(), expect, "{values:?}");
        }
    }

    #[test]
    fn numbers_are_times_by_name_and_size() {
        for (field, value, expect) in [
            ("ts", "1772366400", Some("unix_seconds")),
            ("created_at", "1772366400000", Some("unix_millis")),
            ("timestamp", "1772366400000000", Some("unix_micros")),
            ("time", "1772366400000000000", Some("unix_nanos")),
            ("price", "1772366400", None),
            ("time", "12", None),
            ("time", "1772366400.5", None),
        ] {
            let columns = learned(&[&format!("{{\"{field}\":{value}}}")]).columns();
            assert_eq!(columns[0].unix, expect, "{field}: {value}");
            assert_eq!(columns[0].sql_type() == "TIMESTAMP", expect.is_some());
        }
    }

    #[test]
    fn each_column_tells_its_evidence_and_the_best_time_is_the_event_time() {
        let samples = learned(&[
            r#"{"created_at":"2026-03-01T12:00:00Z","ts":"2026-03-01T12:00:01Z","n":null}"#,
            r#"{"created_at":"2026-03-01T12:00:00Z","ts":"2026-03-01T12:00:02Z","n":7,"gone":"2026-03-01T12:00:02Z"}"#,
            "Connected",
        ]);
        let columns = samples.columns();
        assert_eq!((columns[2].seen, columns[2].nulls, columns[2].of, columns[2].example.as_str()), (1, 1, 2, "7"));
        assert_eq!(samples.event_time().as_deref(), Some("ts"));
        assert_eq!(samples.others(), 1);
    }

    #[test]
    fn an_object_with_ids_as_keys_is_json() {
        let fields: Vec<String> = (0..1000).map(|id| format!("\"{id}\":1")).collect();
        let columns = learned(&[&format!("{{\"by_id\":{{{}}}}}", fields.join(","))]).columns();
        assert_eq!(columns[0].sql_type(), "JSON");
    }
}
