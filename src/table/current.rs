//! The current rows of a keyed table: what events say about rows goes in, what has changed comes out. Pure: no I/O, no clock.

use std::collections::HashMap;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};

use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::format::Op;
use crate::memory::{detached_rows, held};
use crate::time::TimestampArray;

/// Most rows of a keyed table. At a few hundred bytes a row this is some gigabytes: a table beyond it fails rather than the machine.
pub const ROWS_MAX: usize = 10_000_000;

/// Below this many rows the replaced ones are not swept out: it would cost more than it frees. Tests see it happen.
const FEW_ROWS: usize = if cfg!(test) { 4 } else { 4096 };

/// The same for their memory: wide rows are swept out before they are many.
const FEW_BYTES: usize = 8 << 20;

/// What a key takes beside its bytes: its place in the map, and the allocation.
const KEY_BYTES: usize = 48;

/// Rows by their key.
///
/// Every row that came has a number. Rows lie in chunks in the order of their numbers; a replaced or deleted one stays until more than
/// half of all are such, or take more than half of the memory.
pub struct CurrentRows {
    schema: SchemaRef,
    key: Vec<usize>,
    converter: RowConverter,
    numbers: HashMap<Box<[u8]>, u32>,
    key_bytes: usize,
    chunks: Vec<RowChunk>,
    /// Memory of the chunks when all of their rows were last known to be there.
    swept: usize,
    most: usize,
}

struct RowChunk {
    /// The number of its first row.
    start: usize,
    rows: RecordBatch,
    times: TimestampArray,
    /// Memory of both.
    bytes: usize,
}

impl RowChunk {
    /// Rows without any bytes but their own.
    fn new(start: usize, rows: &RecordBatch, times: TimestampArray) -> Self {
        let rows = detached_rows(rows);
        let bytes = held(rows.columns()) + times.len() * size_of::<i64>();
        RowChunk { start, rows, times, bytes }
    }

    fn end(&self) -> usize {
        self.start + self.rows.num_rows()
    }
}

/// What events did to a table.
pub struct AppliedChanges {
    /// In order; an update is a pair, see [`Changes`].
    pub changes: Vec<Changes>,
    /// Deletes of rows that were not there.
    pub unmatched: u64,
    /// The first operation that was not done, and why; none behind it was.
    pub failure: Option<(usize, Error)>,
}

/// The numbers of rows that go and come, in order.
#[derive(Default)]
struct RowMoves {
    numbers: Vec<u32>,
    weights: Vec<i64>,
    /// Where a batch must end, for a row that goes stands before another that comes.
    cuts: Vec<usize>,
}

