//! How the result of a window leaves: what happens inside it first, and as what it is said when it was said before.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StructArray, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};

use super::Message;
use super::finish::Finish;
use super::rows::BadRows;
use crate::change::{Changes, difference};
use crate::error::{Code, Error, Result};
use crate::function::{LostGroup, listen};
use crate::time::{TimestampArray, UTC, nanos_of};
use crate::window::Window;

/// When the results of a window come out, beside its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emission {
    /// Event time between early results of open windows; `None` for none.
    pub early: Option<Duration>,
    /// How long after its end a window takes late rows, which correct what it said.
    pub allowed_lateness: Duration,
}

impl Emission {
    /// Whether a window may speak more than once, so that it must remember what it said.
    pub fn updates(&self) -> bool {
        self.early.is_some() || !self.allowed_lateness.is_zero()
    }

    pub fn lateness(&self) -> i64 {
        nanos_of(self.allowed_lateness)
    }

    /// Whether the way of the watermark from `from` to `to` crosses a multiple of the early interval, so that early results are due.
    pub fn early_between(&self, from: i64, to: i64) -> bool {
        self.early.is_some_and(|early| {
            let early = nanos_of(early).max(1);
            from.div_euclid(early) != to.div_euclid(early)
        })
    }
}

/// What a window said last: its rows and its end.
pub struct LastEmitted {
    pub rows: RecordBatch,
    pub end: i64,
}

/// The way from keys and values to output rows.
pub struct Emitter {
    /// Group columns with the window among them, then aggregates.
    output: SchemaRef,
    window_index: usize,
    pub finish: Box<dyn Finish>,
}

impl Emitter {
    pub fn new(output: SchemaRef, window_index: usize, finish: Box<dyn Finish>) -> Result<Self> {
        match output.fields().get(window_index).map(|field| field.data_type()) {
            Some(DataType::Struct(fields)) if fields.len() == 2 => Ok(Emitter { output, window_index, finish }),
            other => {
                Err(Error::bug(format!("column {window_index} of a window's result is {other:?} instead of its start and end")))
            }
        }
    }

