//! The JSON text of one value becomes cells: typed, checked, not yet in a column.
//!
//! What is accepted beside a type's own form: numbers and booleans in strings; whole numbers however written (`1.0`, `1e3`) for
//! integers; any JSON as text for TEXT. Decimals are exact, and excess digits round with halves away from zero.

use std::borrow::Cow;
use std::slice::Iter;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::number::{self, NotANumber};
use super::object::{self, ByteRange, Fault, FieldName, NameIndex, NearFields};
use super::{Column, FormatSpec, infer, is_json, scan, temporal};
use crate::options::{Format, TimestampFormat};

/// A scalar, or the head of a list, struct or map whose parts are the cells that follow.
#[derive(Debug, Clone, Copy)]
pub enum Cell {
    Null,
    Bool(bool),
    /// An integer; a time in the unit of its column; a date in days.
    Int(i64),
    UInt(u64),
    Float(f64),
    /// Scaled by the column's scale.
    Decimal(i128),
    /// Text that stands in the event's data as it is.
    Text(ByteRange),
    /// Text in [`Scratch::text`].
    Unescaped(ByteRange),
    /// Bytes in [`Scratch::bytes`].
    Bytes(ByteRange),
    Kind,
    Id,
    Endpoint,
    /// Its elements follow, or its keys and values in turn.
    List(usize),
    /// Its fields follow.
    Struct,
}

/// The cells of one row, and what they are made from; used again for each row.
#[derive(Debug, Default)]
pub struct Scratch {
    pub cells: Vec<Cell>,
    pub slots: Vec<Option<ByteRange>>,
    pub near: NearFields,
    pub text: String,
    pub bytes: Vec<u8>,
}

impl Scratch {
    pub fn clear(&mut self) {
        self.cells.clear();
        self.slots.clear();
        self.text.clear();
        self.bytes.clear();
    }
}

/// How the values of one column, list, map or field are read.
#[derive(Debug)]
pub struct ValueReader {
    key: FieldName,
    /// The type as SQL, for reasons.
    shown: String,
    nullable: bool,
    kind: ValueKind,
}

#[derive(Debug)]
enum ValueKind {
    Bool,
    Int {
        min: i64,
        max: i64,
    },
    UInt {
        max: u64,
    },
    Float32,
    Float64,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Text,
    Json,
    Bytes,
    /// `local` is what a clock shows, whatever zone the text names.
    Timestamp {
        unit: TimeUnit,
        local: bool,
        numbers: Numbers,
    },
    Date(Numbers),
    Time(TimeUnit, Numbers),
    List(Box<ValueReader>),
    Map(Box<ValueReader>),
    Struct {
        names: NameIndex,
        fields: Vec<ValueReader>,
    },
}

/// How the times of a table are written where they are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumericTime {
    /// As the option says, points in time alone.
    As(TimestampFormat),
    /// As Debezium writes them: milliseconds in a `TIMESTAMP(0)` to `TIMESTAMP(3)`, else microseconds; dates as days.
    Debezium,
}

impl NumericTime {
    /// How a table of this format writes its times. What the option says goes before what the format is known for.
    pub fn of(spec: &FormatSpec) -> NumericTime {
        match (spec.format, spec.timestamps) {
            (Format::Debezium, TimestampFormat::Rfc3339) => NumericTime::Debezium,
            (_, timestamps) => NumericTime::As(timestamps),
        }
    }
}

/// What a number means in a column of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Counted from 1970, or from midnight, in this unit; nothing if times are text alone.
    Of(TimestampFormat),
    /// Days since 1970.
    Days,
}

/// Base64 of either alphabet, with and without `=` at the end.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Characters of a value shown in a reason.
const SHOWN_CHARS: usize = 40;

impl ValueReader {
    /// The error is the type, perhaps one inside the column's own, that cannot be read from JSON.
    pub fn of_column(column: &Column, written: NumericTime) -> Result<ValueReader, DataType> {
        let key = FieldName { name: column.name.clone(), exact: column.exact };
        ValueReader::of(&column.field(), key, &mut column.keys.iter(), written)
    }

