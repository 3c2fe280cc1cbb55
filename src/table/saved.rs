//! The state of a table as rows: where its feed is, how far its time has come, and the rows of a keyed one.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};

use super::clock;
use crate::change::Changes;
use crate::error::Result;
use crate::feed::{FeedPosition, Ids, LostPlace, Memory, Older, Rendering, SeenEvent};
use crate::operator::state::{FrameReader, FrameVersion, Loader, Saver, rows};
use crate::time::{Timestamp, TimestampArray};

/// How the first task over a table begins.
#[derive(Debug)]
pub(super) enum Beginning {
    At(Box<SavedTable>),
    /// Anew, after a place from which it cannot go on.
    After(LostPlace),
}

/// Where a table goes on.
#[derive(Debug, Clone)]
pub(super) struct SavedTable {
    pub(super) position: FeedPosition,
    pub(super) clock: clock::SavedClock,
    /// The rows of a keyed table, if it has some.
    pub(super) current: Option<Changes>,
}

const PLACE: &str = "place";
const IDS: &str = "ids";
const MEMORY: &str = "memory";
const OLDER: &str = "older";
const HABIT: &str = "habit";
/// Of earlier programs.
const SEEN: &str = "seen";
const CURRENT: &str = "current";

/// Saves where a feed and its time are.
pub(super) fn save(state: &mut Saver<'_>, position: &FeedPosition, clock: clock::SavedClock) -> Result<()> {
    let number = |number: i64| -> ArrayRef { Arc::new(Int64Array::from_value(number, 1)) };
    let place: [(&str, ArrayRef); 6] = [
        ("last_id", Arc::new(StringArray::from_iter_values([&position.last_id]))),
        ("last_at", Arc::new(Int64Array::from(vec![position.last_at.map(Timestamp::nanos)]))),
        ("arrival", number(clock.arrival.nanos())),
        ("by_rows", number(clock.by_rows.nanos())),
        ("watermark", number(clock.sent.nanos())),
        ("has_watermark", Arc::new(BooleanArray::from(vec![clock.has_sent]))),
    ];
    state.put(PLACE, rows(place, 1)?);
    save_ids(state, &position.ids)?;
    save_memory(state, &position.memory)
}

fn save_ids(state: &mut Saver<'_>, ids: &Ids) -> Result<()> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values([text])) };
    let count = |count: u64| -> ArrayRef { Arc::new(UInt64Array::from_value(count, 1)) };
    let columns: [(&str, ArrayRef); 6] = [
        ("first", text(&ids.first)),
        ("last", text(&ids.last)),
        ("ones", count(ids.ones)),
        ("leaps", count(ids.leaps)),
        ("leap_max", count(ids.leap_max)),
        ("falls", count(ids.falls)),
    ];
    state.put(IDS, rows(columns, 1)?);
    Ok(())
}

fn save_memory(state: &mut Saver<'_>, Memory { seen, older, renders }: &Memory) -> Result<()> {
    fn numbers<T>(of: &[T], number: impl Fn(&T) -> u64) -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(of.iter().map(number)))
    }
    let columns: [(&str, ArrayRef); 5] = [
        ("id", numbers(seen, |mark| mark.id)),
        ("place", numbers(seen, |mark| mark.place.into())),
        ("high", numbers(seen, |mark| (mark.digest >> 64) as u64)),
        ("low", numbers(seen, |mark| mark.digest as u64)),
        ("has_id", Arc::new(BooleanArray::from_iter(seen.iter().map(|mark| Some(mark.has_id))))),
    ];
    state.put(MEMORY, rows(columns, seen.len())?);
    let marks = &older.marks;
    let columns: [(&str, ArrayRef); 3] = [
        ("id", numbers(marks, |mark| mark.0)),
        ("high", numbers(marks, |mark| (mark.1 >> 64) as u64)),
        ("low", numbers(marks, |mark| mark.1 as u64)),
    ];
    state.put(OLDER, rows(columns, marks.len())?);
    let renders = match renders {
        Rendering::Unknown => 0,
        Rendering::Same => 1,
        Rendering::Anew => 2,
    };
    let columns = [("passed", older.passed), ("every", older.every), ("renders", renders)];
    state.put(HABIT, rows(columns.map(|(name, count)| (name, numbers(&[count], |count| *count))), 1)?);
    Ok(())
}

/// Saves the rows of a keyed table.
pub(super) fn save_rows(
    state: &mut Saver<'_>,
    kept: &mut FrameVersion,
    schema: &SchemaRef,
    current: impl FnOnce() -> Result<Option<Changes>>,
) -> Result<()> {
    let none = || Changes::inserts(RecordBatch::new_empty(Arc::clone(schema)), TimestampArray::from(Vec::<i64>::new()));
    state.keep(CURRENT, kept, || current()?.unwrap_or_else(none).to_batch())
}

