//! What a function of one row of the frame, or of the row's number, answers: ROW_NUMBER, RANK, DENSE_RANK, LAG, FIRST_VALUE and their kin.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, UInt64Array};
use arrow::datatypes::{Int64Type, UInt64Type};

use super::function::{Frame, FrameValue, NthRow, Unit};
use super::log::{NOWHERE, Position, RowLog};
use super::partition::{Partition, Ready, Span};
use crate::error::Result;
use crate::function::LostGroup;
use crate::operator::state::{self, Loader, Saver};

/// A function with its state for every partition.
pub trait WindowFunction: Send {
    /// The values for the rows whose turn it is, at their places. The turns of a partition come in order and leave no row out.
    fn answer(&mut self, turns: &Ready) -> Result<ArrayRef>;

    /// The rows, by their places in the last answer, that have no value although they should.
    fn lost(&mut self) -> Vec<LostGroup> {
        Vec::new()
    }

    /// The first row of a partition that is still needed, where `next` is the first row without an answer.
    fn low(&self, key: usize, next: u64) -> u64;

    /// Positions in the log that the function needs beside those of its partitions.
    fn positions(&mut self) -> Vec<&mut Position> {
        Vec::new()
    }

    /// Memory of the state of all partitions, where it is more than a few words each.
    fn bytes(&self) -> usize {
        0
    }

    /// Drops the state of the partitions that are not `kept`; the others move up.
    fn keep(&mut self, kept: &[bool]);

    fn save(&mut self, _state: &mut Saver) -> Result<()> {
        Ok(())
    }

    /// `partitions` and `log` are loaded already.
    fn load(&mut self, _state: &mut Loader, _tapes: &[Partition], _log: &RowLog) -> Result<()> {
        Ok(())
    }
}

/// Drops the elements that are not `kept`; those beyond the list go too.
pub fn keep<T>(keys: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    keys.retain(|_| *kept.next().unwrap_or(&false));
}

/// ROW_NUMBER.
pub struct RowNumbers;

impl WindowFunction for RowNumbers {
    fn answer(&mut self, turns: &Ready) -> Result<ArrayRef> {
        let mut numbers = vec![0; turns.places.len()];
        for (_, _, rows) in turns.iter() {
            for (row, place) in rows {
                numbers[place] = row + 1;
            }
        }
        Ok(Arc::new(UInt64Array::from(numbers)))
    }

    fn low(&self, _key: usize, next: u64) -> u64 {
        next
    }

    fn keep(&mut self, _kept: &[bool]) {}
}

/// RANK and DENSE_RANK.
pub struct Ranks {
    dense: bool,
    keys: Vec<Rank>,
}

/// The rank of the last row, and its time.
#[derive(Default, Clone)]
struct Rank {
    rank: u64,
    time: i64,
}

impl Ranks {
    pub fn new() -> Self {
        Ranks { dense: false, keys: Vec::new() }
    }

    pub fn dense() -> Self {
        Ranks { dense: true, keys: Vec::new() }
    }
}

impl WindowFunction for Ranks {
    fn answer(&mut self, turns: &Ready) -> Result<ArrayRef> {
        self.keys.resize(turns.partitions.len(), Rank::default());
        let mut ranks = vec![0; turns.places.len()];
        for (key, partition, rows) in turns.iter() {
            let last = &mut self.keys[key];
            for (row, place) in rows {
                let time = partition.get(row).time;
                if row == 0 || time != last.time {
                    *last = Rank { rank: if self.dense { last.rank + 1 } else { row + 1 }, time };
                }
                ranks[place] = last.rank;
            }
        }
        Ok(Arc::new(UInt64Array::from(ranks)))
    }

    fn low(&self, _key: usize, next: u64) -> u64 {
        next
    }

    fn keep(&mut self, kept: &[bool]) {
        keep(&mut self.keys, kept);
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let ranks: ArrayRef = Arc::new(UInt64Array::from_iter_values(self.keys.iter().map(|key| key.rank)));
        let times: ArrayRef = Arc::new(Int64Array::from_iter_values(self.keys.iter().map(|key| key.time)));
        state.put("ranks", state::rows([("rank", ranks), ("time", times)], self.keys.len())?);
        Ok(())
    }

    fn load(&mut self, state: &mut Loader, partitions: &[Partition], _log: &RowLog) -> Result<()> {
        let mut saved = state.take("ranks")?;
        let (ranks, times) = (saved.counts("rank")?, saved.numbers::<Int64Type>("time")?);
        let ranks = ranks.values().iter().zip(times.values());
        self.keys = ranks.map(|(rank, time)| Rank { rank: *rank, time: *time }).collect();
        self.keys.resize(partitions.len(), Rank::default());
        saved.end()
    }
}

/// The argument in one row of the frame.
pub struct ArgumentValues {
    value: FrameValue,
    /// The argument's column in the log.
    column: usize,
    keys: Vec<Picks>,
}

/// The last frame of a partition. Where it starts at the first row, the rows that count are picked as they enter: FROM START keeps the
/// one in question once it is there, FROM END the last few.
#[derive(Default)]
struct Picks {
    span: Span,
    entered: usize,
    picked: VecDeque<Position>,
}

