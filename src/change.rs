//! Rows with weights: what runs between operators and out of a view. An insert is `+1`, a delete `-1`, an update the pair.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, make_array, make_comparator,
};
use arrow::compute::{concat, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampNanosecondType};
use arrow::row::{RowConverter, Rows, SortField};

use crate::error::{Code, Error, Result};
use crate::memory::{detached, detached_rows, held};
use crate::time::{TimestampArray, UTC};

/// A batch of changes: `rows`, the event time of each in `times`, and how often each counts in `weights`.
///
/// All three have the same length. `weights` is `None` where every row counts `+1`: append-only streams pay for no column.
/// A `-1` directly followed by a `+1` is an update of one row; [`crate::operator`]s keep such pairs side by side. No pair reaches over
/// the end of a batch: where a row that goes would stand before another that comes, the batch is cut ([`Changes::select`]).
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

    /// Whether row `row` and the one after it are the old and the new version of one row.
    pub fn is_pair(&self, row: usize) -> bool {
        self.weights.is_some() && row + 1 < self.len() && self.weight(row) == -1 && self.weight(row + 1) == 1
    }

    /// The rows at `rows`, which ascend, in as few batches as keep pairs true: what was a pair still is if both halves are there, and
    /// nothing else becomes one.
    pub fn select(&self, rows: &UInt32Array) -> Result<Vec<Changes>> {
        Ok(self.cut(rows, self.take(rows)?))
    }

    /// As [`Changes::select`], where `selected` has been made of the rows at `rows` already. A row may occur more than once; then it
    /// is no half of a pair any more.
    pub fn cut(&self, rows: &UInt32Array, selected: Changes) -> Vec<Changes> {
        if selected.weights.is_none() {
            return vec![selected];
        }
        let rows = rows.values();
        let still_pair = |at: usize| {
            let once = |at: usize| (at == 0 || rows[at - 1] != rows[at]) && rows.get(at + 1) != Some(&rows[at]);
            rows[at + 1] == rows[at] + 1 && once(at) && once(at + 1)
        };
        let mut parts = Vec::new();
        let mut start = 0;
        for at in (0..selected.len()).filter(|at| selected.is_pair(*at)) {
            if !still_pair(at) {
                parts.push(selected.slice(start, at + 1 - start));
                start = at + 1;
            }
        }
        parts.push(selected.slice(start, selected.len() - start));
        parts
    }

    /// The same without the updates that change nothing in these columns.
    pub fn settle(self) -> Result<Vec<Changes>> {
        if self.weights.is_none() || !(0..self.len()).any(|row| self.is_pair(row)) {
            return Ok(vec![self]);
        }
        let same = same_as_next(&self.rows);
        let is_idle = |row: usize| self.is_pair(row) && same(row);
        let stays = |row: usize| !is_idle(row) && row.checked_sub(1).is_none_or(|before| !is_idle(before));
        let kept: Vec<u32> = (0..self.len()).filter(|row| stays(*row)).map(|row| row as u32).collect();
        match kept.len() == self.len() {
            true => Ok(vec![self]),
            false => self.select(&UInt32Array::from(kept)),
        }
    }

    /// The same with no more in memory than its own rows, for those who keep it: see [`detached`].
    pub fn detached(self) -> Changes {
        let times = times_of(&detached(Arc::new(self.times)));
        let weights = self.weights.map(|weights| weights_of(&detached(Arc::new(weights))));
        Changes { rows: detached_rows(&self.rows), times, weights }
    }

    /// Memory that it keeps from being free, see [`held`].
    pub fn bytes(&self) -> usize {
        let weights = self.weights.iter().map(|weights| Arc::new(weights.clone()) as ArrayRef);
        let own: Vec<ArrayRef> = weights.chain([Arc::new(self.times.clone()) as ArrayRef]).collect();
        held(self.rows.columns().iter().chain(&own))
    }

    /// `length` rows from `offset` on, without a copy.
    pub fn slice(&self, offset: usize, length: usize) -> Changes {
        Changes {
            rows: self.rows.slice(offset, length),
            times: self.times.slice(offset, length),
            weights: self.weights.as_ref().map(|weights| weights.slice(offset, length)),
        }
    }

    /// The first `most` changes, and how many they are. An update is one; a row of weight `n` counts once: such rows are rare and stay
    /// together.
    pub fn first(&self, most: u64) -> (Changes, u64) {
        let (mut rows, mut count) = (0, 0);
        while rows < self.len() && count < most {
            let is_update = self.weight(rows) == -1 && rows + 1 < self.len() && self.weight(rows + 1) == 1;
            rows += if is_update { 2 } else { 1 };
            count += 1;
        }
        (self.slice(0, rows), count)
    }

    /// All of it as one batch, as it is kept: the rows' columns, which are told by their place, then times and weights.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        let weights = self.weights.clone().unwrap_or_else(|| Int64Array::new_null(self.len()));
        let kept: [ArrayRef; 2] = [Arc::new(self.times.clone()), Arc::new(weights)];
        let columns: Vec<ArrayRef> = self.rows.columns().iter().cloned().chain(kept).collect();
        let field = |(at, column): (usize, &ArrayRef)| Field::new(at.to_string(), column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>());
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }

    /// Reads what [`Changes::to_batch`] gave for rows of this schema.
    pub fn from_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<Changes> {
        let wrong = || Error::new(Code::Data, "kept rows are not those of this table or view");
        let mut columns = batch.columns().to_vec();
        let weights = columns.pop().ok_or_else(wrong)?.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?.clone();
        let times = columns.pop().ok_or_else(wrong)?;
        let times = times.as_primitive_opt::<TimestampNanosecondType>().ok_or_else(wrong)?.clone();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        if columns.len() != schema.fields().len() {
            return Err(wrong());
        }
        let columns = columns.iter().zip(schema.fields()).map(|(column, field)| adopted(column, field.data_type()));
        let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|_| wrong())?;
        let is_one = weights.iter().all(|weight| weight.unwrap_or(1) == 1);
        let weights = match weights.null_count() {
            _ if is_one => None,
            0 => Some(weights),
            _ => return Err(wrong()),
        };
        Ok(Changes { rows, times, weights })
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

