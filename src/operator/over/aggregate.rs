//! Aggregates over a frame: an accumulator a partition, into which rows enter and which they leave as the frame moves on.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt64Array};
use arrow::compute::concat;
use arrow::datatypes::DataType;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::function::Aggregate;
use super::log::{Position, RowLog};
use super::partition::{Partition, Ready, Span};
use super::window_functions::{WindowFunction, keep};
use crate::error::Result;
use crate::function::{LostGroup, listen};
use crate::operator::state::{self, Loader, Saver};

/// One aggregate with its state for every partition.
pub struct Aggregates {
    aggregate: Aggregate,
    /// The arguments' columns in the log, and the filter's.
    columns: Vec<usize>,
    filter: Option<usize>,
    motion: Motion,
    keys: Vec<Running>,
    lost: Vec<LostGroup>,
}

/// How the frame's start is followed.
#[derive(Clone, Copy, PartialEq)]
enum Motion {
    /// It stays at the first row: rows only enter.
    Grows,
    /// Rows leave the accumulator in the order in which they entered, which is what MIN and MAX ask for.
    Slides,
    /// The aggregate cannot take a row out: each frame is computed on its own.
    Anew,
}

#[derive(Default)]
struct Running {
    span: Span,
    /// None until a row needs it; then it holds the rows of `span`.
    accumulator: Option<Box<dyn Accumulator>>,
    /// Rows taken out since the accumulator was made.
    retracted: u64,
}

/// From the frame of one row to that of the next.
struct FrameStep {
    span: Span,
    entering: usize,
    leaving: usize,
}

impl Aggregates {
    pub fn new(aggregate: Aggregate, columns: Vec<usize>, filter: Option<usize>) -> Self {
        let motion = match aggregate.frame.start {
            None => Motion::Grows,
            Some(_) if aggregate.function.create_sliding_accumulator().is_ok() => Motion::Slides,
            Some(_) => Motion::Anew,
        };
        Aggregates { aggregate, columns, filter, motion, keys: Vec::new(), lost: Vec::new() }
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        Ok(match self.motion {
            Motion::Slides => self.aggregate.function.create_sliding_accumulator()?,
            Motion::Grows | Motion::Anew => self.aggregate.function.create_accumulator()?,
        })
    }

    /// Makes the accumulators of partitions, each from a row of `states`: pairs of the two.
    fn restore(&mut self, keys: impl Iterator<Item = (usize, usize)>, states: &[ArrayRef]) -> Result<()> {
        for (key, row) in keys {
            let mut accumulator = self.accumulator()?;
            accumulator.merge_batch(&slice(states, row, 1))?;
            self.keys[key].accumulator = Some(accumulator);
        }
        Ok(())
    }

    fn gather(&self, turns: &Ready, positions: &[Position]) -> Result<Vec<ArrayRef>> {
        self.columns.iter().map(|column| turns.log.gather(*column, positions, None)).collect()
    }

    /// Appends the rows from `rows` that pass the filter, and says how many they are.
    fn admit(&self, turns: &Ready, partition: &Partition, rows: std::ops::Range<u64>, positions: &mut Vec<Position>) -> usize {
        let before = positions.len();
        let admits = |position: &Position| self.filter.is_none_or(|filter| turns.log.is_true(filter, *position));
        positions.extend(rows.map(|row| partition.get(row).position).filter(admits));
        positions.len() - before
    }

    /// A new accumulator that holds the rows of the frame.
    fn anew(&self, turns: &Ready, partition: &Partition, span: Span) -> Result<Box<dyn Accumulator>> {
        let mut positions = Vec::new();
        self.admit(turns, partition, span.start..span.end, &mut positions);
        let mut accumulator = self.accumulator()?;
        if !positions.is_empty() {
            accumulator.update_batch(&self.gather(turns, &positions)?)?;
        }
        Ok(accumulator)
    }