impl ArgumentValues {
    pub fn new(value: FrameValue, column: usize) -> Self {
        ArgumentValues { value, column, keys: Vec::new() }
    }
}

impl WindowFunction for ArgumentValues {
    fn answer(&mut self, turns: &Ready) -> Result<ArrayRef> {
        self.keys.resize_with(turns.partitions.len(), Picks::default);
        let Frame { unit, start, end } = self.value.frame;
        let mut found = vec![NOWHERE; turns.places.len()];
        for (key, partition, rows) in turns.iter() {
            let picks = &mut self.keys[key];
            // LAG and LEAD.
            if let (Unit::Rows, Some(offset), false) = (unit, start, self.value.ignore_nulls)
                && offset == end
            {
                for (row, place) in rows {
                    if let Some(row) = row.checked_add_signed(offset).filter(|row| *row < partition.end()) {
                        found[place] = partition.get(row).position;
                    }
                }
                continue;
            }
            for (row, place) in rows {
                let before = picks.span.end;
                picks.span.advance(self.value.frame, partition, row);
                let counts = |position| !self.value.ignore_nulls || turns.log.is_valid(self.column, position);
                let position = match start {
                    None => {
                        for row in before..picks.span.end {
                            picks.enter(partition.get(row).position, self.value.place, counts);
                        }
                        picks.unbounded(self.value.place)
                    }
                    Some(_) => find(picks.span, partition, self.value.place, counts),
                };
                found[place] = position.unwrap_or(NOWHERE);
            }
        }
        turns.log.gather(self.column, &found, Some(&self.value.default))
    }

    fn low(&self, key: usize, next: u64) -> u64 {
        self.keys[key].span.low(self.value.frame, next)
    }

    fn positions(&mut self) -> Vec<&mut Position> {
        self.keys.iter_mut().flat_map(|picks| picks.picked.iter_mut()).collect()
    }

    fn keep(&mut self, kept: &[bool]) {
        keep(&mut self.keys, kept);
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let number = |of: fn(&Picks) -> usize| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(self.keys.iter().map(|picks| of(picks) as u64)))
        };
        let counts = [("entered", number(|picks| picks.entered)), ("picked", number(|picks| picks.picked.len()))];
        let columns = Span::columns(self.keys.iter().map(|picks| picks.span)).into_iter().chain(counts);
        state.put("values", state::rows(columns, self.keys.len())?);
        let picked: ArrayRef = Arc::new(self.keys.iter().flat_map(|picks| picks.picked.iter().copied()).collect::<UInt64Array>());
        let rows = picked.len();
        state.put("picked", state::rows([("position", picked)], rows)?);
        Ok(())
    }

    fn load(&mut self, state: &mut Loader, partitions: &[Partition], log: &RowLog) -> Result<()> {
        let mut saved = state.take("picked")?;
        let positions = saved.numbers::<UInt64Type>("position")?;
        if !positions.values().iter().all(|position| log.has(*position)) {
            return Err(saved.misfit("names a row that is not there"));
        }
        saved.end()?;
        let mut positions = positions.values().iter().copied();
        let mut saved = state.take("values")?;
        let spans = Span::load(&mut saved, partitions)?;
        let (entered, picked) = (saved.counts("entered")?, saved.counts("picked")?);
        let picks = spans.into_iter().zip(entered.values()).zip(picked.values()).map(|((span, entered), picked)| Picks {
            span,
            entered: *entered as usize,
            picked: positions.by_ref().take(*picked as usize).collect(),
        });
        self.keys = picks.collect();
        self.keys.resize_with(partitions.len(), Picks::default);
        saved.end()
    }
}

impl Picks {
    fn enter(&mut self, position: Position, place: NthRow, counts: impl Fn(Position) -> bool) {
        let wanted = match place {
            NthRow::FromStart(number) => self.entered < number,
            NthRow::FromEnd(_) => true,
        };
        if !wanted || !counts(position) {
            return;
        }
        self.entered += 1;
        match place {
            NthRow::FromStart(number) if self.entered == number => self.picked.push_back(position),
            NthRow::FromStart(_) => {}
            NthRow::FromEnd(number) => {
                if self.picked.len() == number {
                    self.picked.pop_front();
                }
                self.picked.push_back(position);
            }
        }
    }

    /// The row of a frame that starts at the first row of the partition.
    fn unbounded(&self, place: NthRow) -> Option<Position> {
        match place {
            NthRow::FromEnd(number) if self.picked.len() < number => None,
            _ => self.picked.front().copied(),
        }
    }
}

/// The row of a frame whose rows are all retained.
fn find(span: Span, partition: &Partition, place: NthRow, counts: impl Fn(Position) -> bool) -> Option<Position> {
    let mut rows = (span.start..span.end).map(|row| partition.get(row).position).filter(|position| counts(*position));
    match place {
        NthRow::FromStart(number) => rows.nth(number - 1),
        NthRow::FromEnd(number) => rows.nth_back(number - 1),
    }
}
