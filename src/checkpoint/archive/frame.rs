//! The rows of a frame as an Arrow IPC stream of one batch, and back.
//!
//! Uncompressed: what is read is used where it lies, nothing is allocated by a length that the bytes claim, and a checkpoint costs the
//! flow little more than a copy.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamEncoder;
use arrow::ipc::{Message, root_as_message};

/// The bytes of a frame, in pieces that share the memory of the rows.
pub fn encode(rows: &RecordBatch) -> Result<Vec<Buffer>, ArrowError> {
    let mut encoder = StreamEncoder::try_new(rows.schema_ref())?;
    let mut pieces = encoder.encode(rows)?;
    pieces.extend(encoder.finish()?);
    Ok(pieces)
}

/// The rows in the bytes of a frame, which may be any: what they are not is the end of a sentence about them.
pub fn decode(bytes: Buffer) -> Result<RecordBatch, String> {
    // Arrow's reader checks much, and meets the rest with assertions.
    catch_unwind(AssertUnwindSafe(|| {
        uncompressed(&bytes)?;
        read(bytes).map_err(|error| format!("its rows cannot be read: {error}"))?.ok_or_else(|| "it has no rows".to_string())
    }))
    .unwrap_or_else(|_| Err("its rows contradict each other".into()))
}

/// The only batch of a stream.
fn read(mut bytes: Buffer) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut rows = None;
    while !bytes.is_empty() {
        if let Some(batch) = decoder.decode(&mut bytes)?
            && rows.replace(batch).is_some()
        {
            return Err(ArrowError::IpcError("a second batch".into()));
        }
    }
    decoder.finish()?;
    Ok(rows)
}

/// A compressed buffer says how long it is; what it says would be allocated.
fn uncompressed(mut bytes: &[u8]) -> Result<(), String> {
    while let Some((message, body)) = message(bytes)? {
        let batch =
            message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch().and_then(|batch| batch.data()));
        if batch.is_some_and(|batch| batch.compression().is_some()) {
            return Err("its rows are compressed, which this version does not read".into());
        }
        let length = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
        bytes = body.get(length..).ok_or("it is shorter than it says")?;
    }
    Ok(())
}

