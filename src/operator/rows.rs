//! Expressions over rows, so that a row on which one fails costs only itself; and what is remembered of rows that were dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{Int64Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use datafusion::physical_expr::PhysicalExpr;

use super::{BAD_SAMPLES, BadRow, LATE_SAMPLES, LateRow, Loader, Report, Saver, state};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::function::LostGroup;
use crate::time::Timestamp;

/// What expressions gave: a column each, all of one length.
pub struct Evaluated {
    pub columns: Vec<ArrayRef>,
    /// The rows the columns stand for; `None` for all of them, which is the rule.
    pub kept: Option<UInt32Array>,
}

/// Computes `expressions` over the rows of `changes`.
///
/// DataFusion evaluates a batch as a whole: one division by zero fails all of it. Then the batch is halved until the failing rows
/// stand alone; those are dropped and noted in `bad`, and every other row has its values.
pub fn evaluate_rows(expressions: &[Arc<dyn PhysicalExpr>], changes: &Changes, bad: &mut BadRows) -> Result<Evaluated> {
    if let Ok(columns) = evaluate(expressions, &changes.rows) {
        return Ok(Evaluated { columns, kept: None });
    }
    let mut good = Vec::new();
    let mut kept = Vec::new();
    halve(expressions, changes, 0, changes.len(), &mut |start, length, found| match found {
        Ok(columns) => {
            good.push(columns);
            kept.extend(start as u32..(start + length) as u32);
        }
        Err(error) => bad.note(changes, start, &error),
    });
    let columns = (0..expressions.len()).map(|column| {
        let parts: Vec<&dyn arrow::array::Array> = good.iter().map(|columns: &Vec<ArrayRef>| columns[column].as_ref()).collect();
        if parts.is_empty() {
            let data_type = expressions[column].data_type(changes.rows.schema_ref())?;
            return Ok(new_empty_array(&data_type));
        }
        Ok(concat(&parts)?)
    });
    Ok(Evaluated { columns: columns.collect::<Result<_>>()?, kept: Some(UInt32Array::from(kept)) })
}

/// A column each, or the first failure.
pub fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let columns = expressions.iter().map(|expression| Ok(expression.evaluate(rows)?.into_array(rows.num_rows())?));
    columns.collect()
}

/// Calls `found` for each stretch of rows that can be computed, and for each single row that cannot, in order.
fn halve(
    expressions: &[Arc<dyn PhysicalExpr>],
    changes: &Changes,
    start: usize,
    length: usize,
    found: &mut impl FnMut(usize, usize, Result<Vec<ArrayRef>>),
) {
    match evaluate(expressions, &changes.rows.slice(start, length)) {
        // What fails on no row at all, as a constant can, costs none.
        Err(_) if length == 0 => {}
        Err(_) if length > 1 => {
            let half = length / 2;
            halve(expressions, changes, start, half, found);
            halve(expressions, changes, start + half, length - half, found);
        }
        result => found(start, length, result),
    }
}

/// The rows that could not be computed: how many, and the last few.
#[derive(Default)]
pub struct BadRows {
    count: u64,
    samples: VecDeque<BadRow>,
}

impl BadRows {
    pub fn note(&mut self, changes: &Changes, row: usize, reason: &Error) {
        self.tell(BadRow {
            time: Timestamp(changes.times.value(row)),
            reason: reason.message().to_string(),
            row: text(&changes.rows, row),
        });
    }

    pub fn tell(&mut self, sample: BadRow) {
        self.count += 1;
        keep(&mut self.samples, sample, BAD_SAMPLES);
    }

    /// Notes the groups that an aggregate had no value for. `rows` has a row for each group, and `time` gives that of a row.
    pub fn lose(&mut self, lost: Vec<LostGroup>, rows: &RecordBatch, time: impl Fn(usize) -> i64) {
        for LostGroup { group, reason } in lost {
            let row = group.filter(|row| *row < rows.num_rows());
            let time = Timestamp(time(row.unwrap_or(0)));
            self.tell(BadRow { time, reason, row: row.map(|row| text(rows, row)).unwrap_or_default() });
        }
    }

    pub fn report(&self, report: &mut Report) {
        report.bad_rows += self.count;
        report.bad_samples.extend(self.samples.iter().cloned());
    }

    /// No frame where there are none, as nearly always.
    pub fn save(&self, state: &mut Saver) -> Result<()> {
        let samples = || self.samples.iter();
        let columns: [(_, ArrayRef); 4] = [
            ("count", Arc::new(UInt64Array::from_value(self.count, self.samples.len()))),
            ("time", Arc::new(Int64Array::from_iter_values(samples().map(|sample| sample.time.nanos())))),
            ("reason", Arc::new(StringArray::from_iter_values(samples().map(|sample| &sample.reason)))),
            ("row", Arc::new(StringArray::from_iter_values(samples().map(|sample| &sample.row)))),
        ];
        if self.count > 0 {
            state.put("bad", state::rows(columns, self.samples.len())?);
        }
        Ok(())
    }

    pub fn load(&mut self, state: &mut Loader) -> Result<()> {
        let Some(mut saved) = state.take_if_there("bad") else { return Ok(()) };
        let counts = saved.numbers::<UInt64Type>("count")?;
        let times = saved.numbers::<Int64Type>("time")?;
        let (reasons, rows) = (saved.texts("reason")?, saved.texts("row")?);
        self.count = counts.values().first().copied().unwrap_or(0);
        self.samples = (0..saved.len().min(BAD_SAMPLES))
            .map(|at| BadRow {
                time: Timestamp(times.value(at)),
                reason: reasons.value(at).to_string(),
                row: rows.value(at).to_string(),
            })
            .collect();
        saved.end()
    }
}