impl RowMoves {
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
            key_bytes: 0,
            chunks: Vec::new(),
            swept: 0,
            most: ROWS_MAX,
        })
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Does what `ops` say, whose rows are `rows` with their event times and whose keys are the columns `keys`; up to the one that
    /// would make too many rows.
    pub fn apply(&mut self, ops: &[Op], rows: RecordBatch, times: TimestampArray, keys: &[ArrayRef]) -> Result<AppliedChanges> {
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|index| rows.column(*index).clone()).collect();
        let new_keys = self.converter.convert_columns(&key_columns)?;
        let old_keys = self.converter.convert_columns(keys)?;
        let first = self.chunks.last().map_or(0, RowChunk::end) as u32;
        if rows.num_rows() > 0 {
            self.chunks.push(RowChunk::new(first as usize, &rows, times));
        }
        let mut told = RowMoves::default();
        let (mut unmatched, mut failure) = (0, None);
        for (at, op) in ops.iter().enumerate() {
            // Before it is too late, so that who reads knows of every row there is.
            if self.len() >= self.most && self.adds(op, &new_keys, &old_keys) {
                let error =
                    Error::new(Code::Runtime, format!("the table would have more than {} rows, which are all kept", self.most));
                let way_out = "keep a part of them: several tables over parts of the feed, or fewer rows from its server";
                failure = Some((at, error.hint(way_out)));
                break;
            }
            match *op {
                Op::Upsert { row, old } => {
                    let key = bytes(&new_keys, row);
                    let moved = old.map(|old| bytes(&old_keys, old)).filter(|old| *old != key);
                    let moved = moved.and_then(|old| self.remove(old));
                    let number = first + row;
                    let replaced = match self.numbers.get_mut(key) {
                        Some(known) => Some(std::mem::replace(known, number)),
                        None => {
                            self.key_bytes += key.len() + KEY_BYTES;
                            self.numbers.insert(key.into(), number)
                        }
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
                Op::Remove { key } => match self.remove(bytes(&old_keys, key)) {
                    Some(number) => told.gone(number),
                    None => unmatched += 1,
                },
                Op::Clear => self.living().into_iter().for_each(|number| told.gone(number)),
            }
            if matches!(op, Op::Clear) {
                self.numbers.clear();
                self.key_bytes = 0;
            }
        }
        let changes = self.tell(told)?;
        self.sweep()?;
        Ok(AppliedChanges { changes, unmatched, failure })
    }

    fn remove(&mut self, key: &[u8]) -> Option<u32> {
        let number = self.numbers.remove(key)?;
        self.key_bytes -= key.len() + KEY_BYTES;
        Some(number)
    }

    /// Whether there is a row more after `op`.
    fn adds(&self, op: &Op, new_keys: &Rows, old_keys: &Rows) -> bool {
        match *op {
            Op::Upsert { row, old } => {
                let is_there = |key: &[u8]| self.numbers.contains_key(key);
                !is_there(bytes(new_keys, row)) && !old.is_some_and(|old| is_there(bytes(old_keys, old)))
            }
            Op::Remove { .. } | Op::Clear => false,
        }
    }

    /// Takes rows that [`CurrentRows::all`] gave, where there are none yet.
    pub fn fill(&mut self, rows: Changes) -> Result<()> {
        let key_columns: Vec<ArrayRef> = self.key.iter().map(|index| rows.rows.column(*index).clone()).collect();
        let keys = self.converter.convert_columns(&key_columns)?;
        self.numbers = (0..rows.len() as u32).map(|row| (bytes(&keys, row).into(), row)).collect();
        self.chunks = vec![RowChunk::new(0, &rows.rows, rows.times)];
        self.swept = self.chunk_bytes();
        self.key_bytes = self.numbers.keys().map(|key| key.len() + KEY_BYTES).sum();
        Ok(())
    }

    /// All rows there are, as inserts in the order in which they came; `None` where there are none.
    pub fn all(&self) -> Result<Option<Changes>> {
        match self.is_empty() {
            true => Ok(None),
            false => self.rows(&self.living()).map(Some),
        }
    }

    /// Memory of all rows, those included that are no more and have not been swept out.
    pub fn bytes(&self) -> usize {
        self.chunk_bytes() + self.key_bytes
    }

    fn chunk_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    fn living(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.numbers.values().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn tell(&self, told: RowMoves) -> Result<Vec<Changes>> {
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
        let stored = self.chunks.last().map_or(0, RowChunk::end);
        let bytes = self.chunk_bytes();
        let (few, wide) = (stored <= FEW_ROWS && bytes <= FEW_BYTES, bytes > 2 * self.swept + FEW_BYTES);
        if !few && stored > self.len() * 2 || wide && stored > self.len() {
            let living = self.living();
            let kept = self.copied(&living)?;
            for number in self.numbers.values_mut() {
                *number = living.binary_search(number).expect("every number is among the living") as u32;
            }
            self.chunks.clear();
            if !kept.is_empty() {
                self.chunks.push(RowChunk::new(0, &kept.rows, kept.times));
            }
            self.swept = self.chunk_bytes();
            return Ok(());
        }
        while let [.., left, right] = self.chunks.as_slice()
            && right.rows.num_rows() * 2 >= left.rows.num_rows()
        {
            let rows = concat_batches(&self.schema, [&left.rows, &right.rows])?;
            let times = left.times.values().iter().chain(right.times.values()).copied();
            let joined = RowChunk::new(left.start, &rows, TimestampArray::from_iter_values(times));
            self.chunks.truncate(self.chunks.len() - 2);
            self.chunks.push(joined);
        }
        Ok(())
    }
}

fn bytes(keys: &Rows, row: u32) -> &[u8] {
    keys.row(row as usize).data()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::Arc;

    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::logical_expr::Operator as Compare;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use proptest::prelude::*;

    use super::*;
    use crate::change::accumulate;
    use crate::operator::{Filter, Message, Operator, Project};

    /// What is told of a row: id, value, and the id it had before.
    #[derive(Debug, Clone)]
    enum Said {
        Is(i64, i64, Option<i64>),
        Gone(i64),
        Clear,
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("value", DataType::Int64, true),
        ]))
    }

    fn current(most: usize) -> CurrentRows {
        CurrentRows { most, ..CurrentRows::new(schema(), vec![0]).unwrap() }
    }

    fn apply(current: &mut CurrentRows, said: &[Said]) -> Result<AppliedChanges> {
        let (mut ops, mut rows, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        let mut key = |id: i64| {
            keys.push(id);
            keys.len() as u32 - 1
        };
        for said in said {
            ops.push(match said {
                Said::Is(id, value, old) => {
                    rows.push((*id, *value));
                    Op::Upsert { row: rows.len() as u32 - 1, old: old.map(&mut key) }
                }
                Said::Gone(id) => Op::Remove { key: key(*id) },
                Said::Clear => Op::Clear,
            });
        }
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("v{}", row.1 / 2))));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let times = TimestampArray::from_iter_values(rows.iter().map(|row| row.1));
        let rows = RecordBatch::try_new(schema(), vec![ids, texts, values]).unwrap();
        current.apply(&ops, rows, times, &[Arc::new(Int64Array::from(keys))])
    }

    /// Batches as `-1:10+1:11`: sign, id and value; what is a pair stands without a blank between.
    fn show(parts: &[Changes]) -> String {
        let parts = parts.iter().map(|part| {
            let (ids, values) =
                (part.rows.column(0).as_primitive::<Int64Type>(), part.rows.column(2).as_primitive::<Int64Type>());
            let row = |row: usize| {
                assert_eq!(part.times.value(row), values.value(row));
                let sign = if part.weight(row) < 0 { '-' } else { '+' };
                let joint = if part.is_pair(row) || row + 1 == part.len() { "" } else { " " };
                format!("{sign}{}:{}{joint}", ids.value(row), values.value(row))
            };
            (0..part.len()).map(row).collect::<String>()
        });
        parts.collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn rows_come_change_and_go_by_their_key() {
        let mut rows = current(100);
        for (said, expect) in [
            (vec![Said::Is(1, 10, None), Said::Is(2, 20, None), Said::Is(1, 11, None)], "+1:10 +2:20 -1:10+1:11"),
            // A delete and an insert of another row are no update, however close they come.
            (vec![Said::Gone(2), Said::Is(3, 30, None), Said::Gone(9), Said::Gone(1)], "-2:20 | +3:30 -1:11"),
            // The key has changed: one row still. Where the new key is taken, that row goes.
            (
                vec![Said::Is(4, 31, Some(3)), Said::Is(5, 50, None), Said::Is(5, 32, Some(4))],
                "-3:30+4:31 +5:50 -5:50 -4:31+5:32",
            ),
            (vec![Said::Is(6, 60, Some(7)), Said::Is(6, 61, Some(6))], "+6:60 -6:60+6:61"),
            (vec![Said::Clear, Said::Is(6, 62, None)], "-5:32 -6:61 | +6:62"),
            (vec![Said::Gone(5)], ""),
        ] {
            assert_eq!(show(&apply(&mut rows, &said).unwrap().changes), expect, "{said:?}");
        }
        assert_eq!(show(&[rows.all().unwrap().unwrap()]), "+6:62");
        assert_eq!(apply(&mut rows, &[Said::Gone(5), Said::Gone(6)]).unwrap().unmatched, 1);
        assert!(rows.all().unwrap().is_none());
    }

    #[test]
    fn too_many_rows_are_an_error_and_replaced_ones_do_not_count() {
        let mut rows = current(3);
        for round in 0..50 {
            apply(&mut rows, &[Said::Is(1, round, None), Said::Is(2, round, None), Said::Is(3, round, None)]).unwrap();
            assert!(rows.chunks.len() <= 3 && rows.chunks.iter().map(|chunk| chunk.rows.num_rows()).sum::<usize>() <= 12);
        }
        let said = [Said::Is(1, 99, None), Said::Is(4, 5, Some(2)), Said::Is(5, 1, None), Said::Gone(1)];
        let applied = apply(&mut rows, &said).unwrap();
        assert_eq!(show(&applied.changes), "-1:49+1:99 -2:49+4:5");
        let (at, error) = applied.failure.unwrap();
        assert_eq!((at, error.message()), (2, "the table would have more than 3 rows, which are all kept"));
        assert_eq!(show(&[rows.all().unwrap().unwrap()]), "+3:49 +1:99 +4:5");
    }

    fn said() -> impl Strategy<Value = Vec<Vec<Said>>> {
        let id = || 0..7_i64;
        let said = prop_oneof![
            8 => (id(), 0..12_i64).prop_map(|(id, value)| Said::Is(id, value, None)),
            2 => (id(), 0..12_i64, id()).prop_map(|(id, value, old)| Said::Is(id, value, Some(old))),
            4 => id().prop_map(Said::Gone),
            1 => Just(Said::Clear),
        ];
        proptest::collection::vec(proptest::collection::vec(said, 0..8), 0..12)
    }

    /// The rows as text, in order.
    fn lines(rows: Option<RecordBatch>) -> Vec<String> {
        let Some(rows) = rows else { return Vec::new() };
        let mut lines: Vec<String> = (0..rows.num_rows()).map(|row| crate::operator::rows::text(&rows, row)).collect();
        lines.sort_unstable();
        lines
    }

    proptest! {
        #[test]
        fn changes_through_a_filter_and_a_projection_add_up_to_the_rows_that_are_left(said in said(), joins in 0..12_usize) {
            let mut rows = current(100);
            let mut model: BTreeMap<i64, i64> = BTreeMap::new();
            let holds = binary(col("value", &schema()).unwrap(), Compare::Gt, lit(4_i64), &schema()).unwrap();
            let mut filter = Filter::new(holds);
            let text = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]));
            let mut project = Project::new(vec![col("text", &schema()).unwrap()], text).unwrap();
            let (mut all, mut out, mut later) = (Vec::new(), Vec::new(), Vec::new());
            let mut moved = HashSet::new();
            for (at, said) in said.iter().enumerate() {
                if at == joins {
                    later.extend(rows.all().unwrap());
                }
                for said in said {
                    match said {
                        Said::Is(id, value, old) => {
                            if let Some(old) = old {
                                model.remove(old);
                                moved.insert((*old, *id));
                            }
                            model.insert(*id, *value);
                        }
                        Said::Gone(id) => drop(model.remove(id)),
                        Said::Clear => model.clear(),
                    }
                }
                for part in apply(&mut rows, said).unwrap().changes {
                    if at >= joins {
                        later.push(part.clone());
                    }
                    all.push(part.clone());
                    let mut kept = Vec::new();
                    filter.push(0, Message::Changes(part), &mut kept).unwrap();
                    for message in kept {
                        project.push(0, message, &mut out).unwrap();
                    }
                }
            }
            let out: Vec<Changes> = out.into_iter().map(|message| match message {
                Message::Changes(changes) => changes,
                _ => unreachable!("only changes went in"),
            }).collect();
            let whole: Vec<String> = model.iter().map(|(id, value)| format!("id={id}, text=v{}, value={value}", value / 2)).collect();
            let mut filtered: Vec<String> = model.values().filter(|value| **value > 4).map(|value| format!("text=v{}", value / 2)).collect();
            filtered.sort_unstable();
            prop_assert_eq!(lines(rows.all().unwrap().map(|all| all.rows)), whole.clone());
            prop_assert_eq!(lines(accumulate(&all).unwrap()), whole.clone());
            prop_assert_eq!(lines(accumulate(&out).unwrap()), filtered);
            if joins < said.len() {
                prop_assert_eq!(lines(accumulate(&later).unwrap()), whole);
            }
            // An update is of one row, and changes something.
            for part in &all {
                let ids = part.rows.column(0).as_primitive::<Int64Type>();
                for row in (0..part.len()).filter(|row| part.is_pair(*row)) {
                    let (old, new) = (ids.value(row), ids.value(row + 1));
                    prop_assert!(old == new || moved.contains(&(old, new)), "{} -> {}", old, new);
                }
            }
            for part in &out {
                let texts = part.rows.column(0).as_string::<i32>();
                for row in (0..part.len()).filter(|row| part.is_pair(*row)) {
                    prop_assert_ne!(texts.value(row), texts.value(row + 1));
                }
            }
        }
    }

    #[test]
    fn wide_rows_that_are_no_more_are_let_go_before_they_are_many() {
        let wide = |ids: std::ops::Range<i64>, letters: usize| {
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(ids.clone().map(|_| "x".repeat(letters))));
            let times = TimestampArray::from_value(0, texts.len());
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
            let rows = RecordBatch::try_new(schema(), vec![ids.clone(), texts, ids.clone()]).unwrap();
            (rows, times)
        };
        let mut current = CurrentRows::new(schema(), vec![0]).unwrap();
        let none: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
        let put = |current: &mut CurrentRows, ids: std::ops::Range<i64>, letters: usize| {
            let (rows, times) = wide(ids.clone(), letters);
            let ops: Vec<Op> = (0..rows.num_rows() as u32).map(|row| Op::Upsert { row, old: None }).collect();
            current.apply(&ops, rows, times, std::slice::from_ref(&none)).unwrap();
        };
        // Ten rows of 100 KB, each told again and again.
        for _ in 0..100 {
            put(&mut current, 0..10, 100_000);
        }
        assert!((1_000_000..12_000_000).contains(&current.bytes()), "{}", current.bytes());
        // A thousand small rows beside them, and the large ones become small as well.
        put(&mut current, 10..1_000, 10);
        for _ in 0..20 {
            put(&mut current, 0..10, 400_000);
        }
        assert!((4_000_000..24_000_000).contains(&current.bytes()), "{}", current.bytes());
        assert_eq!(current.len(), 1_000);
    }
}
