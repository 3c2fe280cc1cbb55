//! The rows of a view as they are now: an append-only view's latest results, or a changelog's rows that still stand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};

use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::format::encode::Change;
use crate::memory::{detached_rows, held_by};
use crate::time::TimestampArray;

/// Rows a changelog without an end of its own may keep standing: beyond that the view fails, as dropping a row would be wrong.
pub const STANDING_ROWS_MAX: usize = 4_000_000;

/// What a row of a changelog takes beside its bytes: two places in maps, the list of its places, and the allocations.
const ROW_BYTES: usize = 160;

/// What a batch takes beside its buffers, and what each of its columns does.
const BATCH_BYTES: usize = 128;
const COLUMN_BYTES: usize = 192;

/// The current rows of one view.
pub enum Rows {
    /// Nothing is ever taken back: the last `retention` rows, in the order they came.
    Appended {
        batches: VecDeque<RecordBatch>,
        len: usize,
        /// Memory of all batches.
        bytes: usize,
        retention: usize,
    },
    Standing(Standing),
}

/// Rows with deletes and updates among them, found by all their columns together.
pub struct Standing {
    converter: RowConverter,
    /// By their place in the order of the view. An updated row stays where it was.
    by_place: BTreeMap<u64, Arc<[u8]>>,
    places: HashMap<Arc<[u8]>, Vec<u64>>,
    next: u64,
    bytes: usize,
    /// The oldest rows go when there are more; `None` where each row stands until it is deleted.
    retention: Option<usize>,
}

impl Rows {
    /// For results that are never taken back.
    pub fn appended(retention: usize) -> Self {
        Rows::Appended { batches: VecDeque::new(), len: 0, bytes: 0, retention }
    }

    /// For a changelog. With `retention` the oldest rows leave quietly: the results of windows long closed.
    pub fn standing(schema: &SchemaRef, retention: Option<usize>) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(|error| {
            Error::new(Code::NotYet, format!("the rows of this view cannot be told apart: {error}"))
                .hint("cast columns of maps or unions to TEXT")
        })?;
        Ok(Rows::Standing(Standing {
            converter,
            by_place: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
            bytes: 0,
            retention,
        }))
    }

    pub fn apply(&mut self, changes: &Changes) -> Result<()> {
        match self {
            Rows::Appended { batches, len, bytes, retention } => {
                let rows = detached_rows(&changes.rows);
                *bytes += batch_bytes(&rows);
                batches.push_back(rows);
                *len += changes.len();
                while let Some(first) = batches.front()
                    && *len > *retention
                {
                    let surplus = (*len - *retention).min(first.num_rows());
                    *len -= surplus;
                    *bytes -= batch_bytes(first);
                    match surplus == first.num_rows() {
                        true => drop(batches.pop_front()),
                        false => {
                            let rest = detached_rows(&first.slice(surplus, first.num_rows() - surplus));
                            *bytes += batch_bytes(&rest);
                            batches[0] = rest;
                        }
                    }
                }
                Ok(())
            }
            Rows::Standing(standing) => standing.apply(changes),
        }
    }

    /// Lets the oldest rows go until the others hold no more than `most` bytes, or one batch, where they are only the latest ones. Whether
    /// any went.
    pub fn shorten(&mut self, most: usize) -> bool {
        let before = self.count();
        match self {
            Rows::Appended { batches, len, bytes, .. } => {
                while batches.len() > 1
                    && *bytes > most
                    && let Some(first) = batches.pop_front()
                {
                    *len -= first.num_rows();
                    *bytes -= batch_bytes(&first);
                }
            }
            Rows::Standing(standing) if standing.retention.is_some() => {
                while standing.bytes > most && standing.remove_oldest() {}
            }
            Rows::Standing(_) => {}
        }
        self.count() < before
    }

    /// The same without any rows.
    pub fn emptied(&self, schema: &SchemaRef) -> Result<Self> {
        match self {
            Rows::Appended { retention, .. } => Ok(Rows::appended(*retention)),
            Rows::Standing(standing) => Rows::standing(schema, standing.retention),
        }
    }

    /// Whether the rows are the latest changes and nothing else, so that they follow from those.
    pub fn are_appended(&self) -> bool {
        matches!(self, Rows::Appended { .. })
    }

    /// Takes rows that [`Rows::batch`] gave, where there are none yet.
    pub fn fill(&mut self, rows: RecordBatch) -> Result<()> {
        match rows.num_rows() {
            0 => Ok(()),
            // Their event times are not looked at.
            count => self.apply(&Changes::inserts(rows, TimestampArray::from_value(0, count))),
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Rows::Appended { len, .. } => *len,
            Rows::Standing(standing) => standing.by_place.len(),
        }
    }

    /// Memory of the rows.
    pub fn bytes(&self) -> usize {
        match self {
            Rows::Appended { bytes, .. } => *bytes,
            Rows::Standing(standing) => standing.bytes,
        }
    }

    /// All rows as one batch, the oldest first.
    pub fn batch(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        match self {
            Rows::Appended { batches, .. } => Ok(concat_batches(schema, batches)?),
            Rows::Standing(standing) => standing.batch(schema),
        }
    }
}

