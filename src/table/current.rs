//! The current rows of a keyed table: what events say about rows goes in, what has changed comes out. Pure: no I/O, no clock.

use std::collections::HashMap;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};

use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::format::Op;
use crate::operator::detached;
use crate::time::TimestampArray;

/// Most rows of a keyed table. At a few hundred bytes a row this is some gigabytes: a table beyond it fails rather than the machine.
pub const ROWS_MAX: usize = 10_000_000;

/// Below this many rows the replaced ones are not swept out: it would cost more than it frees. Tests see it happen.
const FEW_ROWS: usize = if cfg!(test) { 4 } else { 4096 };

/// Rows by their key.
///
/// Every row that came has a number. Rows lie in chunks in the order of their numbers; a replaced or deleted one stays until more than
/// half of all are such.
pub struct CurrentRows {
    schema: SchemaRef,
    key: Vec<usize>,
    converter: RowConverter,
    numbers: HashMap<Box<[u8]>, u32>,
    chunks: Vec<Chunk>,
    most: usize,
}

struct Chunk {
    /// The number of its first row.
    start: usize,
    rows: RecordBatch,
    times: TimestampArray,
}

impl Chunk {
    fn end(&self) -> usize {
        self.start + self.rows.num_rows()
    }
}

/// What events did to a table.
pub struct Applied {
    /// In order; an update is a pair, see [`Changes`].
    pub changes: Vec<Changes>,
    /// Deletes of rows that were not there.
    pub unmatched: u64,
}

/// The numbers of rows that go and come, in order.
#[derive(Default)]
struct Told {
    numbers: Vec<u32>,
    weights: Vec<i64>,
    /// Where a batch must end, for a row that goes stands before another that comes.
    cuts: Vec<usize>,
}

impl Told {
    fn gone(&mut self, number: u32) {
        self.numbers.push(number);
        self.weights.push(-1);
    }

    fn came(&mut self, number: u32) {
        if self.weights.last() == Some(&-1) {
            self.cuts.push(self.numbers.len());
        }
        self.numbers.push(number);
        self.weights.push(1);
    }

    fn updated(&mut self, old: u32, new: u32) {
        self.gone(old);
        self.numbers.push(new);
        self.weights.push(1);
    }
}

impl CurrentRows {
    /// No rows yet; `key` are the columns of `schema` that name a row.
    pub fn new(schema: SchemaRef, key: Vec<usize>) -> Result<Self> {
        let fields = key.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
        Ok(CurrentRows {
            converter: RowConverter::new(fields)?,
            schema,
            key,
            numbers: HashMap::new(),
            chunks: Vec::new(),
            most: ROWS_MAX,
        })
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Does what `ops` say, whose rows are `rows` with their event times and whose keys are the columns `keys`.
    pub fn apply(&mut self, ops: &[Op], rows: RecordBatch, times: TimestampArray, keys: &[ArrayRef]) -> Result<Applied> {
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|index| rows.column(*index).clone()).collect();
        let new_keys = self.converter.convert_columns(&key_columns)?;
        let old_keys = self.converter.convert_columns(keys)?;
        let first = self.chunks.last().map_or(0, Chunk::end) as u32;
        if rows.num_rows() > 0 {
            self.chunks.push(Chunk { start: first as usize, rows, times });
        }
        let mut told = Told::default();
        let mut unmatched = 0;
        for op in ops {
            match *op {
                Op::Upsert { row, old } => {
                    let key = bytes(&new_keys, row);
                    let moved = old.map(|old| bytes(&old_keys, old)).filter(|old| *old != key);
                    let moved = moved.and_then(|old| self.numbers.remove(old));
                    let number = first + row;
                    let replaced = match self.numbers.get_mut(key) {
                        Some(known) => Some(std::mem::replace(known, number)),
                        None => self.numbers.insert(key.into(), number),
                    };
                    match (moved, replaced) {
                        (Some(old), Some(other)) => {
                            told.gone(other);
                            told.updated(old, number);
                        }
                        (Some(old), None) | (None, Some(old)) => told.updated(old, number),
                        (None, None) => told.came(number),
                    }
                }
                Op::Remove { key } => match self.numbers.remove(bytes(&old_keys, key)) {
                    Some(number) => told.gone(number),
                    None => unmatched += 1,
                },
                Op::Clear => self.living().into_iter().for_each(|number| told.gone(number)),
            }
            if matches!(op, Op::Clear) {
                self.numbers.clear();
            }
        }
        let changes = self.tell(told)?;
        self.sweep()?;
        match self.len() > self.most {
            true => Err(Error::new(Code::Runtime, format!("the table has more than {} rows, which are all kept", self.most))
                .hint("keep a part of them: several tables over parts of the feed, or fewer rows from its server")),
            false => Ok(Applied { changes, unmatched }),
        }
    }

