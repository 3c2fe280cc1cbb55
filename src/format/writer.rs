//! One value of an Arrow array becomes JSON or plain text. What to do with a type is decided once, with the schema.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, downcast_dictionary_array};
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::IgnoredAny;

use super::is_json;
use super::value::nanos_per;
use crate::time::civil;
use crate::zone::Zone;

/// How the values of a field are written.
#[derive(Debug)]
pub enum ValueWriter {
    Null,
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    Float32,
    Float64,
    Decimal32,
    Decimal64,
    Decimal128,
    Decimal256,
    Text(TextLayout),
    /// JSON text, which becomes part of the JSON around it.
    Json(TextLayout),
    Binary,
    LargeBinary,
    BinaryView,
    FixedSizeBinary,
    /// An instant, by the clocks of the zone that its type names: in UTC with `Z`, else with the distance from UTC.
    Zoned(TimeUnit, Zone),
    /// A time without a zone, and so without `Z`.
    Local(TimeUnit),
    Date32,
    Date64,
    Time(TimeUnit),
    List(Box<ValueWriter>),
    LargeList(Box<ValueWriter>),
    FixedSizeList(Box<ValueWriter>),
    Struct(Vec<Member>),
    Map(Box<ValueWriter>, Box<ValueWriter>),
    /// By type id.
    Union(Vec<(i8, ValueWriter)>),
    Dictionary(Box<ValueWriter>),
    /// Anything else, as Arrow shows it.
    Shown,
}

/// How text is kept in an array.
#[derive(Debug, Clone, Copy)]
pub enum TextLayout {
    Utf8,
    LargeUtf8,
    Utf8View,
}

/// A member of an object: `"name":`, and how its value is written.
#[derive(Debug)]
pub struct Member {
    key: Vec<u8>,
    writer: ValueWriter,
}

impl Member {
    pub fn of(field: &Field) -> Self {
        let mut key = Vec::new();
        quote(field.name(), &mut key);
        key.push(b':');
        Member { key, writer: ValueWriter::of(field) }
    }
}

/// Writes the members of one row, separated by commas.
pub fn members(members: &[Member], columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) {
    for (index, (member, column)) in members.iter().zip(columns).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&member.key);
        member.writer.json(column, row, out);
    }
}

