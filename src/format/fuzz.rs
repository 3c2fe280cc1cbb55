//! What fuzzers feed with any bytes: events of every format, against what serde_json makes of them and against themselves.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, TimeUnit};
use serde_json::value::RawValue;

use super::encode::JsonRows;
use super::infer::Samples;
use super::{Bad, ChangeDecoder, Column, Decoder, EXCERPT_BYTES, FormatSpec, Metadata, Op, Origin, RawEvent, is_json};
use crate::options::{Format, Framing, TimestampFormat, Value};
use crate::time::{Timestamp, instant_ns};

/// The first two bytes choose format, framing, how times are written and the schema; the rest are events with NUL between.
pub fn decode(input: &[u8]) {
    let Some((&[how, times], rest)) = input.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let events: Vec<&str> = text.split('\0').take(8).collect();
    let written = [TimestampFormat::Rfc3339, TimestampFormat::Seconds, TimestampFormat::Millis, TimestampFormat::Micros];
    let timestamps = *written.get(usize::from(times)).unwrap_or(&TimestampFormat::Nanos);
    let format = [Format::Json, Format::RawString, Format::Debezium, Format::Wal2json][usize::from(how % 4)];
    let framing = [Framing::None, Framing::Newline, Framing::JsonArray, Framing::None][usize::from(how / 4 % 4)];
    let columns = match (format, how / 16 % 3) {
        (Format::RawString, _) => vec![Column::new("value", DataType::Utf8View)],
        (Format::Json, 2) => vec![Column { origin: Origin::Whole, ..Column::json("value") }],
        (_, 0) => plain_columns(),
        _ => every_column(),
    };
    let time = columns.iter().position(|column| column.name == "at").filter(|_| how >= 128);
    let Ok(spec) = FormatSpec::new(format, framing, timestamps, "http://x/sse", columns, time) else { return };
    if !format.is_change_feed() {
        rows(&spec, &events);
        if matches!((format, framing), (Format::Json, Framing::None)) {
            events.iter().for_each(|event| as_serde_reads(event));
            inferred(&events);
        }
    }
    changes(&spec, &events);
}

fn event(data: &str) -> RawEvent<'_> {
    RawEvent { kind: "message", data, id: "7", received: Timestamp(42) }
}

fn all(spec: &FormatSpec) -> Vec<usize> {
    (0..spec.columns.len()).collect()
}

fn read(spec: &FormatSpec, projection: &[usize], events: &[&str]) -> (RecordBatch, Vec<Bad>) {
    let mut decoder = Decoder::new(spec, projection).expect("the columns are the spec's");
    let mut bad = Vec::new();
    for data in events {
        decoder.push(event(data), &mut |told| bad.push(told));
        bad.iter().for_each(|bad| assert!(bad.data.len() <= EXCERPT_BYTES + '…'.len_utf8()));
    }
    let rows = decoder.len();
    let (batch, times) = decoder.take().expect("whole rows");
    assert_eq!((batch.num_rows(), times.len()), (rows, rows));
    (batch, bad)
}

/// Events stand for themselves; what is good is good in every projection, and reads the same once it is written as JSON.
fn rows(spec: &FormatSpec, events: &[&str]) {
    let (together, bad) = read(spec, &all(spec), events);
    let alone: Vec<(RecordBatch, Vec<Bad>)> = events.iter().map(|event| read(spec, &all(spec), &[event])).collect();
    assert_eq!(bad, alone.iter().flat_map(|(_, bad)| bad.clone()).collect::<Vec<_>>());
    let batches = alone.iter().map(|(batch, _)| batch);
    let concatenated = arrow::compute::concat_batches(together.schema_ref(), batches).expect("one schema");
    assert_eq!(together, concatenated);
    for (event, (_, bad)) in events.iter().zip(&alone) {
        bad.iter().for_each(|bad| assert!(bad.offset as usize <= event.len() && bad.reason.contains(" at line "), "{bad:?}"));
    }
    if !bad.is_empty() {
        return;
    }
    for index in all(spec) {
        let (column, bad) = read(spec, &[index], events);
        assert_eq!((column.column(0), bad.len()), (together.column(index), 0));
    }
    if spec.format == Format::Json && spec.timestamps == TimestampFormat::Rfc3339 && spec.columns[0].origin == Origin::Payload {
        let writer = JsonRows::new(together.schema_ref());
        let again = FormatSpec { framing: Framing::None, time: None, ..spec.clone() };
        for row in 0..together.num_rows() {
            let mut json = Vec::new();
            writer.write_row(&together, row, &mut json);
            let json = String::from_utf8(json).expect("JSON is text");
            let (back, bad) = read(&again, &all(spec), &[&json]);
            assert_eq!((&back, bad), (&on_one_line(&together.slice(row, 1)), vec![]), "{json}");
        }
    }
}

