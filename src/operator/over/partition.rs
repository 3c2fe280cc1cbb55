//! The rows of one partition that functions still look at, by their number in it, and the frame that moves over them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, UInt64Array};
use arrow::datatypes::{Int64Type, UInt64Type};

use super::function::{Frame, Unit};
use super::log::{Position, RowLog};
use crate::error::Result;
use crate::operator::state::{self, Loader, Saver};

/// The retained rows of a partition, in order; the first row it ever had is number 0.
#[derive(Default)]
pub struct Partition {
    first: u64,
    /// The first row without an answer; those from it on wait for later ones.
    pub next: u64,
    rows: VecDeque<RowEntry>,
}

/// A row: where its values are, and its event time in nanoseconds.
#[derive(Clone, Copy)]
pub struct RowEntry {
    pub position: Position,
    pub time: i64,
}

/// A burst of a partition must not cost its memory for good: this much spare room may stay.
const SPARE_ROWS: usize = 16;

impl Partition {
    pub fn push(&mut self, entry: RowEntry) {
        self.rows.push_back(entry);
    }

    pub fn bytes(&self) -> usize {
        size_of::<Partition>() + self.rows.capacity() * size_of::<RowEntry>()
    }

    /// The number of the row that comes next.
    pub fn end(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// A row that is retained.
    pub fn get(&self, row: u64) -> RowEntry {
        self.rows[(row - self.first) as usize]
    }

    pub fn last(&self) -> Option<RowEntry> {
        self.rows.back().copied()
    }

    /// Drops the rows before `row`.
    pub fn trim(&mut self, row: u64) {
        self.rows.drain(..(row.clamp(self.first, self.end()) - self.first) as usize);
        self.first = self.first.max(row);
        if self.rows.capacity() > 4 * self.rows.len() + SPARE_ROWS {
            self.rows.shrink_to(2 * self.rows.len());
        }
    }

    /// The first row that is retained.
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn positions(&mut self) -> impl Iterator<Item = &mut Position> {
        self.rows.iter_mut().map(|entry| &mut entry.position)
    }
}

/// The frame of the partitions. A checkpoint knows it by this name, so it must never change.
const FRAME: &str = "tapes";

/// Saves all partitions.
pub fn save(partitions: &[Partition], state: &mut Saver) -> Result<()> {
    let number = |of: fn(&Partition) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(partitions.iter().map(of))) };
    let columns = [
        ("first", number(|partition| partition.first)),
        ("next", number(|partition| partition.next)),
        ("end", number(Partition::end)),
    ];
    state.put(FRAME, state::rows(columns, partitions.len())?);
    let entries = partitions.iter().flat_map(|partition| &partition.rows);
    let (positions, times): (Vec<Position>, Vec<i64>) = entries.map(|entry| (entry.position, entry.time)).unzip();
    let rows = positions.len();
    let (positions, times): (ArrayRef, ArrayRef) = (Arc::new(UInt64Array::from(positions)), Arc::new(Int64Array::from(times)));
    state.put("entries", state::rows([("position", positions), ("time", times)], rows)?);
    Ok(())
}

pub fn load(log: &RowLog, state: &mut Loader) -> Result<Vec<Partition>> {
    let mut saved = state.take("entries")?;
    let (positions, times) = (saved.numbers::<UInt64Type>("position")?, saved.numbers::<Int64Type>("time")?);
    if !positions.values().iter().all(|position| log.has(*position)) {
        return Err(saved.misfit("names a row that is not there"));
    }
    saved.end()?;
    let mut entries =
        positions.values().iter().zip(times.values()).map(|(position, time)| RowEntry { position: *position, time: *time });
    let mut saved = state.take(FRAME)?;
    let (firsts, nexts) = (saved.counts("first")?, saved.counts("next")?);
    let ends = saved.counts("end")?;
    let mut partitions = Vec::with_capacity(saved.len());
    for row in 0..saved.len() {
        let (first, next, end) = (firsts.value(row), nexts.value(row), ends.value(row));
        if !(first <= next && next <= end) {
            return Err(saved.misfit(format!("has a partition in row {row} that cannot be")));
        }
        let partition = Partition { first, next, rows: entries.by_ref().take((end - first) as usize).collect() };
        if partition.end() != end {
            return Err(saved.misfit("counts more rows than there are"));
        }
        partitions.push(partition);
    }
    saved.end()?;
    Ok(partitions)
}