impl ValueWriter {
    pub fn of(field: &Field) -> Self {
        let text = |text| if is_json(field) { ValueWriter::Json(text) } else { ValueWriter::Text(text) };
        match field.data_type() {
            DataType::Null => ValueWriter::Null,
            DataType::Boolean => ValueWriter::Bool,
            DataType::Int8 => ValueWriter::Int8,
            DataType::Int16 => ValueWriter::Int16,
            DataType::Int32 => ValueWriter::Int32,
            DataType::Int64 => ValueWriter::Int64,
            DataType::UInt8 => ValueWriter::UInt8,
            DataType::UInt16 => ValueWriter::UInt16,
            DataType::UInt32 => ValueWriter::UInt32,
            DataType::UInt64 => ValueWriter::UInt64,
            DataType::Float16 => ValueWriter::Float16,
            DataType::Float32 => ValueWriter::Float32,
            DataType::Float64 => ValueWriter::Float64,
            DataType::Decimal32(..) => ValueWriter::Decimal32,
            DataType::Decimal64(..) => ValueWriter::Decimal64,
            DataType::Decimal128(..) => ValueWriter::Decimal128,
            DataType::Decimal256(..) => ValueWriter::Decimal256,
            DataType::Utf8 => text(TextLayout::Utf8),
            DataType::LargeUtf8 => text(TextLayout::LargeUtf8),
            DataType::Utf8View => text(TextLayout::Utf8View),
            DataType::Binary => ValueWriter::Binary,
            DataType::LargeBinary => ValueWriter::LargeBinary,
            DataType::BinaryView => ValueWriter::BinaryView,
            DataType::FixedSizeBinary(_) => ValueWriter::FixedSizeBinary,
            DataType::Timestamp(unit, Some(zone)) => ValueWriter::Zoned(*unit, Zone::read(zone).unwrap_or(Zone::UTC)),
            DataType::Timestamp(unit, None) => ValueWriter::Local(*unit),
            DataType::Date32 => ValueWriter::Date32,
            DataType::Date64 => ValueWriter::Date64,
            DataType::Time32(unit) | DataType::Time64(unit) => ValueWriter::Time(*unit),
            DataType::List(item) => ValueWriter::List(Box::new(ValueWriter::of(item))),
            DataType::LargeList(item) => ValueWriter::LargeList(Box::new(ValueWriter::of(item))),
            DataType::FixedSizeList(item, _) => ValueWriter::FixedSizeList(Box::new(ValueWriter::of(item))),
            DataType::Struct(fields) => ValueWriter::Struct(fields.iter().map(|field| Member::of(field)).collect()),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(parts) if parts.len() == 2 => {
                    ValueWriter::Map(Box::new(ValueWriter::of(&parts[0])), Box::new(ValueWriter::of(&parts[1])))
                }
                _ => ValueWriter::Shown,
            },
            DataType::Union(fields, _) => {
                ValueWriter::Union(fields.iter().map(|(id, field)| (id, ValueWriter::of(field))).collect())
            }
            DataType::Dictionary(_, values) => {
                let field = Field::new("", values.as_ref().clone(), true).with_metadata(field.metadata().clone());
                ValueWriter::Dictionary(Box::new(ValueWriter::of(&field)))
            }
            _ => ValueWriter::Shown,
        }
    }

    /// Writes the value as JSON; NULL, NaN and infinities as `null`.
    pub fn json(&self, array: &dyn Array, row: usize, out: &mut Vec<u8>) {
        macro_rules! integer {
            ($type:ty) => {
                out.extend_from_slice(itoa::Buffer::new().format(array.as_primitive::<$type>().value(row)).as_bytes())
            };
        }
        macro_rules! float {
            ($value:expr) => {
                match $value {
                    value if value.is_finite() => out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes()),
                    _ => out.extend_from_slice(b"null"),
                }
            };
        }
        macro_rules! decimal {
            ($type:ty) => {
                out.extend_from_slice(array.as_primitive::<$type>().value_as_string(row).as_bytes())
            };
        }
        if array.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        match self {
            ValueWriter::Null => out.extend_from_slice(b"null"),
            ValueWriter::Bool => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
            ValueWriter::Int8 => integer!(Int8Type),
            ValueWriter::Int16 => integer!(Int16Type),
            ValueWriter::Int32 => integer!(Int32Type),
            ValueWriter::Int64 => integer!(Int64Type),
            ValueWriter::UInt8 => integer!(UInt8Type),
            ValueWriter::UInt16 => integer!(UInt16Type),
            ValueWriter::UInt32 => integer!(UInt32Type),
            ValueWriter::UInt64 => integer!(UInt64Type),
            ValueWriter::Float16 => float!(array.as_primitive::<Float16Type>().value(row).to_f32()),
            ValueWriter::Float32 => float!(array.as_primitive::<Float32Type>().value(row)),
            ValueWriter::Float64 => float!(array.as_primitive::<Float64Type>().value(row)),
            ValueWriter::Decimal32 => decimal!(Decimal32Type),
            ValueWriter::Decimal64 => decimal!(Decimal64Type),
            ValueWriter::Decimal128 => decimal!(Decimal128Type),
            ValueWriter::Decimal256 => decimal!(Decimal256Type),
            ValueWriter::Text(text) => quote(text.value(array, row), out),
            ValueWriter::Json(text) => embed(text.value(array, row), out),
            ValueWriter::Binary => base64(array.as_binary::<i32>().value(row), out),
            ValueWriter::LargeBinary => base64(array.as_binary::<i64>().value(row), out),
            ValueWriter::BinaryView => base64(array.as_binary_view().value(row), out),
            ValueWriter::FixedSizeBinary => base64(array.as_fixed_size_binary().value(row), out),
            ValueWriter::Zoned(unit, zone) => quoted(out, |out| instant(integer_of(array, row), *unit, *zone, out)),
            ValueWriter::Local(unit) => quoted(out, |out| local(integer_of(array, row), *unit, out)),
            ValueWriter::Date32 => quoted(out, |out| date(array.as_primitive::<Date32Type>().value(row).into(), out)),
            ValueWriter::Date64 => {
                quoted(out, |out| date(array.as_primitive::<Date64Type>().value(row).div_euclid(86_400_000), out))
            }
            ValueWriter::Time(unit) => quoted(out, |out| {
                let nanos = i128::from(integer_of(array, row)) * i128::from(nanos_per(*unit));
                clock((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as i64, out);
            }),
            ValueWriter::List(item) => list(item, &array.as_list::<i32>().value(row), out),
            ValueWriter::LargeList(item) => list(item, &array.as_list::<i64>().value(row), out),
            ValueWriter::FixedSizeList(item) => list(item, &array.as_fixed_size_list().value(row), out),
            ValueWriter::Struct(parts) => {
                out.push(b'{');
                members(parts, array.as_struct().columns(), row, out);
                out.push(b'}');
            }
            ValueWriter::Map(key, value) => {
                let entries = array.as_map().value(row);
                out.push(b'{');
                let mut name = Vec::new();
                for entry in 0..entries.len() {
                    if entry > 0 {
                        out.push(b',');
                    }
                    name.clear();
                    key.text(entries.column(0), entry, &mut name);
                    quote(&String::from_utf8_lossy(&name), out);
                    out.push(b':');
                    value.json(entries.column(1), entry, out);
                }
                out.push(b'}');
            }
            ValueWriter::Union(writers) => match member(writers, array, row) {
                Some((writer, values, row)) => writer.json(values, row, out),
                None => out.extend_from_slice(b"null"),
            },
            ValueWriter::Dictionary(values) => match key(array, row) {
                Some(key) => values.json(array.as_any_dictionary().values(), key, out),
                None => out.extend_from_slice(b"null"),
            },
            ValueWriter::Shown => match ArrayFormatter::try_new(array, &FormatOptions::new()) {
                Ok(formatter) => quote(&formatter.value(row).to_string(), out),
                Err(_) => out.extend_from_slice(b"null"),
            },
        }
    }

    /// Whether the value is NULL, be it inside of a union or dictionary.
    pub fn is_null(&self, array: &dyn Array, row: usize) -> bool {
        match self {
            ValueWriter::Null => true,
            ValueWriter::Union(writers) => {
                member(writers, array, row).is_none_or(|(writer, values, row)| writer.is_null(values, row))
            }
            ValueWriter::Dictionary(values) => {
                key(array, row).is_none_or(|key| values.is_null(array.as_any_dictionary().values(), key))
            }
            _ => array.is_null(row),
        }
    }

    /// Writes the value as it stands in a CSV field or a cell of a table: as in JSON, but text without its quotes. Not for NULL.
    pub fn text(&self, array: &dyn Array, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            ValueWriter::Text(text) | ValueWriter::Json(text) => return out.extend_from_slice(text.value(array, row).as_bytes()),
            ValueWriter::Union(writers) => {
                if let Some((writer, values, row)) = member(writers, array, row) {
                    writer.text(values, row, out);
                }
                return;
            }
            ValueWriter::Dictionary(values) => {
                if let Some(key) = key(array, row) {
                    values.text(array.as_any_dictionary().values(), key, out);
                }
                return;
            }
            _ => {}
        }
        let float = match self {
            ValueWriter::Float16 => array.as_primitive::<Float16Type>().value(row).to_f64(),
            ValueWriter::Float32 => array.as_primitive::<Float32Type>().value(row).into(),
            ValueWriter::Float64 => array.as_primitive::<Float64Type>().value(row),
            _ => 0.0,
        };
        match float {
            f64::INFINITY => return out.extend_from_slice(b"Infinity"),
            f64::NEG_INFINITY => return out.extend_from_slice(b"-Infinity"),
            float if float.is_nan() => return out.extend_from_slice(b"NaN"),
            _ => self.json(array, row, out),
        }
        // What is left in quotes (times, dates, bytes) has no escapes.
        if out.get(start) == Some(&b'"') {
            out.remove(start);
            out.pop();
        }
    }
}

