//! The state of a table as rows: where its feed is, how far its time has come, and the rows of a keyed one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};

use super::clock;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::feed::Position;
use crate::operator::state::{Content, Frame};
use crate::time::Timestamp;

/// Where a table goes on.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) position: Position,
    pub(super) clock: clock::Saved,
    /// The rows of a keyed table, if it has some.
    pub(super) current: Option<Changes>,
}

/// The columns of the first frame, a row.
const PLACE: &str = "place";
/// Hashes of the events seen last, a row each.
const SEEN: &str = "seen";
/// The rows of a keyed table.
const CURRENT: &str = "current";

impl Saved {
    pub(super) fn frames(&self) -> Result<Vec<Frame>> {
        let clock = &self.clock;
        let number = |number: i64| -> ArrayRef { Arc::new(Int64Array::from_value(number, 1)) };
        let columns: [(&str, ArrayRef); 5] = [
            ("last_id", Arc::new(StringArray::from_iter_values([&self.position.last_id]))),
            ("arrival", number(clock.arrival.nanos())),
            ("by_rows", number(clock.by_rows.nanos())),
            ("watermark", number(clock.sent.nanos())),
            ("has_watermark", Arc::new(BooleanArray::from(vec![clock.has_sent]))),
        ];
        let hashes = |of: fn(&(u64, u64)) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(self.position.seen.iter().map(of)))
        };
        let seen: [(&str, ArrayRef); 2] = [("id", hashes(|seen| seen.0)), ("content", hashes(|seen| seen.1))];
        let mut frames = vec![
            frame(PLACE, RecordBatch::try_from_iter(columns)?),
            frame(SEEN, RecordBatch::try_from_iter(seen)?),
        ];
        if let Some(changes) = &self.current {
            frames.push(frame(CURRENT, changes.to_batch()?));
        }
        Ok(frames)
    }

    /// Reads what [`Saved::frames`] gave for a table whose rows have this schema.
    pub(super) fn read(frames: &[Frame], schema: &SchemaRef) -> Result<Self> {
        let place = rows(frames, PLACE)?.ok_or_else(|| wrong("the place in the feed is missing"))?;
        let number = |name: &str| {
            let column = place.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.filter(|column| column.len() == 1).map(|column| Timestamp(column.value(0))).ok_or_else(|| wrong(name))
        };
        let text = place.column_by_name("last_id").and_then(|column| column.as_string_opt::<i32>());
        let last_id = text.filter(|text| text.len() == 1).ok_or_else(|| wrong("last_id"))?.value(0).to_string();
        let flag = place.column_by_name("has_watermark").and_then(|column| column.as_boolean_opt());
        let has_sent = flag.filter(|flag| flag.len() == 1).ok_or_else(|| wrong("has_watermark"))?.value(0);
        let seen = rows(frames, SEEN)?.ok_or_else(|| wrong("the latest events are missing"))?;
        let hashes = |name: &str| {
            seen.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>()).ok_or_else(|| wrong(name))
        };
        let seen = hashes("id")?.values().iter().copied().zip(hashes("content")?.values().iter().copied()).collect();
        Ok(Saved {
            position: Position { last_id, seen },
            clock: clock::Saved { arrival: number("arrival")?, by_rows: number("by_rows")?, sent: number("watermark")?, has_sent },
            current: rows(frames, CURRENT)?.map(|rows| Changes::from_batch(rows, schema)).transpose()?,
        })
    }
}

/// The rows of a keyed table are those of the last checkpoint.
pub(super) fn unchanged_rows() -> Frame {
    Frame { name: CURRENT.into(), content: Content::Unchanged }
}

fn frame(name: &str, rows: RecordBatch) -> Frame {
    Frame { name: name.into(), content: Content::Rows(rows) }
}

fn rows<'a>(frames: &'a [Frame], name: &str) -> Result<Option<&'a RecordBatch>> {
    match frames.iter().find(|frame| frame.name == name).map(|frame| &frame.content) {
        Some(Content::Rows(rows)) => Ok(Some(rows)),
        Some(Content::Unchanged) => Err(Error::bug("a state is read of which a part was left out")),
        None => Ok(None),
    }
}

fn wrong(what: &str) -> Error {
    Error::new(Code::Data, format!("the kept state of a table cannot be read: {what}"))
}
