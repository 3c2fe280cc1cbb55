//! The state of a view that is kept: its rows, its latest changes with their numbers, and the epochs that those numbers held in.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};

use super::live::Entry;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::operator::Epoch;
use crate::operator::state::{Content, Cut, Frame};
use crate::time::Timestamp;

/// What stands before the names of these frames; operators have other names.
const PREFIX: &str = "live/";
const EPOCHS: &str = "live/epochs";
const ROWS: &str = "live/rows";
const HISTORY: &str = "live/history/";

/// Earlier epochs that a client may still come with: as many restarts.
const ORIGINS_MAX: usize = 64;

/// Pieces that a history is kept in; then they become one.
const CHAPTERS_MAX: usize = 16;

/// What a view had said when a checkpoint was made.
pub struct Saved {
    pub rows: RecordBatch,
    pub history: Vec<Kept>,
    pub seq: u64,
    pub at: Option<Timestamp>,
    /// Each epoch so far, and up to which number its changes are those of this state. The last one is the epoch that made it.
    pub origins: Vec<(u64, u64)>,
}

/// One entry of a history.
pub struct Kept {
    pub first: u64,
    pub last: u64,
    pub at: Timestamp,
    pub changes: Changes,
}

/// The history in pieces that are written once: each checkpoint adds what came since the one before.
#[derive(Default)]
pub struct Chapters(Vec<Chapter>);

struct Chapter {
    first: u64,
    last: u64,
    /// The checkpoint that it was given for.
    given: Epoch,
}

impl Chapters {
    /// The frames of this history.
    pub fn save(&mut self, history: &VecDeque<Arc<Entry>>, schema: &SchemaRef, cut: Cut) -> Result<Vec<Frame>> {
        let Some((oldest, latest)) = history.front().zip(history.back()).map(|(front, back)| (front.first, back.last)) else {
            self.0.clear();
            return Ok(Vec::new());
        };
        self.0.retain(|chapter| chapter.last >= oldest);
        if cut.written.is_none() || self.0.len() >= CHAPTERS_MAX {
            self.0.clear();
        }
        let next = self.0.last().map_or(oldest, |chapter| chapter.last + 1);
        if next <= latest {
            self.0.push(Chapter { first: next, last: latest, given: cut.epoch });
        }
        let frames = self.0.iter_mut().map(|chapter| {
            let name = format!("{HISTORY}{}", chapter.first);
            if cut.written.is_some_and(|written| chapter.given <= written) {
                return Ok(Frame { name, content: Content::Unchanged });
            }
            chapter.given = cut.epoch;
            let from = history.partition_point(|entry| entry.last < chapter.first);
            let entries = history.range(from..).take_while(|entry| entry.first <= chapter.last);
            Ok(Frame { name, content: Content::Rows(written(entries, schema)?) })
        });
        frames.collect()
    }
}

/// Changes with, behind the columns of [`Changes::to_batch`], the numbers of their entry and its time.
fn written<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut batches = Vec::new();
    for entry in entries {
        let batch = entry.changes.to_batch()?;
        let count = batch.num_rows();
        let more: [ArrayRef; 3] = [
            Arc::new(UInt64Array::from_value(entry.first, count)),
            Arc::new(UInt64Array::from_value(entry.last, count)),
            Arc::new(Int64Array::from_value(entry.at.nanos(), count)),
        ];
        let columns = batch.columns().iter().cloned().chain(more).enumerate();
        batches.push(RecordBatch::try_from_iter_with_nullable(columns.map(|(at, column)| (at.to_string(), column, true)))?);
    }
    match batches.first() {
        Some(first) => Ok(arrow::compute::concat_batches(&first.schema(), &batches)?),
        None => Changes::inserts(RecordBatch::new_empty(Arc::clone(schema)), Vec::<i64>::new().into()).to_batch(),
    }
}

