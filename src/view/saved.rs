//! The state of a view that is kept: its rows, its latest changes with their numbers, and the epochs that those numbers held in.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};

use super::history::HistoryEntry;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::operator::state::{self, FrameVersion, Loader, Saver};
use crate::time::{Timestamp, TimestampArray};

const EPOCHS: &str = "epochs";
const ROWS: &str = "rows";
const HISTORY: &str = "history/";
const FAILURE: &str = "failure";

/// Earlier epochs that a client may still come with: as many restarts.
const ORIGINS_MAX: usize = 64;

/// What a view had said when a checkpoint was made.
pub struct SavedView {
    /// Of a view whose rows are never taken back, those that are older than the history.
    pub rows: RecordBatch,
    pub history: Vec<SavedEntry>,
    pub seq: u64,
    pub at: Option<Timestamp>,
    /// Each epoch so far, and up to which number its changes are those of this state. The last one is the epoch that made it.
    pub origins: Vec<(u64, u64)>,
}

/// One entry of a history.
pub struct SavedEntry {
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
    kept: FrameVersion,
}

impl Chapter {
    fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

impl Chapters {
    pub fn save(&mut self, state: &mut Saver<'_>, history: &VecDeque<Arc<HistoryEntry>>) -> Result<()> {
        let Some((oldest, latest)) = history.front().zip(history.back()).map(|(front, back)| (front.first, back.last)) else {
            self.0.clear();
            return Ok(());
        };
        self.0.retain(|chapter| chapter.last >= oldest);
        let next = self.0.last().map_or(oldest, |chapter| chapter.last + 1);
        if next <= latest {
            self.0.push(Chapter { first: next, last: latest, kept: FrameVersion::default() });
        }
        // Each is more than twice as long as the next, so there are few, and each change is written a few times at most.
        while let [.., before, last] = self.0.as_slice()
            && before.len() <= 2 * last.len()
        {
            let joined = Chapter { first: before.first, last: last.last, kept: FrameVersion::default() };
            self.0.truncate(self.0.len() - 2);
            self.0.push(joined);
        }
        for Chapter { first, last, kept } in &mut self.0 {
            let from = history.partition_point(|entry| entry.last < *first);
            let entries = history.range(from..).take_while(|entry| entry.first <= *last);
            state.keep(format_args!("{HISTORY}{first}"), kept, || written(entries))?;
        }
        Ok(())
    }
}

/// The changes of all entries as [`Changes::to_batch`] gives them, and behind each the numbers of its entry and its time.
fn written<'a>(entries: impl Iterator<Item = &'a Arc<HistoryEntry>>) -> Result<RecordBatch> {
    let entries: Vec<&Arc<HistoryEntry>> = entries.collect();
    let changes: Vec<Changes> = entries.iter().map(|entry| entry.changes.clone()).collect();
    let batch = Changes::concat(&changes)?.to_batch()?;
    let each = |of: fn(&HistoryEntry) -> u64| -> ArrayRef {
        let values = entries.iter().flat_map(|entry| std::iter::repeat_n(of(entry), entry.changes.len()));
        Arc::new(UInt64Array::from_iter_values(values))
    };
    let at = entries.iter().flat_map(|entry| std::iter::repeat_n(entry.at.nanos(), entry.changes.len()));
    let more: [ArrayRef; 3] = [each(|entry| entry.first), each(|entry| entry.last), Arc::new(Int64Array::from_iter_values(at))];
    let columns = batch.columns().iter().cloned().chain(more).enumerate();
    state::rows(columns.map(|(at, column)| (at.to_string(), column)), batch.num_rows())
}

/// The entries that [`written`] put into a batch.
fn read(batch: &RecordBatch, schema: &SchemaRef, history: &mut Vec<SavedEntry>) -> Result<()> {
    let wrong = || state::misfit(HISTORY, "is not the history of this view");
    let count = batch.num_columns().checked_sub(3).ok_or_else(wrong)?;
    let numbers = |at: usize| batch.column(at).as_primitive_opt::<UInt64Type>().ok_or_else(wrong);
    let (firsts, lasts) = (numbers(count)?, numbers(count + 1)?);
    let at = batch.column(count + 2).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let all = batch.project(&(0..count).collect::<Vec<_>>())?;
    let mut start = 0;
    while start < batch.num_rows() {
        let (first, last) = (firsts.value(start), lasts.value(start));
        let length = firsts.values()[start..].iter().take_while(|other| **other == first).count();
        let changes = Changes::from_batch(&all.slice(start, length), schema)?;
        history.push(SavedEntry { first, last, at: Timestamp(at.value(start)), changes });
        start += length;
    }
    Ok(())
}