/// The frame of one row as numbers of rows; it only moves forward.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    /// Advances to the frame of `row`, at most to the last row of the partition.
    pub fn advance(&mut self, frame: Frame, partition: &Partition, row: u64) {
        match frame.unit {
            Unit::Rows => {
                if let Some(start) = frame.start {
                    self.start = beside(row, start).min(partition.end());
                }
                self.end = beside(row + 1, frame.end).min(partition.end());
            }
            Unit::Time => {
                let time = partition.get(row).time;
                if let Some(start) = frame.start {
                    let from = time.saturating_add(start);
                    while self.start < partition.end() && partition.get(self.start).time < from {
                        self.start += 1;
                    }
                }
                let to = time.saturating_add(frame.end);
                while self.end < partition.end() && partition.get(self.end).time <= to {
                    self.end += 1;
                }
            }
        }
    }

    /// The first row that the frames of `next` and later rows still need, where this is the frame of the row before it.
    pub fn low(&self, frame: Frame, next: u64) -> u64 {
        match (frame.unit, frame.start) {
            (_, None) => self.end,
            (Unit::Rows, Some(start)) => beside(next, start),
            (Unit::Time, Some(_)) => self.start,
        }
    }

    pub fn rows(&self) -> u64 {
        self.end - self.start
    }

    /// Columns of a frame: the spans of partitions.
    pub fn columns(spans: impl Iterator<Item = Span> + Clone) -> [(&'static str, ArrayRef); 2] {
        let starts: ArrayRef = Arc::new(UInt64Array::from_iter_values(spans.clone().map(|span| span.start)));
        let ends: ArrayRef = Arc::new(UInt64Array::from_iter_values(spans.map(|span| span.end)));
        [("start", starts), ("end", ends)]
    }

    /// The spans in the next columns of a frame, a row each for the first of `partitions`.
    pub fn load(saved: &mut state::FrameReader, partitions: &[Partition]) -> Result<Vec<Span>> {
        let (starts, ends) = (saved.counts("start")?, saved.counts("end")?);
        let spans = starts.values().iter().zip(ends.values()).map(|(start, end)| Span { start: *start, end: *end });
        let spans: Vec<Span> = spans.collect();
        let fits = |(span, partition): (&Span, &Partition)| span.start <= span.end && span.end <= partition.end();
        if spans.len() > partitions.len() || !spans.iter().zip(partitions).all(fits) {
            return Err(saved.misfit("has frames of rows that are not there"));
        }
        Ok(spans)
    }
}

/// The row `offset` rows after `row`, or before it; held at the first.
fn beside(row: u64, offset: i64) -> u64 {
    row.saturating_add_signed(offset)
}

/// The rows that get their answer now: some of each partition, in its order.
pub struct Ready<'a> {
    pub log: &'a RowLog,
    pub partitions: &'a [Partition],
    pub turns: &'a [ReadyRows],
    /// Where in the output each of the rows stands, in the order of the turns.
    pub places: &'a [u32],
}

/// Rows of the partition `key`.
pub struct ReadyRows {
    pub key: usize,
    pub rows: Range<u64>,
}

impl Ready<'_> {
    /// The partition of each turn with its rows: (number, place in the output).
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Partition, impl Iterator<Item = (u64, usize)>)> {
        let mut places = self.places;
        self.turns.iter().map(move |turn| {
            let (here, rest) = places.split_at((turn.rows.end - turn.rows.start) as usize);
            places = rest;
            let rows = turn.rows.clone().zip(here.iter().map(|place| *place as usize));
            (turn.key, &self.partitions[turn.key], rows)
        })
    }
}