impl TextLayout {
    fn value(self, array: &dyn Array, row: usize) -> &str {
        match self {
            TextLayout::Utf8 => array.as_string::<i32>().value(row),
            TextLayout::LargeUtf8 => array.as_string::<i64>().value(row),
            TextLayout::Utf8View => array.as_string_view().value(row),
        }
    }
}

/// The value behind that of a union: its writer, array and row.
fn member<'a>(
    writers: &'a [(i8, ValueWriter)],
    array: &'a dyn Array,
    row: usize,
) -> Option<(&'a ValueWriter, &'a ArrayRef, usize)> {
    let union = array.as_union();
    let id = union.type_id(row);
    let (_, writer) = writers.iter().find(|(known, _)| *known == id)?;
    Some((writer, union.child(id), union.value_offset(row)))
}

/// Where the value behind that of a dictionary is.
fn key(array: &dyn Array, row: usize) -> Option<usize> {
    downcast_dictionary_array!(
        array => array.key(row),
        _ => None
    )
}

/// The number behind a time.
fn integer_of(array: &dyn Array, row: usize) -> i64 {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => array.as_primitive::<TimestampSecondType>().value(row),
        DataType::Timestamp(TimeUnit::Millisecond, _) => array.as_primitive::<TimestampMillisecondType>().value(row),
        DataType::Timestamp(TimeUnit::Microsecond, _) => array.as_primitive::<TimestampMicrosecondType>().value(row),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => array.as_primitive::<TimestampNanosecondType>().value(row),
        DataType::Time32(TimeUnit::Second) => array.as_primitive::<Time32SecondType>().value(row).into(),
        DataType::Time32(_) => array.as_primitive::<Time32MillisecondType>().value(row).into(),
        DataType::Time64(TimeUnit::Microsecond) => array.as_primitive::<Time64MicrosecondType>().value(row),
        _ => array.as_primitive::<Time64NanosecondType>().value(row),
    }
}

