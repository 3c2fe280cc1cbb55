//! Random rows of every type, written as JSON and read again, whole, cut and changed.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Float32Type};
use proptest::prelude::*;

use super::cases::{decoder, event, spec};
use super::encode::JsonRows;
use super::{Column, FormatSpec};
use crate::options::Framing;
use crate::time::{UTC, instant_ns};

/// A random row of [`every_type`]: its values as JSON.
type Row = (Option<bool>, i64, u64, Option<f64>, i128, Option<String>, i64, i32, Vec<Option<f32>>, Option<(i8, Vec<u8>)>);

fn every_type() -> FormatSpec {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let parts = Fields::from(vec![Field::new("tiny", DataType::Int8, false), Field::new("bytes", DataType::Binary, true)]);
    spec(vec![
        Column::new("bool", DataType::Boolean),
        Column::new("int", DataType::Int64).not_null(),
        Column::new("uint", DataType::UInt64),
        Column::new("float", DataType::Float64),
        Column::new("decimal", DataType::Decimal128(38, 18)),
        Column::new("text", DataType::Utf8View),
        Column::new("ts", instant_ns()),
        Column::new("date", DataType::Date32),
        Column::new("list", DataType::List(item)),
        Column::new("parts", DataType::Struct(parts)),
    ])
}

fn batch_of(rows: &[Row], spec: &FormatSpec) -> RecordBatch {
    let bytes: Vec<Option<&[u8]>> = rows.iter().map(|row| row.9.as_ref().map(|(_, bytes)| bytes.as_slice())).collect();
    let DataType::Struct(parts) = &spec.columns[9].data_type else { unreachable!() };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(Decimal128Array::from_iter_values(rows.iter().map(|row| row.4)).with_precision_and_scale(38, 18).unwrap()),
        Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.5.as_deref()))),
        Arc::new(TimestampNanosecondArray::from_iter_values(rows.iter().map(|row| row.6)).with_timezone(UTC)),
        Arc::new(Date32Array::from_iter_values(rows.iter().map(|row| row.7))),
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows.iter().map(|row| Some(row.8.clone())))),
        Arc::new(StructArray::new(
            parts.clone(),
            vec![
                Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.9.as_ref().map_or(0, |(tiny, _)| *tiny)))),
                Arc::new(BinaryArray::from(bytes)),
            ],
            Some(NullBuffer::from_iter(rows.iter().map(|row| row.9.is_some()))),
        )),
    ];
    RecordBatch::try_new(decoder(spec).schema().clone(), columns).unwrap()
}

fn row() -> impl Strategy<Value = Row> {
    let float = any::<f64>().prop_filter("finite", |value| value.is_finite());
    let small = any::<f32>().prop_filter("finite", |value| value.is_finite());
    let limit = 10i128.pow(38);
    (
        any::<Option<bool>>(),
        any::<i64>(),
        any::<u64>(),
        proptest::option::of(float),
        (1 - limit)..limit,
        any::<Option<String>>(),
        (i64::MIN + 1)..i64::MAX,
        -719_528i32..2_932_896,
        proptest::collection::vec(proptest::option::of(small), 0..4),
        any::<Option<(i8, Vec<u8>)>>(),
    )
}

proptest! {
    #[test]
    fn rows_written_as_json_and_read_again_are_the_same(rows in proptest::collection::vec(row(), 1..8)) {
        let spec = every_type();
        let batch = batch_of(&rows, &spec);
        let writer = JsonRows::new(&batch.schema());
        let mut decoder = decoder(&spec);
        for row in 0..batch.num_rows() {
            let mut json = Vec::new();
            writer.write_row(&batch, row, &mut json);
            decoder.push(event(&String::from_utf8(json).unwrap()), &mut |bad| panic!("{bad:?}"));
        }
        prop_assert_eq!(decoder.take().unwrap().0, batch);
    }

    #[test]
    fn data_of_any_kind_is_a_row_or_told_as_bad_and_never_a_panic(data in "[\\[\\]{}:,\"\\\\nulabtrefsx0-9.eE+é\n -]{0,60}") {
        for framing in [Framing::None, Framing::Newline, Framing::JsonArray] {
            let spec = FormatSpec { framing, ..every_type() };
            let mut decoder = decoder(&spec);
            decoder.push(event(&data), &mut |bad| assert!(bad.offset as usize <= data.len()));
            decoder.take().unwrap();
        }
    }

    #[test]
    fn an_event_cut_or_changed_anywhere_is_a_row_or_told_as_bad(rows in proptest::collection::vec(row(), 1..2), at in any::<u16>(), byte in any::<char>()) {
        let spec = every_type();
        let batch = batch_of(&rows, &spec);
        let mut json = Vec::new();
        JsonRows::new(&batch.schema()).write_row(&batch, 0, &mut json);
        let json = String::from_utf8(json).unwrap();
        let at = json.floor_char_boundary(usize::from(at) % json.len());
        let changed = format!("{}{byte}{}", &json[..at], &json[json.ceil_char_boundary(at + 1)..]);
        for (data, must_fail) in [(&json[..at], true), (&changed, false)] {
            let mut decoder = decoder(&spec);
            let mut bad = 0;
            decoder.push(event(data), &mut |_| bad += 1);
            prop_assert_eq!(decoder.len() + bad, 1);
            prop_assert!(!must_fail || bad == 1);
            decoder.take().unwrap();
        }
    }
}
