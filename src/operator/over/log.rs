//! Rows kept for later ones to look back at: columns in chunks, each row found by a position that only grows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use arrow::compute::{concat, interleave};
use arrow::datatypes::{DataType, UInt64Type};
use datafusion::scalar::ScalarValue;

use crate::error::Result;
use crate::memory::{detached, held};
use crate::operator::state::{self, FrameVersion, Loader, Saver};

/// The number of a row in the log. Later rows have greater positions, also after a compaction.
pub type Position = u64;

/// No row: the default value stands in its place.
pub const NOWHERE: Position = Position::MAX;

/// Chunks below this size are merged, as one-row batches would otherwise make as many chunks as rows.
const MERGED_ROWS: usize = 4096;

/// Rows of a chunk that a compaction writes: small enough for 32-bit offsets of any text a row may hold on average (32 KiB).
const CHUNK_ROWS: usize = 65_536;

/// Dead rows that may stay before a compaction, beside as many as there are live ones.
const SLACK_ROWS: usize = 65_536;

/// Append-only columns. Who holds a position keeps its row; [`RowLog::compact`] drops the others, at a cost that the rows appended
/// since the last one pay for.
pub struct RowLog {
    chunks: Vec<LogChunk>,
    end: Position,
    rows: usize,
    /// Rows from which on a compaction pays.
    limit: usize,
}

struct LogChunk {
    start: Position,
    rows: usize,
    columns: Vec<ArrayRef>,
    kept: FrameVersion,
}

impl Default for RowLog {
    fn default() -> Self {
        RowLog { chunks: Vec::new(), end: 0, rows: 0, limit: SLACK_ROWS }
    }
}

impl RowLog {
    /// Appends `rows` rows and returns the position of the first; the others follow it.
    pub fn append(&mut self, mut columns: Vec<ArrayRef>, rows: usize) -> Result<Position> {
        let first = self.end;
        let mut chunk_rows = rows;
        let mut start = first;
        while let Some(last) = self.chunks.pop_if(|last| {
            last.rows <= chunk_rows && last.rows + chunk_rows <= MERGED_ROWS && last.start + last.rows as Position == start
        }) {
            let join = |(before, after): (&ArrayRef, &ArrayRef)| Ok(concat(&[before, after])?);
            columns = last.columns.iter().zip(&columns).map(join).collect::<Result<_>>()?;
            chunk_rows += last.rows;
            start = last.start;
        }
        // They may be a few rows of a large batch.
        let columns = columns.into_iter().map(detached).collect();
        self.chunks.push(LogChunk { start, rows: chunk_rows, columns, kept: FrameVersion::default() });
        self.end += rows as Position;
        self.rows += rows;
        Ok(first)
    }

    pub fn bytes(&self) -> usize {
        held(self.chunks.iter().flat_map(|chunk| &chunk.columns))
    }

    /// The values of `column` at `positions`, the default at [`NOWHERE`]; the log is not empty.
    pub fn gather(&self, column: usize, positions: &[Position], default: Option<&ScalarValue>) -> Result<ArrayRef> {
        let default = default.map(ScalarValue::to_array).transpose()?;
        let mut arrays: Vec<&dyn Array> = self.chunks.iter().map(|chunk| &*chunk.columns[column]).collect();
        arrays.extend(default.as_deref());
        let nowhere = (self.chunks.len(), 0);
        let mut near = 0;
        let indices: Vec<(usize, usize)> = positions
            .iter()
            .map(|position| match *position {
                NOWHERE => nowhere,
                position => {
                    near = self.chunk_of(position, near);
                    (near, (position - self.chunks[near].start) as usize)
                }
            })
            .collect();
        Ok(interleave(&arrays, &indices)?)
    }

    /// Whether the value of `column` at `position` is not NULL.
    pub fn is_valid(&self, column: usize, position: Position) -> bool {
        let (array, row) = self.at(column, position);
        array.is_valid(row)
    }

    /// Whether the boolean of `column` at `position` is true; NULL is not.
    pub fn is_true(&self, column: usize, position: Position) -> bool {
        let (array, row) = self.at(column, position);
        array.is_valid(row) && array.as_boolean().value(row)
    }

    /// Rows in memory, dead ones included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether so many rows came since the last compaction that it pays to look for the live ones.
    pub fn is_full(&self) -> bool {
        self.rows > self.limit
    }