impl Standing {
    fn apply(&mut self, changes: &Changes) -> Result<()> {
        if changes.rows.num_columns() == 0 {
            return Err(Error::bug("a changelog without columns"));
        }
        let encoded = self.converter.convert_columns(changes.rows.columns())?;
        for change in Change::each(changes) {
            match change {
                Change::Added(row) => {
                    let place = self.next;
                    self.next += 1;
                    self.insert(place, encoded.row(row).as_ref());
                }
                Change::Deleted(row) => drop(self.remove(encoded.row(row).as_ref())),
                Change::Updated { before, after } => {
                    let place = self.remove(encoded.row(before).as_ref()).unwrap_or_else(|| {
                        self.next += 1;
                        self.next - 1
                    });
                    self.insert(place, encoded.row(after).as_ref());
                }
            }
        }
        while let Some(retention) = self.retention
            && self.by_place.len() > retention
            && self.remove_oldest()
        {}
        match self.by_place.len() > STANDING_ROWS_MAX {
            true => Err(Error::new(Code::Runtime, format!("the view holds more than {STANDING_ROWS_MAX} rows"))
                .hint("filter the table's rows, or split the view")),
            false => Ok(()),
        }
    }

    fn insert(&mut self, place: u64, row: &[u8]) {
        let row: Arc<[u8]> = row.into();
        self.bytes += row.len() + ROW_BYTES;
        self.by_place.insert(place, Arc::clone(&row));
        self.places.entry(row).or_default().push(place);
    }

    /// Whether there was one.
    fn remove_oldest(&mut self) -> bool {
        let oldest = self.by_place.first_key_value().map(|(_, row)| Arc::clone(row));
        oldest.is_some_and(|row| self.remove(&row).is_some())
    }

    /// Takes out the oldest of the rows equal to `row` and gives its place. A row that has left by retention is not there any more.
    fn remove(&mut self, row: &[u8]) -> Option<u64> {
        let places = self.places.get_mut(row)?;
        let oldest = places.iter().enumerate().min_by_key(|(_, place)| **place).map(|(index, _)| index)?;
        let place = places.swap_remove(oldest);
        if places.is_empty() {
            self.places.remove(row);
        }
        self.by_place.remove(&place);
        self.bytes -= row.len() + ROW_BYTES;
        Some(place)
    }

    fn batch(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let parser = self.converter.parser();
        let columns = self.converter.convert_rows(self.by_place.values().map(|row| parser.parse(row)))?;
        // Rows give back types, not the names and marks inside structs.
        let columns = columns.into_iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column),
            false => Ok(arrow::compute::cast(&column, field.data_type())?),
        });
        Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_>>()?)?)
    }
}

fn batch_bytes(rows: &RecordBatch) -> usize {
    BATCH_BYTES + rows.num_columns() * COLUMN_BYTES + held_by(rows)
}

/// The rows in another order.
pub fn arranged(rows: &RecordBatch, order: &UInt32Array) -> Result<RecordBatch> {
    Ok(take_record_batch(rows, order)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray, StructArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn changes(rows: &[(&str, i64, i64)]) -> Changes {
        let names: ArrayRef = Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row.0)));
        let inner: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let values: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(Field::new("of", DataType::Int64, true)), inner)]));
        Changes {
            rows: RecordBatch::try_from_iter([("name", names), ("value", values)]).unwrap(),
            times: TimestampArray::from_value(0, rows.len()),
            weights: Some(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
        }
    }

    fn told(rows: &Rows, schema: &SchemaRef) -> Vec<String> {
        let batch = rows.batch(schema).unwrap();
        (0..batch.num_rows()).map(|row| crate::operator::rows::text(&batch, row)).collect()
    }

    #[test]
    fn what_was_deleted_is_gone_and_what_was_updated_keeps_its_place() {
        let first = changes(&[("a", 1, 1), ("b", 2, 1), ("b", 2, 1), ("c", 3, 1)]);
        let schema = first.rows.schema();
        let mut rows = Rows::standing(&schema, None).unwrap();
        rows.apply(&first).unwrap();
        rows.apply(&changes(&[("a", 1, -1), ("a", 9, 1), ("c", 3, -1)])).unwrap();
        rows.apply(&changes(&[("b", 2, -1)])).unwrap();
        assert_eq!(told(&rows, &schema), ["name=a, value={of: 9}", "name=b, value={of: 2}"]);
        rows.apply(&changes(&[("a", 9, -1)])).unwrap();
        rows.apply(&changes(&[("b", 2, -1)])).unwrap();
        assert_eq!((rows.count(), rows.bytes()), (0, 0));
    }

    #[test]
    fn the_oldest_results_leave_by_retention_and_a_late_word_on_them_is_harmless() {
        let first = changes(&[("a", 1, 1), ("b", 2, 1), ("c", 3, 1)]);
        let schema = first.rows.schema();
        let mut rows = Rows::standing(&schema, Some(2)).unwrap();
        rows.apply(&first).unwrap();
        rows.apply(&changes(&[("a", 1, -1)])).unwrap();
        assert_eq!(told(&rows, &schema), ["name=b, value={of: 2}", "name=c, value={of: 3}"]);
        let mut rows = Rows::appended(4);
        for _ in 0..3 {
            rows.apply(&Changes::inserts(first.rows.clone(), first.times.clone())).unwrap();
        }
        let expect = ["c", "a", "b", "c"].map(|name| name.to_string());
        let names: Vec<String> = told(&rows, &schema).iter().map(|row| row[5..6].to_string()).collect();
        assert_eq!(names, expect);
    }
}