/// The rows that came too late: how many, and the last few.
#[derive(Default)]
pub struct LateRows {
    count: u64,
    samples: VecDeque<LateRow>,
}

impl LateRows {
    /// Notes `rows` of `changes`; of many, only the last become text.
    pub fn note(&mut self, changes: &Changes, rows: impl ExactSizeIterator<Item = usize>, watermark: Timestamp) {
        self.count += rows.len() as u64;
        let skipped = rows.len().saturating_sub(LATE_SAMPLES);
        for row in rows.skip(skipped) {
            let time = Timestamp(changes.times.value(row));
            keep(&mut self.samples, LateRow { time, watermark, row: text(&changes.rows, row) }, LATE_SAMPLES);
        }
    }

    pub fn report(&self, report: &mut Report) {
        report.late_rows += self.count;
        report.late_samples.extend(self.samples.iter().cloned());
    }

    /// No frame where there are none, as nearly always.
    pub fn save(&self, state: &mut Saver) -> Result<()> {
        let samples = || self.samples.iter();
        let columns: [(_, ArrayRef); 4] = [
            ("count", Arc::new(UInt64Array::from_value(self.count, self.samples.len()))),
            ("time", Arc::new(Int64Array::from_iter_values(samples().map(|sample| sample.time.nanos())))),
            ("watermark", Arc::new(Int64Array::from_iter_values(samples().map(|sample| sample.watermark.nanos())))),
            ("row", Arc::new(StringArray::from_iter_values(samples().map(|sample| &sample.row)))),
        ];
        if self.count > 0 {
            state.put("late", state::rows(columns, self.samples.len())?);
        }
        Ok(())
    }

    pub fn load(&mut self, state: &mut Loader) -> Result<()> {
        let Some(mut saved) = state.take_if_there("late") else { return Ok(()) };
        let counts = saved.numbers::<UInt64Type>("count")?;
        let (times, watermarks) = (saved.numbers::<Int64Type>("time")?, saved.numbers::<Int64Type>("watermark")?);
        let rows = saved.texts("row")?;
        self.count = counts.values().first().copied().unwrap_or(0);
        self.samples = (0..saved.len().min(LATE_SAMPLES))
            .map(|at| LateRow {
                time: Timestamp(times.value(at)),
                watermark: Timestamp(watermarks.value(at)),
                row: rows.value(at).to_string(),
            })
            .collect();
        saved.end()
    }
}

fn keep<T>(samples: &mut VecDeque<T>, sample: T, most: usize) {
    if samples.len() == most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// A sample shows as much of a row as fits a few lines of a terminal.
const SAMPLE_CHARS: usize = 400;

/// A row as `name=value, …`, cut after `SAMPLE_CHARS`.
pub fn text(rows: &RecordBatch, row: usize) -> String {
    let mut text = String::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let value = array_value_to_string(column, row).unwrap_or_else(|_| "?".into());
        text.push_str(field.name());
        text.push('=');
        text.push_str(&value);
        if let Some((cut, _)) = text.char_indices().nth(SAMPLE_CHARS) {
            text.truncate(cut);
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;
    use crate::time::TimestampArray;

    #[test]
    fn a_row_that_fails_costs_only_itself() {
        let values: Vec<i64> = vec![1, 0, 2, 5, 0, 10];
        let rows = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(values.clone())) as ArrayRef)]).unwrap();
        let schema = rows.schema();
        let inverse = binary(lit(10i64), Operator::Divide, col("v", &schema).unwrap(), &schema).unwrap();
        let changes = Changes::inserts(rows, TimestampArray::from(values));
        let mut bad = BadRows::default();
        let found = evaluate_rows(&[inverse, col("v", &schema).unwrap()], &changes, &mut bad).unwrap();
        assert_eq!(found.columns[0].as_primitive::<Int64Type>().values(), &[10, 5, 2, 1]);
        assert_eq!(found.columns[1].as_primitive::<Int64Type>().values(), &[1, 2, 5, 10]);
        assert_eq!(found.kept.unwrap().values(), &[0, 2, 3, 5]);
        let mut report = Report::default();
        bad.report(&mut report);
        assert_eq!(report.bad_rows, 2);
        let sample = BadRow { time: Timestamp(0), reason: "division by zero".into(), row: "v=0".into() };
        assert_eq!(report.bad_samples, [sample.clone(), sample]);
    }

    #[test]
    fn where_there_is_no_row_none_is_bad() {
        let rows = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef)]).unwrap();
        let never = binary(lit(1i64), Operator::Divide, lit(0i64), &rows.schema()).unwrap();
        assert!(evaluate(&[Arc::clone(&never)], &rows).is_err());
        let (changes, mut bad) = (Changes::inserts(rows, TimestampArray::from(Vec::<i64>::new())), BadRows::default());
        let found = evaluate_rows(&[never], &changes, &mut bad).unwrap();
        let mut report = Report::default();
        bad.report(&mut report);
        assert_eq!((found.columns[0].len(), report.bad_rows), (0, 0));
    }
}