impl SavedTable {
    /// Reads the state of a table whose rows have this schema; `None` if nobody read it.
    pub(super) fn load(state: &mut Loader<'_>, schema: &SchemaRef) -> Result<Option<Self>> {
        let Some(mut place) = state.take_if_there(PLACE) else { return Ok(None) };
        let (last_id, last_at) = last(&mut place)?;
        let ids = state.take_if_there(IDS);
        let counted = match ids {
            Some(_) => None,
            None => place.number_or_null::<UInt64Type>("counted")?.zip(place.number_or_null::<UInt64Type>("steps")?),
        };
        let mut time = |name: &str| place.number::<Int64Type>(name).map(Timestamp);
        let (arrival, by_rows, sent) = (time("arrival")?, time("by_rows")?, time("watermark")?);
        let has_sent = place.flag("has_watermark")?;
        place.end()?;
        let (ids, memory) = match ids {
            Some(ids) => (load_ids(ids)?, load_memory(state)?),
            None => {
                // Of earlier programs: the hashes of their events say nothing here.
                state.take_if_there(SEEN);
                (
                    counted.map(|(last, steps)| Ids::of(String::new(), last.to_string(), [steps, 0, 0, 0])).unwrap_or_default(),
                    Memory::default(),
                )
            }
        };
        let current = match state.take_if_there(CURRENT) {
            Some(current) if !current.is_empty() => Some(Changes::from_batch(&current.into_batch(), schema)?),
            Some(_) | None => None,
        };
        let position = FeedPosition { last_id, memory, ids, last_at };
        Ok(Some(SavedTable { position, clock: clock::SavedClock { arrival, by_rows, sent, has_sent }, current }))
    }
}

fn load_ids(mut saved: FrameReader) -> Result<Ids> {
    let mut text = |name: &str| saved.texts(name).map(|texts| texts.iter().flatten().next().unwrap_or_default().to_string());
    let (first, last) = (text("first")?, text("last")?);
    let mut count = |name: &str| saved.number::<UInt64Type>(name);
    let steps = [count("ones")?, count("leaps")?, count("leap_max")?, count("falls")?];
    saved.end()?;
    Ok(Ids::of(first, last, steps))
}

fn load_memory(state: &mut Loader<'_>) -> Result<Memory> {
    let digest = |(high, low): (&u64, &u64)| u128::from(*high) << 64 | u128::from(*low);
    let mut saved = state.take(MEMORY)?;
    let (id, place) = (saved.numbers::<UInt64Type>("id")?, saved.numbers::<UInt64Type>("place")?);
    let (high, low) = (saved.numbers::<UInt64Type>("high")?, saved.numbers::<UInt64Type>("low")?);
    let has_id = saved.flags("has_id")?;
    saved.end()?;
    let digests = high.values().iter().zip(low.values().iter()).map(digest);
    let marks = id.values().iter().zip(place.values().iter()).zip(digests).zip(has_id.values().iter());
    let mark = |(((id, place), digest), has_id): (((&u64, &u64), u128), bool)| SeenEvent {
        id: *id,
        place: u32::try_from(*place).unwrap_or(u32::MAX),
        digest,
        has_id,
    };
    let seen = marks.map(mark).collect();
    let mut saved = state.take(OLDER)?;
    let id = saved.numbers::<UInt64Type>("id")?;
    let (high, low) = (saved.numbers::<UInt64Type>("high")?, saved.numbers::<UInt64Type>("low")?);
    saved.end()?;
    let digests = high.values().iter().zip(low.values().iter()).map(digest);
    let marks = id.values().iter().copied().zip(digests).collect();
    let mut habit = state.take(HABIT)?;
    let mut count = |name: &str| habit.number::<UInt64Type>(name);
    let (passed, every, renders) = (count("passed")?, count("every")?, count("renders")?);
    habit.end()?;
    let renders = match renders {
        0 => Rendering::Unknown,
        1 => Rendering::Same,
        _ => Rendering::Anew,
    };
    Ok(Memory { seen, older: Older { marks, passed, every }, renders })
}

/// The last event that a state knows of, whether or not a table can go on from it.
pub(super) fn lost(state: &mut Loader<'_>) -> Option<LostPlace> {
    let (last_id, last_at) = last(&mut state.take_if_there(PLACE)?).ok()?;
    Some(LostPlace { at: last_at?, last_id })
}

fn last(place: &mut FrameReader) -> Result<(String, Option<Timestamp>)> {
    let last_id = place.texts("last_id")?.iter().flatten().next().unwrap_or_default().to_string();
    Ok((last_id, place.number_or_null::<Int64Type>("last_at")?.map(Timestamp)))
}