/// The same rows as they are written: JSON keeps its text, but for line breaks between values.
fn on_one_line(rows: &RecordBatch) -> RecordBatch {
    let column = |(field, column): (&Arc<Field>, &ArrayRef)| match is_json(field) {
        true => {
            let line = |text: &str| text.replace(['\n', '\r'], " ");
            Arc::new(column.as_string_view().iter().map(|text| text.map(line)).collect::<StringViewArray>()) as ArrayRef
        }
        false => Arc::clone(column),
    };
    let columns = rows.schema_ref().fields().iter().zip(rows.columns()).map(column).collect();
    RecordBatch::try_new(rows.schema(), columns).expect("the same columns")
}

/// What changes speak of is there.
fn changes(spec: &FormatSpec, events: &[&str]) {
    let table = spec.columns.len().is_multiple_of(2).then_some("public.t");
    let mut decoder = ChangeDecoder::new(spec, &all(spec), &[0], table).expect("the columns are the spec's");
    let mut bad = 0;
    events.iter().for_each(|data| decoder.push(event(data), &mut |_| bad += 1));
    let changes = decoder.take().expect("whole rows");
    let mut upserts = 0;
    for op in &changes.ops {
        match op {
            Op::Upsert { row, old } => {
                assert_eq!(*row, upserts);
                upserts += 1;
                assert!(old.is_none_or(|old| (old as usize) < changes.keys.num_rows()));
            }
            Op::Remove { key } => assert!((*key as usize) < changes.keys.num_rows()),
            Op::Clear => {}
        }
    }
    assert_eq!((upserts as usize, upserts as usize), (changes.rows.num_rows(), changes.times.len()));
    if spec.framing == Framing::None {
        assert_eq!(changes.ops.len() + changes.skipped as usize + bad, events.len());
    }
    assert!(decoder.is_empty());
}

/// Columns whose values are told by serde_json as well.
fn plain_columns() -> Vec<Column> {
    vec![
        Column::new("n", DataType::Int64),
        Column::new("f", DataType::Float64),
        Column::new("s", DataType::Utf8View),
        Column::json("j"),
        Column::new("b", DataType::Boolean),
    ]
}

fn every_column() -> Vec<Column> {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let item = |data_type| DataType::List(Arc::new(field("item", data_type)));
    let parts = Fields::from(vec![Field::new("a", DataType::Int8, false), field("b", item(DataType::Float32))]);
    let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), field("value", DataType::Int16)]);
    let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false);
    vec![
        Column::new("u", DataType::UInt64),
        Column::new("at", instant_ns()),
        Column::new("d", DataType::Decimal128(38, 18)),
        Column::new("e", DataType::Decimal128(5, 2)),
        Column::new("f", DataType::Float32),
        Column::new("day", DataType::Date32),
        Column::new("hour", DataType::Time64(TimeUnit::Nanosecond)),
        Column::new("bytes", DataType::Binary),
        Column::new("l", item(DataType::Struct(parts))),
        Column::new("m", map),
        Column::new("s", DataType::Utf8View).not_null(),
        Column::new("id", DataType::Utf8View).with_origin(Origin::Metadata(Metadata::EventId)),
    ]
}

