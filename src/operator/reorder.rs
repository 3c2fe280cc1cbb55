//! Rows as they come in, rows in event-time order out: each waits until the watermark says that nothing earlier follows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};

use super::rows::LateRows;
use super::{Loader, Report, Saver, state};
use crate::change::Changes;
use crate::error::Result;
use crate::memory::held;
use crate::time::{Timestamp, TimestampArray};

/// Waiting batches are merged up to this size: many small ones would cost more in bookkeeping than in rows.
const MERGED_ROWS: usize = 4096;

/// Holds append-only rows back and lets them out sorted by (event time, arrival).
///
/// Memory is what the watermark's delay spans. A row that comes with a time before the watermark is late: it is dropped and counted.
pub struct Reorder {
    /// Each sorted by time; the runs themselves are in the order of arrival, so a stable merge keeps ties as they came.
    runs: Vec<Changes>,
    watermark: Timestamp,
    late: LateRows,
}

impl Default for Reorder {
    fn default() -> Self {
        Reorder { runs: Vec::new(), watermark: Timestamp::MIN, late: LateRows::default() }
    }
}

impl Reorder {
    /// Takes rows in; `changes` carry no weights.
    pub fn push(&mut self, changes: Changes) -> Result<()> {
        let times = changes.times.values();
        let watermark = self.watermark.nanos();
        if times.iter().all(|time| *time >= watermark) && times.is_sorted() {
            return self.append(changes);
        }
        let (mut fit, late): (Vec<u32>, Vec<u32>) = (0..times.len() as u32).partition(|row| times[*row as usize] >= watermark);
        self.late.note(&changes, late.into_iter().map(|row| row as usize), self.watermark);
        fit.sort_by_key(|row| times[*row as usize]);
        self.append(changes.take(&UInt32Array::from(fit))?)
    }

    /// The rows with a time before `watermark` (all of them at the end of time), in order; `None` if there are none.
    pub fn release(&mut self, watermark: Timestamp) -> Result<Option<Changes>> {
        self.watermark = self.watermark.max(watermark);
        let limit = self.watermark;
        let mut ready = Vec::new();
        for run in std::mem::take(&mut self.runs) {
            let count = match limit {
                Timestamp::MAX => run.len(),
                Timestamp(limit) => run.times.values().partition_point(|time| *time < limit),
            };
            if count > 0 {
                ready.push(run.slice(0, count));
            }
            let rest = run.len() - count;
            // A slice keeps the whole batch alive: few rows are copied out of it.
            if count > 0 && rest * 4 < run.len() {
                self.append(run.take(&UInt32Array::from_iter_values(count as u32..run.len() as u32))?)?;
            } else {
                self.append(run.slice(count, rest))?;
            }
        }
        match ready.is_empty() {
            true => Ok(None),
            false => merge(ready).map(Some),
        }
    }

    /// How far rows that wait for a time before `watermark` go: right behind the last of them.
    pub fn settled(&self, watermark: Timestamp) -> Timestamp {
        let last = |run: &Changes| {
            let count = run.times.values().partition_point(|time| *time < watermark.nanos());
            count.checked_sub(1).map(|last| Timestamp(run.times.value(last) + 1))
        };
        self.runs.iter().filter_map(last).max().map_or(self.watermark, |settled| settled.max(self.watermark))
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(Changes::len).sum()
    }

    /// Memory of the rows that wait.
    pub fn bytes(&self) -> usize {
        let columns = self.runs.iter().flat_map(|run| run.rows.columns());
        held(columns) + self.rows() * size_of::<i64>()
    }

    pub fn report(&self, report: &mut Report) {
        report.state_rows += self.rows();
        // A run is sorted and not empty; its first row goes out with the first watermark beyond it.
        let next = self.runs.iter().map(|run| Timestamp(run.times.value(0).saturating_add(1))).min();
        report.next_close = report.next_close.into_iter().chain(next).min();
        self.late.report(report);
    }

    pub fn save(&self, state: &mut Saver) -> Result<()> {
        let watermark: ArrayRef = Arc::new(Int64Array::from(vec![self.watermark.nanos()]));
        state.put("order", state::rows([("watermark", watermark)], 1)?);
        self.late.save(state)?;
        for (number, run) in self.runs.iter().enumerate() {
            let times: ArrayRef = Arc::new(Int64Array::new(run.times.values().clone(), None));
            let columns = run.rows.columns().iter().map(|column| ("column", Arc::clone(column)));
            state.put(format_args!("runs/{number}"), state::rows([("time", times)].into_iter().chain(columns), run.len())?);
        }
        Ok(())
    }