/// What of a view is a number or two.
pub struct Numbers {
    pub seq: u64,
    pub at: Option<Timestamp>,
    pub origins: Vec<(u64, u64)>,
}

/// Saves the numbers of a view.
pub fn save(state: &mut Saver<'_>, numbers: &Numbers) -> Result<()> {
    let Numbers { seq, at, origins } = numbers;
    let origins = &origins[origins.len().saturating_sub(ORIGINS_MAX)..];
    let count = origins.len();
    let epochs: [(&str, ArrayRef); 4] = [
        ("epoch", Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.0)))),
        ("last", Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.1)))),
        ("seq", Arc::new(UInt64Array::from_value(*seq, count))),
        ("at", Arc::new(Int64Array::from_iter(std::iter::repeat_n(at.map(Timestamp::nanos), count)))),
    ];
    state.put(EPOCHS, state::rows(epochs, count)?);
    Ok(())
}

/// Saves the rows of a view that do not follow from its history.
pub fn save_rows(state: &mut Saver<'_>, kept: &mut FrameVersion, rows: impl FnOnce() -> Result<RecordBatch>) -> Result<()> {
    state.keep(ROWS, kept, || {
        let rows = rows()?;
        let times = TimestampArray::from_value(0, rows.num_rows());
        Changes::inserts(rows, times).to_batch()
    })
}

/// Saves why a view has failed.
pub fn save_failure(state: &mut Saver<'_>, error: &Error) -> Result<()> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values([text])) };
    let failure: [(&str, ArrayRef); 3] = [
        ("code", Arc::new(UInt64Array::from_value(error.code().number().into(), 1))),
        ("message", text(error.message())),
        ("way_out", text(error.way_out().unwrap_or_default())),
    ];
    state.put(FAILURE, state::rows(failure, 1)?);
    Ok(())
}

/// Why a view has failed, if it has.
pub fn load_failure(state: &mut Loader<'_>) -> Result<Option<Error>> {
    let Some(mut failure) = state.take_if_there(FAILURE) else { return Ok(None) };
    let number = failure.number::<UInt64Type>("code")?;
    let (message, way_out) = (failure.texts("message")?, failure.texts("way_out")?);
    failure.end()?;
    // Another version may have had other codes.
    let code = Code::ALL.iter().copied().find(|code| u64::from(code.number()) == number).unwrap_or(Code::Runtime);
    let error = Error::new(code, message.value(0));
    Ok(Some(match way_out.value(0) {
        "" => error,
        way_out => error.hint(way_out),
    }))
}

impl SavedView {
    /// Reads the state of a view whose rows have this schema.
    pub fn load(state: &mut Loader<'_>, schema: &SchemaRef) -> Result<Self> {
        let mut epochs = state.take(EPOCHS)?;
        let (epoch, last) = (epochs.numbers::<UInt64Type>("epoch")?, epochs.numbers::<UInt64Type>("last")?);
        let (seq, at) = (epochs.numbers::<UInt64Type>("seq")?, epochs.numbers_or_null::<Int64Type>("at")?);
        if epochs.is_empty() {
            return Err(epochs.misfit("has no row"));
        }
        let (seq, at) = (seq.value(0), at.is_valid(0).then(|| Timestamp(at.value(0))));
        epochs.end()?;
        let rows = Changes::from_batch(&state.take(ROWS)?.into_batch(), schema)?.rows;
        let mut history = Vec::new();
        for (_, chapter) in state.take_all(HISTORY) {
            if !chapter.is_empty() {
                read(&chapter.into_batch(), schema, &mut history)?;
            }
        }
        history.sort_by_key(|entry| entry.first);
        let follows = |two: &[SavedEntry]| two[0].last.checked_add(1) == Some(two[1].first);
        if !history.windows(2).all(follows) || history.last().is_some_and(|last| last.last != seq) {
            return Err(state::misfit(HISTORY, "is not whole"));
        }
        let origins = epoch.values().iter().copied().zip(last.values().iter().copied()).collect();
        Ok(SavedView { rows, history, seq, at, origins })
    }
}