/// What a value is, told slowly.
#[derive(Debug, PartialEq)]
enum Told {
    Null,
    Bad,
    Integer(i64),
    Float(u64),
    Text(String),
    Truth(bool),
    /// It may be more than is told here.
    Unknown,
}

/// One event in the plain columns: it is a row where serde_json reads an object whose values fit, with the same values.
fn as_serde_reads(data: &str) {
    // serde_json knows no names but exact ones.
    let columns: Vec<Column> = plain_columns().into_iter().map(|column| Column { exact: true, ..column }).collect();
    let spec =
        FormatSpec::new(Format::Json, Framing::None, TimestampFormat::Rfc3339, "", columns.clone(), None).expect("plain columns");
    let (batch, bad) = read(&spec, &all(&spec), &[data]);
    let Ok(object) = serde_json::from_str::<HashMap<String, &RawValue>>(data) else {
        return assert_eq!(bad.len(), 1, "serde_json reads no object of this");
    };
    let told: Vec<Told> = columns.iter().map(|column| tell(column, object.get(&column.name).map(|value| value.get()))).collect();
    if told.contains(&Told::Bad) {
        return assert_eq!(bad.len(), 1, "{told:?}");
    }
    if !told.contains(&Told::Unknown) {
        assert_eq!(bad, [], "{told:?}");
    }
    if bad.is_empty() {
        assert_eq!(batch.num_rows(), 1);
        for (told, array) in told.into_iter().zip(batch.columns()) {
            assert!(told == Told::Unknown || told == shown(array), "{told:?} and {array:?}");
        }
    }
}

fn shown(array: &dyn Array) -> Told {
    if array.is_null(0) {
        return Told::Null;
    }
    match array.data_type() {
        DataType::Int64 => Told::Integer(array.as_primitive::<Int64Type>().value(0)),
        DataType::Float64 => Told::Float(array.as_primitive::<Float64Type>().value(0).to_bits()),
        DataType::Boolean => Told::Truth(array.as_boolean().value(0)),
        _ => Told::Text(array.as_string_view().value(0).into()),
    }
}

fn tell(column: &Column, raw: Option<&str>) -> Told {
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Told::Null };
    let text = serde_json::from_str::<String>(raw);
    match &column.data_type {
        DataType::Utf8View if column.json => Told::Text(raw.into()),
        DataType::Utf8View if raw.starts_with('"') => text.map_or(Told::Bad, Told::Text),
        DataType::Utf8View => Told::Text(raw.into()),
        DataType::Boolean => match bool::read(text.as_deref().unwrap_or(raw)) {
            Ok(truth) => Told::Truth(truth),
            Err(_) => Told::Bad,
        },
        _ if raw.starts_with(['{', '[', 't', 'f']) => Told::Bad,
        _ if raw.starts_with('"') => Told::Unknown,
        DataType::Int64 if raw.contains(['.', 'e', 'E']) => Told::Unknown,
        DataType::Int64 => raw.parse().map_or(Told::Bad, Told::Integer),
        _ => match raw.parse::<f64>() {
            Ok(value) if value.is_finite() => Told::Float(value.to_bits()),
            _ => Told::Bad,
        },
    }
}

/// The columns that are inferred from an event read that event.
fn inferred(events: &[&str]) {
    let mut samples = Samples::default();
    events.iter().for_each(|event| samples.push(event));
    let columns = samples.columns();
    let _ = samples.event_time();
    let unix = columns.iter().find_map(|column| column.unix);
    let written = unix.map_or(TimestampFormat::Rfc3339, |name| TimestampFormat::read(name).expect("a format that there is"));
    columns.iter().for_each(|column| drop(column.sql_type()));
    let columns: Vec<Column> = columns.into_iter().map(|inferred| inferred.column).collect();
    let spec = FormatSpec::new(Format::Json, Framing::None, written, "", columns, None).expect("columns that can be read");
    for event in events.iter().filter(|event| matches!(serde_json::from_str(event), Ok(serde_json::Value::Object(_)))) {
        let (_, bad) = read(&spec, &all(&spec), &[event]);
        assert_eq!(bad, [], "{:?}", spec.columns);
    }
}