/// The entries that [`written`] put into a batch.
fn read(batch: &RecordBatch, schema: &SchemaRef) -> Result<Vec<Kept>> {
    let count = batch.num_columns().checked_sub(3).ok_or_else(wrong)?;
    let numbers = |at: usize| batch.column(at).as_primitive_opt::<UInt64Type>().ok_or_else(wrong);
    let (firsts, lasts) = (numbers(count)?, numbers(count + 1)?);
    let at = batch.column(count + 2).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let all = batch.project(&(0..count).collect::<Vec<_>>())?;
    let mut entries = Vec::new();
    let mut start = 0;
    while start < batch.num_rows() {
        let (first, last) = (firsts.value(start), lasts.value(start));
        let length = firsts.values()[start..].iter().take_while(|other| **other == first).count();
        let changes = Changes::from_batch(&all.slice(start, length), schema)?;
        if first > last || entries.last().is_some_and(|before: &Kept| before.last + 1 != first) {
            return Err(wrong());
        }
        entries.push(Kept { first, last, at: Timestamp(at.value(start)), changes });
        start += length;
    }
    Ok(entries)
}

/// The frames beside those of the history. `rows` are left out where the last checkpoint has them.
pub fn frames(rows: Option<RecordBatch>, seq: u64, at: Option<Timestamp>, origins: &[(u64, u64)]) -> Result<Vec<Frame>> {
    let origins = &origins[origins.len().saturating_sub(ORIGINS_MAX)..];
    let count = origins.len();
    let epochs: [(&str, ArrayRef); 4] = [
        ("epoch", Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.0)))),
        ("last", Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.1)))),
        ("seq", Arc::new(UInt64Array::from_value(seq, count))),
        ("at", Arc::new(Int64Array::from_iter(std::iter::repeat_n(at.map(Timestamp::nanos), count)))),
    ];
    let epochs = RecordBatch::try_from_iter_with_nullable(epochs.map(|(name, column)| (name, column, true)))?;
    Ok(vec![
        Frame { name: EPOCHS.into(), content: Content::Rows(epochs) },
        Frame { name: ROWS.into(), content: rows.map_or(Content::Unchanged, Content::Rows) },
    ])
}

/// Parts the frames of a view from those of its operators.
pub fn part(frames: Vec<Frame>) -> (Vec<Frame>, Vec<Frame>) {
    frames.into_iter().partition(|frame| frame.name.starts_with(PREFIX))
}

impl Saved {
    /// Reads the frames of a view whose rows have this schema.
    pub fn read(frames: &[Frame], schema: &SchemaRef) -> Result<Self> {
        let rows = |name: &str| match frames.iter().find(|frame| frame.name == name).map(|frame| &frame.content) {
            Some(Content::Rows(rows)) => Ok(rows),
            Some(Content::Unchanged) | None => Err(wrong()),
        };
        let epochs = rows(EPOCHS)?;
        let numbers = |name: &str| {
            epochs.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>()).ok_or_else(wrong)
        };
        let origins: Vec<(u64, u64)> =
            numbers("epoch")?.values().iter().copied().zip(numbers("last")?.values().iter().copied()).collect();
        let seq = *numbers("seq")?.values().first().ok_or_else(wrong)?;
        let at = epochs.column_by_name("at").and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(wrong)?;
        let at = at.is_valid(0).then(|| Timestamp(at.value(0)));
        let rows = RecordBatch::try_new(Arc::clone(schema), rows(ROWS)?.columns().to_vec()).map_err(|_| wrong())?;
        let mut history = Vec::new();
        for frame in frames.iter().filter(|frame| frame.name.starts_with(HISTORY)) {
            match &frame.content {
                Content::Rows(batch) if batch.num_rows() > 0 => history.extend(read(batch, schema)?),
                Content::Rows(_) => {}
                Content::Unchanged => return Err(wrong()),
            }
        }
        history.sort_by_key(|entry| entry.first);
        let is_whole = history.windows(2).all(|two| two[0].last + 1 == two[1].first);
        match is_whole && history.last().is_none_or(|last| last.last == seq) {
            true => Ok(Saved { rows, history, seq, at, origins }),
            false => Err(wrong()),
        }
    }
}

fn wrong() -> Error {
    Error::new(Code::Data, "the kept state of a view cannot be read")
}
