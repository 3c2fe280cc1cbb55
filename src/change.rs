//! Rows with weights: what runs between operators and out of a view. An insert is `+1`, a delete `-1`, an update the pair.

use std::collections::HashMap;

use arrow::array::{Array, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, concat_batches, take, take_record_batch};
use arrow::row::{RowConverter, Rows, SortField};

use crate::error::Result;
use crate::time::TimestampArray;

/// A batch of changes: `rows`, the event time of each in `times`, and how often each counts in `weights`.
///
/// All three have the same length. `weights` is `None` where every row counts `+1`: append-only streams pay for no column.
/// A `-1` directly followed by a `+1` is an update of one row; [`crate::operator`]s keep such pairs side by side.
#[derive(Debug, Clone)]
pub struct Changes {
    pub rows: RecordBatch,
    pub times: TimestampArray,
    pub weights: Option<Int64Array>,
}

impl Changes {
    /// Rows that are all inserts.
    pub fn inserts(rows: RecordBatch, times: TimestampArray) -> Self {
        debug_assert_eq!(rows.num_rows(), times.len());
        Changes { rows, times, weights: None }
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often row `row` counts.
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights.value(row))
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Changes> {
        Ok(Changes {
            rows: match self.rows.num_columns() {
                // Rows of which nothing but their number and time is wanted, as for count(*).
                0 => {
                    let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
                    RecordBatch::try_new_with_options(self.rows.schema(), Vec::new(), &options)?
                }
                _ => take_record_batch(&self.rows, indices)?,
            },
            times: times_of(&take(&self.times, indices, None)?),
            weights: match &self.weights {
                Some(weights) => Some(weights_of(&take(weights, indices, None)?)),
                None => None,
            },
        })
    }

    /// `length` rows from `offset` on, without a copy.
    pub fn slice(&self, offset: usize, length: usize) -> Changes {
        Changes {
            rows: self.rows.slice(offset, length),
            times: self.times.slice(offset, length),
            weights: self.weights.as_ref().map(|weights| weights.slice(offset, length)),
        }
    }

    /// The changes one after the other; `parts` have one schema and are at least one.
    pub fn concat(parts: &[Changes]) -> Result<Changes> {
        let first = &parts[0];
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let times: Vec<&dyn Array> = parts.iter().map(|part| &part.times as &dyn Array).collect();
        let weights = if parts.iter().any(|part| part.weights.is_some()) {
            let columns: Vec<Int64Array> = parts.iter().map(Changes::weight_column).collect();
            let columns: Vec<&dyn Array> = columns.iter().map(|column| column as &dyn Array).collect();
            Some(weights_of(&concat(&columns)?))
        } else {
            None
        };
        Ok(Changes {
            rows: concat_batches(first.rows.schema_ref(), parts.iter().map(|part| &part.rows))?,
            times: times_of(&concat(&times)?),
            weights,
        })
    }

    /// The weights as a column, `+1` everywhere where none are kept.
    pub fn weight_column(&self) -> Int64Array {
        self.weights.clone().unwrap_or_else(|| Int64Array::from(vec![1; self.len()]))
    }
}

