//! The state of a table as rows: where its feed is, how far its time has come, and the rows of a keyed one.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, UInt64Type};

use super::clock;
use crate::change::Changes;
use crate::error::Result;
use crate::feed::Position;
use crate::operator::state::{Kept, Loader, Saver, rows};
use crate::time::{Timestamp, TimestampArray};

/// Where a table goes on.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) position: Position,
    pub(super) clock: clock::Saved,
    /// The rows of a keyed table, if it has some.
    pub(super) current: Option<Changes>,
}

const PLACE: &str = "place";
const SEEN: &str = "seen";
const CURRENT: &str = "current";

/// Saves where a feed and its time are.
pub(super) fn save(state: &mut Saver<'_>, position: &Position, clock: clock::Saved) -> Result<()> {
    let number = |number: i64| -> ArrayRef { Arc::new(Int64Array::from_value(number, 1)) };
    let place: [(&str, ArrayRef); 5] = [
        ("last_id", Arc::new(StringArray::from_iter_values([&position.last_id]))),
        ("arrival", number(clock.arrival.nanos())),
        ("by_rows", number(clock.by_rows.nanos())),
        ("watermark", number(clock.sent.nanos())),
        ("has_watermark", Arc::new(BooleanArray::from(vec![clock.has_sent]))),
    ];
    state.put(PLACE, rows(place, 1)?);
    let hashes =
        |of: fn(&(u64, u64)) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(position.seen.iter().map(of))) };
    state.put(SEEN, rows([("id", hashes(|seen| seen.0)), ("content", hashes(|seen| seen.1))], position.seen.len())?);
    Ok(())
}

/// Saves the rows of a keyed table.
pub(super) fn save_rows(
    state: &mut Saver<'_>,
    kept: &mut Kept,
    schema: &SchemaRef,
    current: impl FnOnce() -> Result<Option<Changes>>,
) -> Result<()> {
    let none = || Changes::inserts(RecordBatch::new_empty(Arc::clone(schema)), TimestampArray::from(Vec::<i64>::new()));
    state.keep(CURRENT, kept, || current()?.unwrap_or_else(none).to_batch())
}

impl Saved {
    /// Reads the state of a table whose rows have this schema.
    pub(super) fn load(state: &mut Loader<'_>, schema: &SchemaRef) -> Result<Self> {
        let mut place = state.take(PLACE)?;
        let last_id = place.column("last_id", &DataType::Utf8)?;
        let last_id = arrow::array::AsArray::as_string::<i32>(&last_id).iter().flatten().next().unwrap_or_default().to_string();
        let mut time = |name: &str| place.number::<Int64Type>(name).map(Timestamp);
        let (arrival, by_rows, sent) = (time("arrival")?, time("by_rows")?, time("watermark")?);
        let has_sent = place.flag("has_watermark")?;
        place.end()?;
        let mut seen = state.take(SEEN)?;
        let (ids, contents) = (seen.numbers::<UInt64Type>("id")?, seen.numbers::<UInt64Type>("content")?);
        seen.end()?;
        let seen = ids.values().iter().copied().zip(contents.values().iter().copied()).collect();
        let current = match state.take_if_there(CURRENT) {
            Some(current) if !current.is_empty() => Some(Changes::from_batch(&current.into_batch(), schema)?),
            Some(_) | None => None,
        };
        Ok(Saved { position: Position { last_id, seen }, clock: clock::Saved { arrival, by_rows, sent, has_sent }, current })
    }
}