    /// `schema` is that of the rows.
    pub fn load(&mut self, schema: &SchemaRef, state: &mut Loader) -> Result<()> {
        let mut saved = state.take("order")?;
        self.watermark = Timestamp(saved.number::<Int64Type>("watermark")?);
        saved.end()?;
        self.late.load(state)?;
        let mut runs = Vec::new();
        for (name, rows) in state.take_all("runs/") {
            runs.push((state::number::<usize>(&name)?, rows));
        }
        runs.sort_by_key(|(number, _)| *number);
        for (_, mut saved) in runs {
            let times = saved.numbers::<Int64Type>("time")?;
            if saved.is_empty() || !times.values().is_sorted() {
                return Err(saved.misfit("is out of order"));
            }
            let columns = schema.fields().iter().map(|field| saved.column("column", field.data_type())).collect::<Result<_>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(saved.len()));
            let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
            let rows = rows.map_err(|error| saved.misfit(error))?;
            self.runs.push(Changes::inserts(rows, TimestampArray::new(times.values().clone(), None)));
            saved.end()?;
        }
        Ok(())
    }

    /// Adds a run at the end, merged with those before it that are no larger: their number grows with the logarithm of the rows.
    fn append(&mut self, mut run: Changes) -> Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        while let Some(last) = self.runs.pop_if(|last| last.len() <= run.len() && last.len() + run.len() <= MERGED_ROWS) {
            run = merge(vec![last, run])?;
        }
        // Few rows of a large batch may be all that waits.
        self.runs.push(run.detached());
        Ok(())
    }
}

/// Sorted parts as one; rows of the same time keep the order of the parts.
fn merge(mut parts: Vec<Changes>) -> Result<Changes> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let mut order: Vec<(i64, u32, u32)> = Vec::with_capacity(parts.iter().map(Changes::len).sum());
    for (number, part) in parts.iter().enumerate() {
        order.extend(part.times.values().iter().enumerate().map(|(row, time)| (*time, number as u32, row as u32)));
    }
    order.sort_by_key(|(time, ..)| *time);
    let batches: Vec<&RecordBatch> = parts.iter().map(|part| &part.rows).collect();
    let indices: Vec<(usize, usize)> = order.iter().map(|(_, part, row)| (*part as usize, *row as usize)).collect();
    let rows = interleave_record_batch(&batches, &indices)?;
    Ok(Changes::inserts(rows, TimestampArray::from_iter_values(order.iter().map(|(time, ..)| *time))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::operator::LateRow;

    /// Rows of (time, number).
    fn rows(rows: &[(i64, i64)]) -> Changes {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let times = TimestampArray::from_iter_values(rows.iter().map(|row| row.0));
        Changes::inserts(RecordBatch::try_from_iter([("n", numbers)]).unwrap(), times)
    }

    fn released(reorder: &mut Reorder, watermark: i64) -> Vec<(i64, i64)> {
        let Some(changes) = reorder.release(Timestamp(watermark)).unwrap() else { return Vec::new() };
        let numbers = changes.rows.column(0).as_primitive::<Int64Type>();
        changes.times.values().iter().copied().zip(numbers.values().iter().copied()).collect()
    }

    #[test]
    fn rows_come_out_by_time_and_ties_as_they_arrived() {
        let mut reorder = Reorder::default();
        reorder.push(rows(&[(3, 1), (1, 2), (3, 3)])).unwrap();
        reorder.push(rows(&[(2, 4), (3, 5), (1, 6)])).unwrap();
        assert_eq!(released(&mut reorder, 3), [(1, 2), (1, 6), (2, 4)]);
        reorder.push(rows(&[(3, 7)])).unwrap();
        assert_eq!(released(&mut reorder, 4), [(3, 1), (3, 3), (3, 5), (3, 7)]);
        assert_eq!(reorder.rows(), 0);
    }

    #[test]
    fn a_row_before_the_watermark_is_late_and_one_at_it_is_not() {
        let mut reorder = Reorder::default();
        assert_eq!(released(&mut reorder, 10), []);
        reorder.push(rows(&[(9, 1), (10, 2)])).unwrap();
        let mut report = Report::default();
        reorder.report(&mut report);
        let late = LateRow { time: Timestamp(9), watermark: Timestamp(10), row: "n=1".into() };
        assert_eq!((report.late_rows, report.late_samples, report.state_rows), (1, vec![late], 1));
        assert_eq!(report.next_close, Some(Timestamp(11)));
    }

    #[test]
    fn the_end_of_time_lets_everything_out() {
        let mut reorder = Reorder::default();
        reorder.push(rows(&[(i64::MAX, 1), (0, 2)])).unwrap();
        assert_eq!(released(&mut reorder, i64::MAX), [(0, 2), (i64::MAX, 1)]);
    }

    #[test]
    fn many_small_batches_wait_as_few_runs() {
        let mut reorder = Reorder::default();
        for number in 0..10_000 {
            reorder.push(rows(&[(number % 7, number)])).unwrap();
        }
        assert!(reorder.runs.len() < 24, "{} runs", reorder.runs.len());
        let out = released(&mut reorder, i64::MAX);
        assert_eq!(out.len(), 10_000);
        assert!(out.is_sorted());
    }
}