fn list(item: &ValueWriter, values: &dyn Array, out: &mut Vec<u8>) {
    out.push(b'[');
    for row in 0..values.len() {
        if row > 0 {
            out.push(b',');
        }
        item.json(values, row, out);
    }
    out.push(b']');
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Writes text as a JSON string.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text is always a JSON string");
}

/// Writes JSON text as it is, on one line; what is no JSON as a string.
fn embed(text: &str, out: &mut Vec<u8>) {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return quote(text, out);
    }
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    // Inside of strings a line break is an escape, so these are space between values.
    for byte in &mut out[start..] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    quoted(out, |out| {
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        BASE64_STANDARD.encode_slice(bytes, &mut out[start..]).expect("four bytes for each three");
    });
}

/// RFC 3339 with the distance from UTC of a zone's clocks; by UTC itself, with a `Z`, where the zone knows no such year.
fn instant(value: i64, unit: TimeUnit, zone: Zone, out: &mut Vec<u8>) {
    let per_second = 1_000_000_000 / nanos_per(unit);
    let ahead = match zone {
        Zone::UTC => None,
        zone => zone.offset(value.div_euclid(per_second)),
    };
    let moved = ahead.and_then(|ahead| Some((ahead, value.checked_add(ahead.checked_mul(per_second)?)?)));
    match moved {
        None => {
            local(value, unit, out);
            out.push(b'Z');
        }
        Some((ahead, value)) => {
            local(value, unit, out);
            let size = ahead.abs();
            out.push(if ahead < 0 { b'-' } else { b'+' });
            two(size / 3600, out);
            out.push(b':');
            two(size / 60 % 60, out);
            if size % 60 != 0 {
                out.push(b':');
                two(size % 60, out);
            }
        }
    }
}

/// RFC 3339 without the zone and with as many decimals as needed; with a `Z`, like [`crate::time::Timestamp`].
fn local(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let per_second = 1_000_000_000 / nanos_per(unit);
    let (seconds, nanos) = (value.div_euclid(per_second), value.rem_euclid(per_second) * nanos_per(unit));
    date(seconds.div_euclid(86_400), out);
    out.push(b'T');
    clock(seconds.rem_euclid(86_400), nanos, out);
}

/// `YYYY-MM-DD` of a day since 1970, in the Gregorian calendar.
fn date(day: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(day);
    match year {
        0..10_000 => {
            two(year / 100, out);
            two(year % 100, out);
        }
        _ => write!(out, "{year:+05}").expect("memory takes every byte"),
    }
    out.push(b'-');
    two(month, out);
    out.push(b'-');
    two(day, out);
}

/// `HH:MM:SS`, and decimals if there are any.
fn clock(seconds: i64, nanos: i64, out: &mut Vec<u8>) {
    two(seconds / 3600, out);
    out.push(b':');
    two(seconds / 60 % 60, out);
    out.push(b':');
    two(seconds % 60, out);
    if nanos != 0 {
        write!(out, ".{nanos:09}").expect("memory takes every byte");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn two(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Timestamp;

    proptest! {
        #[test]
        fn times_are_written_as_the_floor_writes_them(nanos in any::<i64>().prop_filter("ends", |n| !matches!(*n, i64::MIN | i64::MAX)), cut in 0u32..10) {
            let nanos = nanos / 10i64.pow(cut) * 10i64.pow(cut);
            let mut out = Vec::new();
            local(nanos, TimeUnit::Nanosecond, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap() + "Z", Timestamp(nanos).to_string());
        }
    }
}