    /// The full result: a row for each of `keys` (columns without the window) with its window and its aggregates.
    pub fn result(&self, keys: Vec<ArrayRef>, windows: &[Window], aggregates: Vec<ArrayRef>) -> Result<RecordBatch> {
        let DataType::Struct(fields) = self.output.field(self.window_index).data_type() else {
            return Err(Error::bug("a window's column is no struct any more"));
        };
        let instants = |times: TimestampArray| -> ArrayRef { Arc::new(times.with_timezone(UTC)) };
        let starts = instants(TimestampArray::from_iter_values(windows.iter().map(|window| window.start)));
        let ends = instants(TimestampArray::from_iter_values(windows.iter().map(|window| window.end)));
        let mut columns = keys;
        columns.insert(self.window_index, Arc::new(StructArray::try_new(fields.clone(), vec![starts, ends], None)?));
        columns.extend(aggregates);
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// Finishes the rows of windows, of which the last ends at `end`. A row that fails on its own is dropped and noted in `bad`: the
    /// others stand. Where rows fail only together (a rank or sum over them), all of them are.
    pub fn finish(&mut self, rows: RecordBatch, end: i64, bad: &mut BadRows) -> Result<RecordBatch> {
        match self.run(rows.clone(), end, bad) {
            Err(error) if error.code() == Code::Runtime && rows.num_rows() > 0 => {}
            finished => return finished,
        }
        let changes = self.first(rows, end);
        let mut good = Vec::new();
        self.sift(&changes, 0, changes.len(), &mut good, bad);
        let rest = take_record_batch(&changes.rows, &UInt32Array::from(good))?;
        match self.run(rest.clone(), end, bad) {
            Err(error) if error.code() == Code::Runtime && rest.num_rows() > 0 => {
                let rest = self.first(rest, end);
                (0..rest.len()).for_each(|row| bad.note(&rest, row, &error));
                Ok(RecordBatch::new_empty(self.finish.schema()))
            }
            finished => finished,
        }
    }

    /// Finishes all rows. What an aggregate over them has no value for is NULL, and noted.
    fn run(&mut self, rows: RecordBatch, end: i64, bad: &mut BadRows) -> Result<RecordBatch> {
        let (finished, lost) = listen(|| self.finish.run(rows));
        let finished = finished?;
        // Which rows these groups became is lost on the way.
        bad.lose(lost.into_iter().map(|lost| LostGroup { group: None, ..lost }).collect(), &finished, |_| time_of(end));
        Ok(finished)
    }

    /// Adds to `good` the rows from `start` that can be finished, found by halving.
    fn sift(&mut self, changes: &Changes, start: usize, length: usize, good: &mut Vec<u32>, bad: &mut BadRows) {
        match listen(|| self.finish.run(changes.rows.slice(start, length))).0 {
            Ok(_) => good.extend(start as u32..(start + length) as u32),
            Err(error) if length == 1 => bad.note(changes, start, &error),
            Err(_) => {
                let half = length / 2;
                self.sift(changes, start, half, good, bad);
                self.sift(changes, start + half, length - half, good, bad);
            }
        }
    }

    /// Rows of a window that speaks for the first time.
    pub fn first(&self, rows: RecordBatch, end: i64) -> Changes {
        let times = TimestampArray::from(vec![time_of(end); rows.num_rows()]);
        Changes::inserts(rows, times)
    }

    /// A row each of windows with these ends, which speak for the first time.
    pub fn firsts(&self, rows: RecordBatch, ends: impl Iterator<Item = i64>) -> Changes {
        Changes::inserts(rows, TimestampArray::from_iter_values(ends.map(time_of)))
    }

    /// What to say so that `said` becomes `rows`; old and new version of a row stand side by side.
    pub fn correction(&self, said: &[LastEmitted], rows: &RecordBatch, end: i64) -> Result<Changes> {
        if said.iter().all(|said| said.rows.num_rows() == 0) {
            return Ok(self.first(rows.clone(), end));
        }
        let before = concat_batches(rows.schema_ref(), said.iter().map(|said| &said.rows))?;
        let ends: Vec<i64> = said.iter().flat_map(|said| std::iter::repeat_n(said.end, said.rows.num_rows())).collect();
        let steps = difference(&before, rows, self.finish.keys())?;
        let places: Vec<(usize, usize)> = steps.iter().map(|(new, row)| (usize::from(*new), *row as usize)).collect();
        let times = steps.iter().map(|(new, row)| time_of(if *new { end } else { ends[*row as usize] }));
        Ok(Changes {
            rows: interleave_record_batch(&[&before, rows], &places)?,
            times: TimestampArray::from_iter_values(times),
            weights: Some(Int64Array::from_iter_values(steps.iter().map(|(new, _)| if *new { 1 } else { -1 }))),
        })
    }
}

/// The event time of a result: the last moment of its window.
pub fn time_of(end: i64) -> i64 {
    end - 1
}

/// Results of several windows travel together up to about this many rows: as many as DataFusion puts in a batch.
const TOGETHER: usize = 8192;

/// Appends `parts` to `out`, small neighbours as one message and empty ones not at all.
pub fn send(parts: Vec<Changes>, out: &mut Vec<Message>) -> Result<()> {
    let mut together: Vec<Changes> = Vec::new();
    let mut rows = 0;
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        // A row that goes and one of another window that comes would read as an update.
        let apart = together.last().is_some_and(|last| last.weight(last.len() - 1) < 0);
        if (apart || rows + part.len() > TOGETHER) && rows > 0 {
            out.push(Message::Changes(Changes::concat(&together)?));
            together.clear();
            rows = 0;
        }
        rows += part.len();
        together.push(part);
    }
    if rows > 0 {
        out.push(Message::Changes(Changes::concat(&together)?));
    }
    Ok(())
}
