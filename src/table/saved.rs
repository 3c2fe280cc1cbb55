//! The state of a table as rows: where its feed is, how far its time has come, and the rows of a keyed one.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};

use super::clock;
use crate::change::Changes;
use crate::error::Result;
use crate::feed::{Lost, Position};
use crate::operator::state::{Kept, Loader, Rows, Saver, rows};
use crate::time::{Timestamp, TimestampArray};

/// How the first task over a table begins.
#[derive(Debug)]
pub(super) enum Beginning {
    At(Box<Saved>),
    /// Anew, after a place from which it cannot go on.
    After(Lost),
}

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
    let or_null = |number: Option<u64>| -> ArrayRef { Arc::new(UInt64Array::from(vec![number])) };
    let place: [(&str, ArrayRef); 8] = [
        ("last_id", Arc::new(StringArray::from_iter_values([&position.last_id]))),
        ("last_at", Arc::new(Int64Array::from(vec![position.last_at.map(Timestamp::nanos)]))),
        ("counted", or_null(position.count.map(|(last, _)| last))),
        ("steps", or_null(position.count.map(|(_, steps)| steps))),
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
    /// Reads the state of a table whose rows have this schema; `None` if nobody read it.
    pub(super) fn load(state: &mut Loader<'_>, schema: &SchemaRef) -> Result<Option<Self>> {
        let Some(mut place) = state.take_if_there(PLACE) else { return Ok(None) };
        let (last_id, last_at) = last(&mut place)?;
        let count = place.number_or_null::<UInt64Type>("counted")?.zip(place.number_or_null::<UInt64Type>("steps")?);
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
        let position = Position { last_id, seen, last_at, count };
        Ok(Some(Saved { position, clock: clock::Saved { arrival, by_rows, sent, has_sent }, current }))
    }
}

/// The last event that a state knows of, whether or not a table can go on from it.
pub(super) fn lost(state: &mut Loader<'_>) -> Option<Lost> {
    let (last_id, last_at) = last(&mut state.take_if_there(PLACE)?).ok()?;
    Some(Lost { at: last_at?, last_id })
}

fn last(place: &mut Rows) -> Result<(String, Option<Timestamp>)> {
    let last_id = place.texts("last_id")?.iter().flatten().next().unwrap_or_default().to_string();
    Ok((last_id, place.number_or_null::<Int64Type>("last_at")?.map(Timestamp)))
}