    /// `inner` are the keys of the fields inside, each before those within it.
    fn of(field: &Field, key: FieldName, inner: &mut Iter<'_, FieldName>, written: NumericTime) -> Result<ValueReader, DataType> {
        let data_type = field.data_type();
        let signed = |min, max| ValueKind::Int { min, max };
        let kind = match data_type {
            DataType::Boolean => ValueKind::Bool,
            DataType::Int8 => signed(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => signed(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => signed(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => signed(i64::MIN, i64::MAX),
            DataType::UInt8 => ValueKind::UInt { max: u8::MAX.into() },
            DataType::UInt16 => ValueKind::UInt { max: u16::MAX.into() },
            DataType::UInt32 => ValueKind::UInt { max: u32::MAX.into() },
            DataType::UInt64 => ValueKind::UInt { max: u64::MAX },
            DataType::Float32 => ValueKind::Float32,
            DataType::Float64 => ValueKind::Float64,
            DataType::Decimal128(precision, scale) => ValueKind::Decimal { precision: *precision, scale: *scale },
            DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 if is_json(field) => ValueKind::Json,
            DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => ValueKind::Text,
            DataType::Binary | DataType::BinaryView => ValueKind::Bytes,
            DataType::Timestamp(unit, zone) => {
                let numbers = match (written, unit) {
                    (NumericTime::As(timestamps), _) => timestamps,
                    (NumericTime::Debezium, TimeUnit::Second | TimeUnit::Millisecond) => TimestampFormat::Millis,
                    (NumericTime::Debezium, TimeUnit::Microsecond | TimeUnit::Nanosecond) => TimestampFormat::Micros,
                };
                ValueKind::Timestamp { unit: *unit, local: zone.is_none(), numbers: Numbers::Of(numbers) }
            }
            DataType::Date32 => ValueKind::Date(match written {
                NumericTime::As(_) => Numbers::Of(TimestampFormat::Rfc3339),
                NumericTime::Debezium => Numbers::Days,
            }),
            DataType::Time32(unit) | DataType::Time64(unit) => {
                let numbers = match written {
                    NumericTime::As(_) => TimestampFormat::Rfc3339,
                    NumericTime::Debezium => TimestampFormat::Micros,
                };
                ValueKind::Time(*unit, Numbers::Of(numbers))
            }
            DataType::List(item) => {
                ValueKind::List(Box::new(ValueReader::of(item, FieldName::exact(item.name()), inner, written)?))
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(parts) if parts.len() == 2 && super::is_text(parts[0].data_type()) => {
                    ValueKind::Map(Box::new(ValueReader::of(&parts[1], FieldName::exact(parts[1].name()), inner, written)?))
                }
                _ => return Err(data_type.clone()),
            },
            DataType::Struct(fields) => {
                let value = |field: &FieldRef| {
                    let key = inner.next().cloned().unwrap_or_else(|| FieldName { name: field.name().clone(), exact: false });
                    ValueReader::of(field, key, inner, written)
                };
                let fields = fields.iter().map(value).collect::<Result<Vec<_>, _>>()?;
                ValueKind::Struct { names: NameIndex::new(fields.iter().map(|field| field.key.clone())), fields }
            }
            _ => return Err(data_type.clone()),
        };
        Ok(ValueReader { key, shown: infer::sql_type(data_type), nullable: field.is_nullable(), kind })
    }

    pub fn name(&self) -> &str {
        &self.key.name
    }

    pub fn key(&self) -> &FieldName {
        &self.key
    }

    /// The fields of a struct, of the structs in a list, or of those in a map; none for other values.
    pub fn fields(&self) -> &[ValueReader] {
        match &self.kind {
            ValueKind::Struct { fields, .. } => fields,
            ValueKind::List(inner) | ValueKind::Map(inner) => inner.fields(),
            _ => &[],
        }
    }

    /// Takes over what the feed's own schema calls the type of this field, if that is one of Debezium's for times.
    pub fn told(&mut self, type_name: &str) {
        let Some((_, told)) = TIME_TYPES.iter().find(|(name, _)| *name == type_name) else { return };
        match (&mut self.kind, told) {
            (ValueKind::Timestamp { numbers, .. } | ValueKind::Date(numbers), told) => *numbers = *told,
            (ValueKind::Time(_, numbers), Numbers::Of(_)) => *numbers = *told,
            _ => {}
        }
    }

    /// Appends the cells of the value whose JSON text is `slot`; a missing value is NULL. `whole` is the record it belongs to.
    pub fn read(&self, data: &str, slot: Option<ByteRange>, whole: ByteRange, scratch: &mut Scratch) -> Result<(), Fault> {
        // A slot holds JSON, and of JSON only `null` begins with an n.
        let found = slot.filter(|part| data.as_bytes()[part.start] != b'n');
        // To PHP an empty object is an empty array, and it writes it as one.
        let is_empty = |part: &ByteRange| matches!(self.kind, ValueKind::Struct { .. }) && is_empty_array(part.of(data));
        let found = found.filter(|part| !is_empty(part));
        let result = match found {
            Some(part) => self.read_value(data, part, scratch),
            None if self.nullable => {
                scratch.cells.push(Cell::Null);
                Ok(())
            }
            None => {
                let what = if slot.is_some() { "null" } else { "missing" };
                Err(Fault::new(slot.unwrap_or(whole).start, format!("the value is {what}, and the column is NOT NULL")))
            }
        };
        result.map_err(|fault| fault.inside(&self.key.name))
    }

    fn read_value(&self, data: &str, part: ByteRange, scratch: &mut Scratch) -> Result<(), Fault> {
        let raw = part.of(data);
        let wrong = |message: String| Fault::new(part.start, message);
        let cell = match &self.kind {
            ValueKind::Text => match raw.as_bytes()[0] {
                b'"' => text(data, part, scratch)?,
                _ => Cell::Text(part),
            },
            ValueKind::Json => Cell::Text(part),
            ValueKind::Float64 => Cell::Float(
                number_text(raw)
                    .ok_or(NotANumber::Shape)
                    .and_then(|text| number::float(&text))
                    .map_err(|why| wrong(self.no_number(raw, why)))?,
            ),
            ValueKind::Float32 => {
                let read = number_text(raw).ok_or(NotANumber::Shape).and_then(|text| number::float::<f32>(&text));
                Cell::Float(read.map_err(|why| wrong(self.no_number(raw, why)))?.into())
            }
            ValueKind::Int { min, max } => {
                let value = match number::small(raw) {
                    Some(value) => Some(value),
                    None => i64::try_from(self.integer(raw).map_err(wrong)?).ok(),
                };
                let value = value.filter(|value| (min..=max).contains(&value));
                Cell::Int(value.ok_or_else(|| wrong(self.no_number(raw, NotANumber::Range)))?)
            }
            ValueKind::UInt { max } => {
                let value = self.integer(raw).map_err(wrong)?;
                let value = u64::try_from(value).ok().filter(|value| value <= max);
                Cell::UInt(value.ok_or_else(|| wrong(self.no_number(raw, NotANumber::Range)))?)
            }
            ValueKind::Decimal { precision, scale } => {
                let read = number_text(raw).ok_or(NotANumber::Shape).and_then(|text| number::scaled(&text, *scale));
                let fits =
                    |value: &i128| 10u128.checked_pow((*precision).into()).is_some_and(|limit| value.unsigned_abs() < limit);
                let value = read.and_then(|(value, _)| Some(value).filter(fits).ok_or(NotANumber::Range));
                Cell::Decimal(value.map_err(|why| wrong(self.no_number(raw, why)))?)
            }
            ValueKind::Bool => match string(raw).as_deref().unwrap_or(raw) {
                text if text.eq_ignore_ascii_case("true") => Cell::Bool(true),
                text if text.eq_ignore_ascii_case("false") => Cell::Bool(false),
                _ => return Err(wrong(format!("{} is neither true nor false", shown(raw)))),
            },
            ValueKind::Timestamp { unit, local, numbers } => {
                let nanos = instant(raw, *local, *numbers).map_err(wrong)?;
                let value = match (unit, i64::try_from(nanos)) {
                    (TimeUnit::Nanosecond, Ok(nanos)) => Some(nanos),
                    (_, Ok(nanos)) => Some(nanos.div_euclid(nanos_per(*unit))),
                    (_, Err(_)) => i64::try_from(nanos.div_euclid(nanos_per(*unit).into())).ok(),
                };
                Cell::Int(value.ok_or_else(|| {
                    let range = match unit {
                        TimeUnit::Nanosecond => "lies outside the years 1677 to 2262 that a TIMESTAMP holds".to_string(),
                        _ => format!("lies outside what {} holds", self.shown),
                    };
                    wrong(format!("{} {range}{}", shown(raw), way_out(raw, *unit, *numbers)))
                })?)
            }
            ValueKind::Date(numbers) => match string(raw).as_deref().and_then(temporal::date).or_else(|| day(raw, *numbers)) {
                Some(days) => Cell::Int(days.into()),
                None => return Err(wrong(format!("{} is no date such as '2026-03-01'", shown(raw)))),
            },
            ValueKind::Time(unit, numbers) => {
                match string(raw).as_deref().and_then(temporal::time_of_day).or_else(|| clock(raw, *numbers)) {
                    Some(nanos) => Cell::Int(nanos / nanos_per(*unit)),
                    None => return Err(wrong(format!("{} is no time of day such as '12:00:00'", shown(raw)))),
                }
            }
            ValueKind::Bytes => {
                let start = scratch.bytes.len();
                let text = string(raw).ok_or_else(|| wrong(format!("{} is no base64 text", shown(raw))))?;
                let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
                engine
                    .decode_vec(text.as_bytes(), &mut scratch.bytes)
                    .map_err(|_| wrong(format!("{} is no base64 text", shown(raw))))?;
                Cell::Bytes(ByteRange { start, end: scratch.bytes.len() })
            }
            ValueKind::List(item) => {
                if !raw.starts_with('[') {
                    return Err(wrong(format!("{} is no array", shown(raw))));
                }
                let first = scratch.slots.len();
                object::elements(data, part, &mut scratch.slots)?;
                let length = scratch.slots.len() - first;
                scratch.cells.push(Cell::List(length));
                for index in 0..length {
                    let slot = scratch.slots[first + index];
                    item.read(data, slot, part, scratch).map_err(|fault| element(fault, &item.key.name, index))?;
                }
                scratch.slots.truncate(first);
                return Ok(());
            }
            ValueKind::Map(value) => return map(value, data, part, scratch),
            ValueKind::Struct { names, fields } => {
                if !raw.starts_with('{') {
                    return Err(wrong(format!("{} is no object", shown(raw))));
                }
                let first = scratch.slots.len();
                scratch.slots.resize(first + fields.len(), None);
                object::fields(data, part, names, &mut scratch.slots[first..], &mut scratch.near)?;
                scratch.cells.push(Cell::Struct);
                for (index, field) in fields.iter().enumerate() {
                    let slot = scratch.slots[first + index];
                    field.read(data, slot, part, scratch)?;
                }
                scratch.slots.truncate(first);
                return Ok(());
            }
        };
        scratch.cells.push(cell);
        Ok(())
    }

    fn integer(&self, raw: &str) -> Result<i128, String> {
        number_text(raw).ok_or(NotANumber::Shape).and_then(|text| number::integer(&text)).map_err(|why| self.no_number(raw, why))
    }

    fn no_number(&self, raw: &str, why: NotANumber) -> String {
        match why {
            NotANumber::Shape => format!("{} is no number", shown(raw)),
            NotANumber::Fraction => format!("{} is no whole number", shown(raw)),
            NotANumber::Range => format!("{} is beyond the range of {}", shown(raw), self.shown),
        }
    }
}

/// Appends the cells of a map: its length, then keys and values in turn. Of equal keys the last counts.
fn map(value: &ValueReader, data: &str, part: ByteRange, scratch: &mut Scratch) -> Result<(), Fault> {
    if is_empty_array(part.of(data)) {
        scratch.cells.push(Cell::List(0));
        return Ok(());
    }
    if !part.of(data).starts_with('{') {
        return Err(Fault::new(part.start, format!("{} is no object", shown(part.of(data)))));
    }
    let first = scratch.slots.len();
    object::entries(data, part, &mut scratch.slots)?;
    let length = (scratch.slots.len() - first) / 2;
    let mut last = std::collections::HashMap::with_capacity(length);
    for index in 0..length {
        let key = scratch.slots[first + 2 * index].expect("an entry has a key");
        last.insert(string(key.of(data)).unwrap_or_default(), index);
    }
    scratch.cells.push(Cell::List(last.len()));
    for index in 0..length {
        let key = scratch.slots[first + 2 * index].expect("an entry has a key");
        let name = string(key.of(data)).unwrap_or_default();
        if last.get(&name) == Some(&index) {
            let cell = text(data, key, scratch)?;
            scratch.cells.push(cell);
            let slot = scratch.slots[first + 2 * index + 1];
            value.read(data, slot, part, scratch).map_err(|fault| renamed(fault, &value.key.name, &name))?;
        }
    }
    scratch.slots.truncate(first);
    Ok(())
}

/// The fault of an element: `item` becomes `[3]`.
fn element(fault: Fault, item: &str, index: usize) -> Fault {
    renamed(fault, item, &format!("[{index}]"))
}

fn renamed(mut fault: Fault, from: &str, to: &str) -> Fault {
    fault.path = format!("{to}{}", fault.path.strip_prefix(from).unwrap_or(&fault.path));
    fault
}

/// The cell of a JSON string.
fn text(data: &str, part: ByteRange, scratch: &mut Scratch) -> Result<Cell, Fault> {
    let inner = ByteRange { start: part.start + 1, end: part.end - 1 };
    match scan::has_escapes(inner.of(data)) {
        false => Ok(Cell::Text(inner)),
        true => Ok(Cell::Unescaped(object::unescape(data, part, &mut scratch.text)?)),
    }
}

/// The content of a JSON string; `None` for other values and broken escapes.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    match scan::has_escapes(inner) {
        false => Some(Cow::Borrowed(inner)),
        true => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

/// The text of a number, which may stand in a string.
fn number_text(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes()[0] {
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(raw)),
        b'"' => match string(raw)? {
            Cow::Borrowed(text) => Some(Cow::Borrowed(text.trim_ascii())),
            Cow::Owned(text) => Some(Cow::Owned(text.trim_ascii().into())),
        },
        _ => None,
    }
}

/// What Debezium and Kafka Connect call their types of times, and what a number of each means.
const TIME_TYPES: [(&str, Numbers); 10] = [
    ("io.debezium.time.Date", Numbers::Days),
    ("io.debezium.time.Time", Numbers::Of(TimestampFormat::Millis)),
    ("io.debezium.time.MicroTime", Numbers::Of(TimestampFormat::Micros)),
    ("io.debezium.time.NanoTime", Numbers::Of(TimestampFormat::Nanos)),
    ("io.debezium.time.Timestamp", Numbers::Of(TimestampFormat::Millis)),
    ("io.debezium.time.MicroTimestamp", Numbers::Of(TimestampFormat::Micros)),
    ("io.debezium.time.NanoTimestamp", Numbers::Of(TimestampFormat::Nanos)),
    ("org.apache.kafka.connect.data.Date", Numbers::Days),
    ("org.apache.kafka.connect.data.Time", Numbers::Of(TimestampFormat::Millis)),
    ("org.apache.kafka.connect.data.Timestamp", Numbers::Of(TimestampFormat::Millis)),
];

fn is_empty_array(raw: &str) -> bool {
    raw.strip_prefix('[').and_then(|raw| raw.strip_suffix(']')).is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// The digits behind the point of a number in seconds that a whole number of this unit stands for.
fn decimals(written: TimestampFormat) -> Option<i8> {
    match written {
        TimestampFormat::Rfc3339 => None,
        TimestampFormat::Seconds => Some(9),
        TimestampFormat::Millis => Some(6),
        TimestampFormat::Micros => Some(3),
        TimestampFormat::Nanos => Some(0),
    }
}

/// The number that stands in `raw`, if what numbers mean is a time at all, in nanoseconds.
fn nanos(raw: &str, numbers: Numbers) -> Option<i128> {
    let scaled = |decimals| number::scaled(&number_text(raw)?, decimals).ok().map(|(value, _)| value);
    match numbers {
        Numbers::Days => scaled(0)?.checked_mul(DAY_NANOS),
        Numbers::Of(written) => scaled(decimals(written)?),
    }
}

const DAY_NANOS: i128 = 86_400_000_000_000;

/// Days since 1970 of a date that is written as a number.
fn day(raw: &str, numbers: Numbers) -> Option<i32> {
    i32::try_from(nanos(raw, numbers)?.div_euclid(DAY_NANOS)).ok()
}

/// Nanoseconds since midnight of a time of day that is written as a number.
fn clock(raw: &str, numbers: Numbers) -> Option<i64> {
    i64::try_from(nanos(raw, numbers)?).ok().filter(|nanos| (0..DAY_NANOS as i64).contains(nanos))
}

/// Nanoseconds since 1970 of a time written as text or, if the option or the format says so, as a number.
fn instant(raw: &str, local: bool, numbers: Numbers) -> Result<i128, String> {
    let read = if local { temporal::local } else { temporal::instant };
    let quoted = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    // Escapes are no part of a time, and rare in its text: they are resolved only where it is no time as it stands.
    if let Some(nanos) = quoted.and_then(|text| read(text).or_else(|| read(&string(raw)?))) {
        return Ok(nanos);
    }
    let decimals = match numbers {
        Numbers::Of(written) => decimals(written),
        Numbers::Days => {
            return nanos(raw, numbers).ok_or_else(|| format!("{} is neither a number of days nor a time", shown(raw)));
        }
    };
    let number = number_text(raw).map(|text| number::scaled(&text, decimals.unwrap_or(0)));
    match (decimals, number) {
        (Some(_), Some(Ok((nanos, _)))) => Ok(nanos),
        (Some(_), Some(Err(NotANumber::Range))) => Ok(i128::MAX),
        (Some(_), _) => Err(format!("{} is neither a number nor an RFC 3339 time", shown(raw))),
        (None, Some(Ok((value, _)))) => {
            let name = unix_format(value.unsigned_abs());
            Err(format!(
                "the number {} is no RFC 3339 time (set json.timestamp_format = '{name}' if it counts from 1970)",
                shown(raw)
            ))
        }
        (None, _) => Err(format!("{} is no RFC 3339 time such as '2026-03-01T12:00:00Z'", shown(raw))),
    }
}

/// The unit in which a number of this size is a time between 1973 and 5138.
pub fn unix_format(size: u128) -> &'static str {
    match size {
        0..100_000_000_000 => "unix_seconds",
        100_000_000_000..100_000_000_000_000 => "unix_millis",
        100_000_000_000_000..100_000_000_000_000_000 => "unix_micros",
        _ => "unix_nanos",
    }
}

/// A way out where a time is out of range: it is written in another unit, or the column's own unit is too small for it.
fn way_out(raw: &str, unit: TimeUnit, numbers: Numbers) -> String {
    let wider = match unit {
        TimeUnit::Nanosecond => " (declare the column as TIMESTAMP(6), which holds all years)".to_string(),
        _ => String::new(),
    };
    let given = match numbers {
        Numbers::Days | Numbers::Of(TimestampFormat::Rfc3339) => return wider,
        Numbers::Of(TimestampFormat::Seconds) => "unix_seconds",
        Numbers::Of(TimestampFormat::Millis) => "unix_millis",
        Numbers::Of(TimestampFormat::Micros) => "unix_micros",
        Numbers::Of(TimestampFormat::Nanos) => "unix_nanos",
    };
    match number_text(raw).map(|text| number::scaled(&text, 0)) {
        Some(Ok((value, _))) if unix_format(value.unsigned_abs()) != given => {
            format!(" (perhaps json.timestamp_format = '{}' is meant)", unix_format(value.unsigned_abs()))
        }
        _ => wider,
    }
}

pub fn nanos_per(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// A value as a reason shows it: scalars in quotes, shortened; others by their kind.
fn shown(raw: &str) -> String {
    let text = match raw.as_bytes().first() {
        Some(b'{') => return "an object".into(),
        Some(b'[') => return "an array".into(),
        Some(b'"') => raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw),
        _ => raw,
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("'{}…'", &text[..end]),
        None => format!("'{text}'"),
    }
}