/// What must be said to turn `before` into `after`, two results over the same columns; the columns `keys` name a row.
///
/// Rows that are equal on both sides cancel. A key on both sides with other values becomes a `-1`, `+1` pair; a key on one side
/// becomes one `-1` or `+1`. Where a key occurs more than once, its rows are compared as a multiset. The order is that of
/// `after`, then what is only in `before`. Returns indices into `before` (with `false`) and `after` (with `true`).
pub fn difference(before: &RecordBatch, after: &RecordBatch, keys: &[usize]) -> Result<Vec<(bool, u32)>> {
    let columns: Vec<usize> = (0..before.num_columns()).collect();
    let all = Encoded::new(before, after, &columns)?;
    let key = Encoded::new(before, after, keys)?;
    let mut gone: HashMap<&[u8], Vec<u32>> = HashMap::with_capacity(before.num_rows());
    for row in 0..before.num_rows() as u32 {
        gone.entry(all.before(row)).or_default().push(row);
    }
    let fresh: Vec<u32> =
        (0..after.num_rows() as u32).filter(|row| gone.get_mut(all.after(*row)).and_then(Vec::pop).is_none()).collect();
    let mut left: Vec<u32> = gone.into_values().flatten().collect();
    left.sort_unstable();
    let mut by_key: HashMap<&[u8], Vec<u32>> = HashMap::with_capacity(left.len());
    for row in left.iter().rev() {
        by_key.entry(key.before(*row)).or_default().push(*row);
    }
    let mut changes = Vec::with_capacity(fresh.len() + left.len());
    let mut paired = vec![false; before.num_rows()];
    for row in fresh {
        if let Some(old) = by_key.get_mut(key.after(row)).and_then(Vec::pop) {
            paired[old as usize] = true;
            changes.push((false, old));
        }
        changes.push((true, row));
    }
    changes.extend(left.into_iter().filter(|row| !paired[*row as usize]).map(|row| (false, row)));
    Ok(changes)
}

/// The columns `columns` of both batches as comparable bytes, a row each.
struct Encoded(Option<(Rows, Rows)>);

impl Encoded {
    fn new(before: &RecordBatch, after: &RecordBatch, columns: &[usize]) -> Result<Self> {
        if columns.is_empty() {
            return Ok(Encoded(None));
        }
        let fields = columns.iter().map(|column| SortField::new(before.column(*column).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let rows = |batch: &RecordBatch| {
            let columns: Vec<_> = columns.iter().map(|column| batch.column(*column).clone()).collect();
            converter.convert_columns(&columns)
        };
        Ok(Encoded(Some((rows(before)?, rows(after)?))))
    }

    fn before(&self, row: u32) -> &[u8] {
        self.0.as_ref().map_or(&[], |(before, _)| before.row(row as usize).data())
    }

    fn after(&self, row: u32) -> &[u8] {
        self.0.as_ref().map_or(&[], |(_, after)| after.row(row as usize).data())
    }
}

fn times_of(array: &dyn Array) -> TimestampArray {
    array.as_any().downcast_ref::<TimestampArray>().expect("taken from a TimestampArray").clone()
}

fn weights_of(array: &dyn Array) -> Int64Array {
    array.as_any().downcast_ref::<Int64Array>().expect("taken from an Int64Array").clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        RecordBatch::try_from_iter([("key", keys), ("value", values)]).unwrap()
    }

    #[test]
    fn a_difference_holds_what_changed_and_pairs_it_by_key() {
        let before = batch(&[("a", 1), ("b", 2), ("c", 3)]);
        let after = batch(&[("c", 3), ("b", 5), ("d", 4)]);
        // a went, b changed, c stayed, d came.
        assert_eq!(difference(&before, &after, &[0]).unwrap(), [(false, 1), (true, 1), (true, 2), (false, 0)]);
    }

    #[test]
    fn without_a_key_old_and_new_rows_pair_up_in_order() {
        assert_eq!(difference(&batch(&[("a", 1)]), &batch(&[("b", 2)]), &[]).unwrap(), [(false, 0), (true, 0)]);
    }

    #[test]
    fn rows_without_columns_are_taken_by_their_number() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let rows = RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::empty()), Vec::new(), &options).unwrap();
        let taken = Changes::inserts(rows, TimestampArray::from(vec![1, 2, 3])).take(&UInt32Array::from(vec![2, 0])).unwrap();
        assert_eq!((taken.len(), taken.times.values().as_ref()), (2, &[3, 1][..]));
    }

    #[test]
    fn equal_rows_count_as_often_as_they_occur() {
        assert_eq!(difference(&batch(&[("a", 1)]), &batch(&[("a", 1), ("a", 1)]), &[0, 1]).unwrap(), [(true, 1)]);
    }
}