    /// Keeps only the rows at `held`, which are all the positions that anyone holds, and writes the new positions into them.
    pub fn compact(&mut self, mut held: Vec<&mut Position>) -> Result<()> {
        held.sort_unstable_by_key(|position| **position);
        let mut live: Vec<Position> = held.iter().map(|position| **position).collect();
        live.dedup();
        let columns = self.chunks.first().map_or(0, |chunk| chunk.columns.len());
        let mut chunks = Vec::with_capacity(live.len().div_ceil(CHUNK_ROWS));
        for (number, part) in live.chunks(CHUNK_ROWS).enumerate() {
            let gather = |column| Ok(detached(self.gather(column, part, None)?));
            let columns = (0..columns).map(gather).collect::<Result<_>>()?;
            let start = self.end + (number * CHUNK_ROWS) as Position;
            chunks.push(LogChunk { start, rows: part.len(), columns, kept: FrameVersion::default() });
        }
        let mut next = 0;
        for position in held {
            next += live[next..].iter().take_while(|live| **live < *position).count();
            *position = self.end + next as Position;
        }
        self.end += live.len() as Position;
        self.rows = live.len();
        self.limit = 2 * live.len() + SLACK_ROWS;
        self.chunks = chunks;
        Ok(())
    }

    /// Whether there is a row at `position`.
    pub fn has(&self, position: Position) -> bool {
        let after = self.chunks.partition_point(|chunk| chunk.start <= position);
        after.checked_sub(1).is_some_and(|chunk| position - self.chunks[chunk].start < self.chunks[chunk].rows as Position)
    }

    /// Gives the chunks as they are, dead rows too: most of them stay as they are until the next compaction.
    pub fn save(&mut self, state: &mut Saver) -> Result<()> {
        for LogChunk { start, rows, columns, kept } in &mut self.chunks {
            let columns = columns.iter().map(|column| ("column", Arc::clone(column)));
            state.keep(format_args!("log/{start}"), kept, || state::rows(columns, *rows))?;
        }
        let limit: ArrayRef = Arc::new(UInt64Array::from_value(self.limit as u64, 1));
        state.put("log", state::rows([("limit", limit)], 1)?);
        Ok(())
    }

    /// `columns` are the types of the columns.
    pub fn load(&mut self, columns: &[DataType], state: &mut Loader) -> Result<()> {
        for (name, mut saved) in state.take_all("log/") {
            let columns = columns.iter().map(|data_type| saved.column("column", data_type)).collect::<Result<_>>()?;
            self.chunks.push(LogChunk {
                start: state::number(&name)?,
                rows: saved.len(),
                columns,
                kept: FrameVersion::default(),
            });
            self.rows += saved.len();
            saved.end()?;
        }
        self.chunks.sort_by_key(|chunk| chunk.start);
        let mut saved = state.take("log")?;
        self.limit = saved.number::<UInt64Type>("limit")? as usize;
        for chunk in &self.chunks {
            if chunk.start < self.end || chunk.start > NOWHERE / 2 {
                return Err(saved.misfit("stands beside rows in two places"));
            }
            self.end = chunk.start + chunk.rows as Position;
        }
        saved.end()
    }

    fn at(&self, column: usize, position: Position) -> (&ArrayRef, usize) {
        let chunk = &self.chunks[self.chunk_of(position, self.chunks.len() - 1)];
        (&chunk.columns[column], (position - chunk.start) as usize)
    }

    /// The chunk of a position that is in the log; `near` is a first guess.
    fn chunk_of(&self, position: Position, near: usize) -> usize {
        let guess = &self.chunks[near];
        match position.checked_sub(guess.start) {
            Some(row) if row < guess.rows as Position => near,
            _ => self.chunks.partition_point(|chunk| chunk.start <= position) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn log(batches: usize, rows: i64) -> RowLog {
        let mut log = RowLog::default();
        for batch in 0..batches as i64 {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(batch * rows..(batch + 1) * rows));
            assert_eq!(log.append(vec![column], rows as usize).unwrap(), (batch * rows) as Position);
        }
        log
    }

    fn values(log: &RowLog, positions: &[Position]) -> Vec<i64> {
        let array = log.gather(0, positions, Some(&ScalarValue::Int64(Some(-1)))).unwrap();
        array.as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn rows_are_found_by_position_however_they_came() {
        for (batches, rows) in [(1, 30), (30, 1), (3, 10)] {
            let log = log(batches, rows);
            assert_eq!(values(&log, &[29, 0, NOWHERE, 7]), [29, 0, -1, 7]);
        }
    }

    #[test]
    fn one_row_batches_do_not_make_as_many_chunks() {
        assert!(log(10_000, 1).chunks.len() < 24);
    }

    #[test]
    fn a_compaction_keeps_what_is_held_and_the_order() {
        let mut log = log(4, 10);
        let mut held: Vec<Position> = vec![25, 3, 3, 39];
        log.compact(held.iter_mut().collect()).unwrap();
        assert_eq!(log.rows(), 3);
        assert_eq!(values(&log, &held), [25, 3, 3, 39]);
        assert!(held[1] < held[0] && held[0] < held[3]);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![100]));
        let next = log.append(vec![column], 1).unwrap();
        assert_eq!(values(&log, &[next, held[0]]), [100, 25]);
    }

    #[test]
    fn a_log_of_nothing_can_be_compacted() {
        let mut log = log(2, 10);
        log.compact(Vec::new()).unwrap();
        assert_eq!(log.rows(), 0);
    }
}