/// Whether a row has the same values as the one after it. Columns of a type that cannot be compared count as different.
fn same_as_next(rows: &RecordBatch) -> impl Fn(usize) -> bool + use<> {
    let options = arrow::compute::SortOptions::default();
    let comparators: Option<Vec<_>> = rows.columns().iter().map(|column| make_comparator(column, column, options).ok()).collect();
    move |row: usize| comparators.as_ref().is_some_and(|all| all.iter().all(|compare| compare(row, row + 1) == Ordering::Equal))
}

/// The rows that are left when all changes are made: each as often as its weights sum up to, in the order of its first coming.
pub fn accumulate(changes: &[Changes]) -> Result<Option<RecordBatch>> {
    let Some(first) = changes.first() else { return Ok(None) };
    let all = Changes::concat(changes)?;
    let columns: Vec<usize> = (0..first.rows.num_columns()).collect();
    let encoded = Encoded::new(&all.rows, &all.rows.slice(0, 0), &columns)?;
    let mut sums: HashMap<&[u8], (u32, i64)> = HashMap::new();
    for row in 0..all.len() as u32 {
        let weight = all.weight(row as usize);
        sums.entry(encoded.before(row)).and_modify(|(_, sum)| *sum += weight).or_insert((row, weight));
    }
    let mut left: Vec<(u32, i64)> = sums.into_values().filter(|(_, sum)| *sum > 0).collect();
    left.sort_unstable();
    let rows = left.into_iter().flat_map(|(row, sum)| (0..sum).map(move |_| row));
    Ok(Some(all.take(&UInt32Array::from_iter_values(rows))?.rows))
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

/// A column that was kept, as the type that is asked for now. Earlier versions kept instants without their zone, at any depth: they are
/// the same numbers. `None` where the types differ in anything else.
pub fn adopted(column: &ArrayRef, wanted: &DataType) -> Option<ArrayRef> {
    match column.data_type() == wanted {
        true => Some(Arc::clone(column)),
        false => zoned(column.to_data(), wanted).map(make_array),
    }
}

fn zoned(data: ArrayData, wanted: &DataType) -> Option<ArrayData> {
    let parts: Vec<&DataType> = match (data.data_type(), wanted) {
        (kept, wanted) if kept == wanted => return Some(data),
        (DataType::Timestamp(kept, None), DataType::Timestamp(unit, Some(zone))) if kept == unit && zone.as_ref() == UTC => {
            vec![]
        }
        (DataType::Struct(_), DataType::Struct(fields)) => fields.iter().map(|field| field.data_type()).collect(),
        (DataType::List(_), DataType::List(item))
        | (DataType::LargeList(_), DataType::LargeList(item))
        | (DataType::FixedSizeList(_, _), DataType::FixedSizeList(item, _))
        | (DataType::Map(_, _), DataType::Map(item, _)) => vec![item.data_type()],
        _ => return None,
    };
    if parts.len() != data.child_data().len() {
        return None;
    }
    let children = data.child_data().iter().cloned().zip(parts).map(|(child, part)| zoned(child, part));
    let children = children.collect::<Option<Vec<_>>>()?;
    data.into_builder().data_type(wanted.clone()).child_data(children).build().ok()
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

    use arrow::array::{ArrayRef, StringArray, StructArray};
    use arrow::datatypes::TimeUnit;

    use super::*;
    use crate::time::instant_ns;

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        RecordBatch::try_from_iter([("key", keys), ("value", values)]).unwrap()
    }

    #[test]
    fn instants_that_were_kept_without_their_zone_are_the_same_instants() {
        let times: ArrayRef = Arc::new(TimestampArray::from(vec![Some(1), None, Some(-3)]));
        let local = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, None), true);
        let window = StructArray::try_new(vec![local("start"), local("end")].into(), vec![times.clone(), times.clone()], None);
        let window: ArrayRef = Arc::new(window.unwrap());
        let instant = |name: &str| Field::new(name, instant_ns(), true);
        let wanted = DataType::Struct(vec![instant("start"), instant("end")].into());
        let adopted_window = adopted(&window, &wanted).unwrap();
        assert_eq!(adopted_window.data_type(), &wanted);
        let ends = adopted_window.as_struct().column(1).as_primitive::<TimestampNanosecondType>();
        assert_eq!(ends.iter().collect::<Vec<_>>(), [Some(1), None, Some(-3)]);
        assert_eq!(adopted(&times, &DataType::Int64), None, "another type is another column");
        let back = adopted(&times, &instant_ns()).unwrap();
        assert_eq!(adopted(&back, times.data_type()), None, "what is no instant any more is another column");
        // Rows and changes are read so.
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("window", wanted, false), instant("at")]));
        let kept = RecordBatch::try_from_iter([("window", window), ("at", times)]).unwrap();
        let kept = Changes::inserts(kept, TimestampArray::from_value(7, 3)).to_batch().unwrap();
        let read = Changes::from_batch(&kept, &schema).unwrap();
        assert_eq!((read.rows.schema(), read.len(), read.times.value(2)), (schema, 3, 7));
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

    /// Changes of weight and row.
    fn changes(rows: &[(i64, &str, i64)]) -> Changes {
        let batch = batch(&rows.iter().map(|(_, key, value)| (*key, *value)).collect::<Vec<_>>());
        let times = TimestampArray::from_value(0, rows.len());
        Changes { weights: Some(Int64Array::from_iter_values(rows.iter().map(|row| row.0))), ..Changes::inserts(batch, times) }
    }

    /// The batches as text: `-a1` goes, `+a2` comes, and what is a pair stands without a blank between.
    fn show(parts: &[Changes]) -> String {
        let row = |part: &Changes, row: usize| {
            let sign = if part.weight(row) < 0 { '-' } else { '+' };
            let key = part.rows.column(0).as_any().downcast_ref::<StringArray>().unwrap().value(row).to_string();
            let value = part.rows.column(1).as_any().downcast_ref::<Int64Array>().unwrap().value(row);
            let joint = if part.is_pair(row) || row + 1 == part.len() { "" } else { " " };
            format!("{sign}{key}{value}{joint}")
        };
        let parts = parts.iter().map(|part| (0..part.len()).map(|at| row(part, at)).collect::<String>());
        parts.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn a_pair_stays_one_and_no_other_two_rows_become_one() {
        let all = changes(&[(-1, "a", 1), (1, "a", 2), (-1, "b", 1), (1, "b", 2), (1, "c", 1)]);
        let select = |rows: &[u32]| show(&all.select(&UInt32Array::from(rows.to_vec())).unwrap());
        assert_eq!(select(&[0, 1, 2, 3, 4]), "-a1+a2 -b1+b2 +c1");
        // a goes and b comes: two batches, for they are no update of one row.
        assert_eq!(select(&[0, 3]), "-a1 | +b2");
        assert_eq!(select(&[1, 2, 4]), "+a2 -b1 | +c1");
        assert_eq!(select(&[0, 2, 3]), "-a1 -b1+b2");
        // Each half has joined with two rows: which of the new ones is which old one?
        assert_eq!(select(&[0, 0, 1, 1]), "-a1 -a1 | +a2 +a2");
        assert_eq!(select(&[0, 1, 1]), "-a1 | +a2 +a2");
    }

    #[test]
    fn an_update_that_changes_nothing_is_none() {
        let settle = |rows: &[(i64, &str, i64)]| show(&changes(rows).settle().unwrap());
        assert_eq!(settle(&[(-1, "a", 1), (1, "a", 1), (-1, "b", 1), (1, "b", 2)]), "-b1+b2");
        assert_eq!(settle(&[(-1, "a", 1), (-1, "b", 1), (1, "b", 1), (1, "c", 1)]), "-a1 | +c1");
        assert_eq!(settle(&[(-1, "a", 1), (1, "a", 1)]), "");
        assert_eq!(settle(&[(1, "a", 1), (-1, "a", 1)]), "+a1 -a1");
    }

    #[test]
    fn what_is_left_is_what_came_more_often_than_it_went() {
        let parts = [changes(&[(1, "a", 1), (1, "b", 1)]), changes(&[(-1, "a", 1), (1, "a", 2), (1, "b", 1)])];
        let left = accumulate(&parts).unwrap().unwrap();
        assert_eq!(left, batch(&[("b", 1), ("b", 1), ("a", 2)]));
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