/// The next message, and the bytes from its body on. `None` at the end.
fn message(bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, String> {
    let short = || "it is shorter than it says".to_string();
    let (marker, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
    if *marker != [0xff; 4] {
        return Err("it is no Arrow stream".into());
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 {
        return Ok(None);
    }
    let (head, body) = rest.split_at_checked(length).ok_or_else(short)?;
    let message = root_as_message(head).map_err(|error| format!("it is no Arrow stream: {error}"))?;
    Ok(Some((message, body)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
    use arrow::datatypes::*;
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
    use fastrand::Rng;

    use super::*;
    use crate::time::EVENT_TIME;

    fn bytes(rows: &RecordBatch) -> Vec<u8> {
        encode(rows).unwrap().iter().flat_map(|piece| piece.to_vec()).collect()
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// Four rows of every type that a view, an operator or an aggregate may keep, most with nulls.
    fn columns() -> Vec<(&'static str, ArrayRef)> {
        let long = "a text that is too long to lie within its view";
        let texts = [Some("ä"), None, Some(long), Some("")];
        let numbers = [Some(1), None, Some(-3), Some(4)];
        let start: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![0, i64::MIN, i64::MAX, -1]));
        let end: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(0), None, Some(2), None]));
        let time = HashMap::from([(EVENT_TIME.to_string(), "end".to_string())]);
        let window = vec![
            Field::new("start", start.data_type().clone(), false),
            Field::new("end", end.data_type().clone(), true).with_metadata(time),
        ];
        let nulls = NullBuffer::from(vec![true, false, true, true]);
        let window = StructArray::new(window.into(), vec![start, end], Some(nulls.clone()));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, 2, 2, 2, 4]));
        let item = Arc::new(Field::new_list_field(window.data_type().clone(), true));
        let windows = ListArray::new(item, offsets, Arc::new(window.clone()), Some(nulls));
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        lists.append_value([Some(long), None]);
        lists.append_null();
        lists.append_value([None::<&str>; 0]);
        lists.append_value([Some("short")]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for keys in [&["a", "b"][..], &[], &["c"]] {
            for (value, key) in (0..).zip(keys) {
                map.keys().append_value(key);
                map.values().append_value(value);
            }
            map.append(true).unwrap();
        }
        map.append(false).unwrap();
        let fixed = FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(
            [Some([Some(1.0), None]), None, Some([None, None]), Some([Some(-0.0), Some(2.0)])],
            2,
        );
        let binaries = [Some(&b"\0\xff"[..]), None, Some(&[7; 40][..]), Some(b"")];
        let floats = vec![Some(-0.0), None, Some(f64::from_bits(0x7ff8_dead_beef_0001)), Some(f64::NEG_INFINITY)];
        vec![
            ("null", Arc::new(NullArray::new(4))),
            ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]))),
            ("i8", Arc::new(Int8Array::from_iter(numbers.map(|n| n.map(|n| n as i8))))),
            ("i32", Arc::new(Int32Array::from_iter(numbers))),
            ("i64", Arc::new(Int64Array::from_iter(numbers.map(|n| n.map(|n| n as i64))))),
            ("u64", Arc::new(UInt64Array::from(vec![0, u64::MAX, 2, 3]))),
            ("f32", Arc::new(Float32Array::from(vec![Some(1.5), None, Some(f32::MAX), Some(f32::MIN_POSITIVE)]))),
            ("f64", Arc::new(Float64Array::from(floats))),
            ("utf8", Arc::new(StringArray::from_iter(texts))),
            ("large utf8", Arc::new(LargeStringArray::from_iter(texts))),
            ("utf8 view", Arc::new(StringViewArray::from_iter(texts))),
            ("binary", Arc::new(BinaryArray::from_iter(binaries))),
            ("binary view", Arc::new(BinaryViewArray::from_iter(binaries))),
            ("fixed binary", Arc::new(FixedSizeBinaryArray::try_from_iter([[1; 3], [2; 3], [3; 3], [4; 3]].iter()).unwrap())),
            ("date", Arc::new(Date32Array::from_iter(numbers))),
            ("time", Arc::new(Time64NanosecondArray::from_iter(numbers.map(|n| n.map(i64::from))))),
            ("duration", Arc::new(DurationMillisecondArray::from_iter(numbers.map(|n| n.map(i64::from))))),
            ("zoned", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3, 4]).with_timezone("Europe/Berlin"))),
            (
                "interval",
                Arc::new(IntervalMonthDayNanoArray::from(vec![Some(IntervalMonthDayNano::new(1, -2, 3)), None, None, None])),
            ),
            (
                "decimal",
                Arc::new(
                    Decimal128Array::from(vec![Some(i128::MAX), None, Some(-1), Some(0)])
                        .with_precision_and_scale(38, 4)
                        .unwrap(),
                ),
            ),
            (
                "wide decimal",
                Arc::new(Decimal256Array::from(vec![Some(i256::MAX), None, Some(i256::MINUS_ONE), Some(i256::ZERO)])),
            ),
            ("window", Arc::new(window)),
            ("windows", Arc::new(windows)),
            ("texts", Arc::new(lists.finish())),
            ("map", Arc::new(map.finish())),
            ("pairs", Arc::new(fixed)),
            ("nothing in it", Arc::new(StructArray::new_empty_fields(4, None))),
            ("dictionary", Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>())),
        ]
    }

    #[test]
    fn every_type_comes_back_with_its_nulls_and_its_marks() {
        for (name, column) in columns() {
            for (from, length) in [(0, 4), (1, 3), (1, 1), (2, 0)] {
                let rows = batch(vec![(name, column.slice(from, length))]);
                let back = decode(bytes(&rows).into()).unwrap();
                assert_eq!(back, rows, "{name}");
                assert_eq!(back.schema(), rows.schema(), "{name}");
            }
        }
        let rows = batch(columns());
        let marked = rows.schema().as_ref().clone().with_metadata(HashMap::from([("of".to_string(), "all".to_string())]));
        let rows = rows.with_schema(Arc::new(marked)).unwrap();
        let back = decode(bytes(&rows).into()).unwrap();
        assert_eq!((back.schema(), &back), (rows.schema(), &rows));
        let bits = |rows: &RecordBatch| rows.column_by_name("f64").unwrap().as_primitive::<Float64Type>().value(2).to_bits();
        assert_eq!(bits(&back), bits(&rows));
    }

    #[test]
    fn rows_without_columns_are_counted() {
        for count in [0, 5] {
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
            assert_eq!(decode(bytes(&rows).into()).unwrap().num_rows(), count);
        }
    }

    /// Whatever the bytes are: an answer, and little memory.
    #[test]
    fn any_bytes_give_rows_or_a_reason() {
        let whole = bytes(&batch(columns()));
        for length in 0..whole.len() {
            assert!(decode(whole[..length].to_vec().into()).is_err() || length + 8 >= whole.len(), "{length}");
        }
        let mut rng = Rng::with_seed(7);
        for _ in 0..3_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                let any = rng.u8(..);
                bytes[at] = *rng.choice(&[0, 1, 0x7f, 0xff, any]).unwrap();
            }
            if let Ok(rows) = decode(bytes.into()) {
                assert_eq!(rows.num_columns(), rows.schema().fields().len());
            }
        }
    }

    #[test]
    fn a_stream_that_is_not_one_plain_batch_is_refused() {
        let rows = batch(columns());
        let plain = IpcWriteOptions::default();
        let write = |options: &IpcWriteOptions, times: usize| {
            let mut writer = StreamWriter::try_new_with_options(Vec::new(), rows.schema_ref(), options.clone()).unwrap();
            (0..times).for_each(|_| writer.write(&rows).unwrap());
            writer.into_inner().unwrap()
        };
        let compressed = plain.clone().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
        let reason = |bytes: Vec<u8>| decode(bytes.into()).unwrap_err();
        assert_eq!(reason(write(&compressed, 1)), "its rows are compressed, which this version does not read");
        assert_eq!(reason(write(&plain, 0)), "it has no rows");
        assert!(reason(write(&plain, 2)).contains("a second batch"));
        assert_eq!(reason(b"not Arrow at all".to_vec()), "it is no Arrow stream");
        assert_eq!(reason(Vec::new()), "it is shorter than it says");
    }
}