    /// All rows there are, as inserts in the order in which they came; `None` where there are none.
    pub fn all(&self) -> Result<Option<Changes>> {
        match self.is_empty() {
            true => Ok(None),
            false => self.rows(&self.living()).map(Some),
        }
    }

    fn living(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.numbers.values().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn tell(&self, told: Told) -> Result<Vec<Changes>> {
        if told.numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut changes = self.rows(&told.numbers)?;
        if told.weights.contains(&-1) {
            changes.weights = Some(Int64Array::from(told.weights));
        }
        let starts = std::iter::once(0).chain(told.cuts.iter().copied());
        let ends = told.cuts.iter().copied().chain([changes.len()]);
        Ok(starts.zip(ends).map(|(start, end)| changes.slice(start, end - start)).collect())
    }

    /// The rows of these numbers, as inserts; without a copy where they lie in a row.
    fn rows(&self, numbers: &[u32]) -> Result<Changes> {
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last())
            && (*last as usize).checked_sub(*first as usize) == Some(numbers.len() - 1)
            && numbers.windows(2).all(|two| two[0] < two[1])
            && let Some(chunk) = self.chunks.iter().rfind(|chunk| chunk.start <= *first as usize)
            && chunk.end() > *last as usize
        {
            let (offset, length) = (*first as usize - chunk.start, numbers.len());
            return Ok(Changes::inserts(chunk.rows.slice(offset, length), chunk.times.slice(offset, length)));
        }
        self.copied(numbers)
    }

    fn copied(&self, numbers: &[u32]) -> Result<Changes> {
        let places: Vec<(usize, usize)> = numbers
            .iter()
            .map(|number| {
                let chunk = self.chunks.partition_point(|chunk| chunk.start <= *number as usize) - 1;
                (chunk, *number as usize - self.chunks[chunk].start)
            })
            .collect();
        let batches: Vec<&RecordBatch> = self.chunks.iter().map(|chunk| &chunk.rows).collect();
        let times = places.iter().map(|(chunk, row)| self.chunks[*chunk].times.value(*row));
        Ok(Changes::inserts(interleave_record_batch(&batches, &places)?, TimestampArray::from_iter_values(times)))
    }

    /// Drops the rows that are no more, if they are many; else joins small chunks: each is less than half as long as the one before,
    /// so there are few, and each row is copied a few times at most.
    fn sweep(&mut self) -> Result<()> {
        let stored = self.chunks.last().map_or(0, Chunk::end);
        if stored > FEW_ROWS && stored > self.len() * 2 {
            let living = self.living();
            let kept = self.copied(&living)?;
            for number in self.numbers.values_mut() {
                *number = living.binary_search(number).expect("every number is among the living") as u32;
            }
            self.chunks.clear();
            if !kept.is_empty() {
                let rows = own(&self.schema, &kept.rows)?;
                self.chunks.push(Chunk { start: 0, rows, times: kept.times });
            }
            return Ok(());
        }
        while let [.., left, right] = self.chunks.as_slice()
            && right.rows.num_rows() * 2 >= left.rows.num_rows()
        {
            let rows = own(&self.schema, &concat_batches(&self.schema, [&left.rows, &right.rows])?)?;
            let times = left.times.values().iter().chain(right.times.values()).copied();
            let joined = Chunk { start: left.start, times: TimestampArray::from_iter_values(times), rows };
            self.chunks.truncate(self.chunks.len() - 2);
            self.chunks.push(joined);
        }
        Ok(())
    }
}

/// The same rows, with no bytes but their own.
fn own(schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(schema.clone(), rows.columns().iter().cloned().map(detached).collect())?)
}

fn bytes(keys: &Rows, row: u32) -> &[u8] {
    keys.row(row as usize).data()
}