    /// The types of the columns that accumulators are saved as; `None` where they are made again from the rows of the frame.
    fn states(&self) -> Result<Option<Vec<DataType>>> {
        match self.motion {
            Motion::Grows => Ok(Some(self.accumulator()?.state()?.iter().map(ScalarValue::data_type).collect())),
            Motion::Slides | Motion::Anew => Ok(None),
        }
    }

    fn rounds(&self) -> bool {
        self.aggregate.function.field().data_type().is_floating()
    }

    /// The result for the frame of `running`, whose rows are in its accumulator if it has one.
    fn evaluate(&self, turns: &Ready, partition: &Partition, running: &mut Running) -> Result<ScalarValue> {
        let span = running.span;
        if span.rows() == 0 {
            return Ok(self.aggregate.function.default_value(self.aggregate.function.field().data_type())?);
        }
        let Some(accumulator) = &mut running.accumulator else {
            return Ok(self.anew(turns, partition, span)?.evaluate()?);
        };
        Ok(accumulator.evaluate()?)
    }
}

impl WindowFunction for Aggregates {
    fn answer(&mut self, turns: &Ready) -> Result<ArrayRef> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.resize_with(turns.partitions.len(), Running::default);
        let mut steps = Vec::with_capacity(turns.places.len());
        let (mut entering, mut leaving) = (Vec::new(), Vec::new());
        for (key, partition, rows) in turns.iter() {
            let mut span = keys[key].span;
            for (row, _) in rows {
                let before = span;
                span.advance(self.aggregate.frame, partition, row);
                let mut step = FrameStep { span, entering: 0, leaving: 0 };
                if self.motion != Motion::Anew {
                    step.entering = self.admit(turns, partition, before.end..span.end, &mut entering);
                    step.leaving = self.admit(turns, partition, before.start..span.start, &mut leaving);
                }
                steps.push(step);
            }
        }
        let (entering, leaving) = (self.gather(turns, &entering)?, self.gather(turns, &leaving)?);
        let (mut entered, mut left) = (0, 0);
        let mut values = vec![ScalarValue::Null; turns.places.len()];
        let mut steps = steps.into_iter();
        for (key, partition, rows) in turns.iter() {
            let running = &mut keys[key];
            let mut last: Option<(Span, ScalarValue)> = None;
            for ((_, place), step) in rows.zip(&mut steps) {
                let before = std::mem::replace(&mut running.span, step.span);
                // Peers share their frame and so the result.
                if let Some((span, value)) = &last
                    && *span == step.span
                {
                    values[place] = value.clone();
                    continue;
                }
                if self.motion != Motion::Anew && running.accumulator.is_none() {
                    running.accumulator = Some(self.anew(turns, partition, before)?);
                }
                if let Some(accumulator) = &mut running.accumulator {
                    if step.entering > 0 {
                        accumulator.update_batch(&slice(&entering, entered, step.entering))?;
                    }
                    if step.leaving > 0 {
                        accumulator.retract_batch(&slice(&leaving, left, step.leaving))?;
                    }
                }
                entered += step.entering;
                left += step.leaving;
                running.retracted += step.leaving as u64;
                let (value, lost) = listen(|| self.evaluate(turns, partition, running));
                let value = value?;
                self.lost.extend(lost.into_iter().map(|lost| LostGroup { group: Some(place), ..lost }));
                values[place] = value.clone();
                last = Some((step.span, value));
            }
        }
        self.keys = keys;
        column(values)
    }

    fn lost(&mut self) -> Vec<LostGroup> {
        std::mem::take(&mut self.lost)
    }

    fn low(&self, key: usize, next: u64) -> u64 {
        let Running { span, .. } = &self.keys[key];
        match self.aggregate.frame.start {
            // Rows of the last frame have not left the accumulator yet.
            Some(_) => span.start,
            None => span.low(self.aggregate.frame, next),
        }
    }

    fn bytes(&self) -> usize {
        let accumulators = self.keys.iter().filter_map(|running| running.accumulator.as_ref());
        self.keys.capacity() * size_of::<Running>() + accumulators.map(|accumulator| accumulator.size()).sum::<usize>()
    }

    fn keep(&mut self, kept: &[bool]) {
        keep(&mut self.keys, kept);
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let retracted: ArrayRef = Arc::new(UInt64Array::from_iter_values(self.keys.iter().map(|running| running.retracted)));
        let made: BooleanArray = self.keys.iter().map(|running| Some(running.accumulator.is_some())).collect();
        let columns = Span::columns(self.keys.iter().map(|running| running.span)).into_iter();
        let columns = columns.chain([("retracted", retracted), ("made", Arc::new(made.clone()))]);
        state.put("frames", state::rows(columns, self.keys.len())?);
        let Some(types) = self.states()?.filter(|_| made.true_count() > 0) else {
            // Whoever loads them makes them anew from the rows; so does whoever goes on, and both round alike.
            if self.rounds() {
                self.keys.iter_mut().for_each(|running| running.accumulator = None);
            }
            return Ok(());
        };
        let mut columns: Vec<Vec<ScalarValue>> = types.iter().map(|_| Vec::with_capacity(made.true_count())).collect();
        for accumulator in self.keys.iter_mut().filter_map(|running| running.accumulator.as_mut()) {
            for (column, value) in columns.iter_mut().zip(accumulator.state()?) {
                column.push(value);
            }
        }
        let columns = columns.into_iter().map(|values| Ok(ScalarValue::iter_to_array(values)?)).collect::<Result<Vec<_>>>()?;
        // A list may have been moved out, a mean comes back rounded, and a sum that is NULL does not tell what rounding left in it.
        // Whoever loads the states must not know better than who goes on.
        let copied =
            types.iter().all(is_plain) && matches!(self.aggregate.function.fun().name(), "count" | "sum" | "avg" | "min" | "max");
        let lossy = |row: usize| !copied || columns.iter().any(|column| column.is_null(row));
        self.restore(made.values().set_indices().zip(0..).filter(|(_, row)| lossy(*row)), &columns)?;
        state.put("states", state::rows(columns.into_iter().map(|column| ("state", column)), made.true_count())?);
        Ok(())
    }

    fn load(&mut self, state: &mut Loader, partitions: &[Partition], _log: &RowLog) -> Result<()> {
        let mut saved = state.take("frames")?;
        let spans = Span::load(&mut saved, partitions)?;
        let (retracted, made) = (saved.counts("retracted")?, saved.flags("made")?);
        let grew = |key: usize| retracted.value(key) == 0 && (made.value(key) || spans[key].rows() == 0);
        if self.motion == Motion::Grows && !(0..spans.len()).all(grew) {
            return Err(saved.misfit("lacks rows that have left"));
        }
        self.keys = spans
            .into_iter()
            .zip(retracted.values())
            .map(|(span, retracted)| Running { span, accumulator: None, retracted: *retracted })
            .collect();
        if let Some(types) = self.states()?.filter(|_| made.true_count() > 0) {
            let mut states = state.take("states")?;
            if states.len() != made.true_count() {
                return Err(states.misfit("has not one row for each accumulator"));
            }
            let columns = types.iter().map(|data_type| states.column("state", data_type)).collect::<Result<Vec<_>>>()?;
            states.end()?;
            self.restore(made.values().set_indices().zip(0..), &columns)?;
        }
        self.keys.resize_with(partitions.len(), Running::default);
        saved.end()
    }
}

fn column(values: Vec<ScalarValue>) -> Result<ArrayRef> {
    if !matches!(values.first(), Some(ScalarValue::Union(..))) {
        return Ok(ScalarValue::iter_to_array(values)?);
    }
    let values = values.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>()?;
    Ok(concat(&values.iter().map(|value| value.as_ref()).collect::<Vec<_>>())?)
}

/// Whether values of the type are numbers.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_primitive() || matches!(data_type, DataType::Boolean | DataType::Null)
}

fn slice(columns: &[ArrayRef], offset: usize, rows: usize) -> Vec<ArrayRef> {
    columns.iter().map(|column| column.slice(offset, rows)).collect()
}
