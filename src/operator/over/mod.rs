//! Window functions over partitions of an endless stream: each input row comes out with a column a function appended.

mod aggregate;
mod function;
mod log;
mod partition;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod tests;
mod window_functions;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use self::aggregate::Aggregates;
pub use self::function::{Aggregate, Frame, FrameValue, Function, FunctionKind, NthRow, Unit, window_function};
use self::log::{Position, RowLog};
use self::partition::{Partition, Ready, ReadyRows, RowEntry};
use self::window_functions::{ArgumentValues, Ranks, RowNumbers, WindowFunction, keep};
use super::keys::{Dictionary, NONE};
use super::reorder::Reorder;
use super::rows::{BadRows, evaluate_rows};
use super::{Loader, Message, Operator, Report, Saver, state};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::time::{Timestamp, TimestampArray, Watermark};

/// Rows that are worked on at once; a release may be far larger, as at the end of a feed.
const BATCH_ROWS: usize = 8192;

/// Entries for rows that went out may stay in a queue up to this number, beside as many as there are waiting ones.
const SLACK_ENTRIES: usize = 1024;

/// In which order the rows of a partition stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of their event times, ties as they arrive. Rows wait for the watermark; a later one is late and dropped.
    EventTime,
    /// As they arrive, at once: for a query without ORDER BY. No two rows are peers.
    Arrival,
}

/// What an [`Over`] does; plain data.
#[derive(Debug, Clone)]
pub struct OverSpec {
    /// Over input rows; none is one partition for all.
    pub partition_by: Vec<Arc<dyn PhysicalExpr>>,
    pub order: Order,
    /// A column each, after those of the input.
    pub functions: Vec<Function>,
    /// The input's columns and one for each function.
    pub output: SchemaRef,
}

impl OverSpec {
    /// From the expressions of a logical `Window` node over `input`, whose schema is `output`.
    ///
    /// Types must have been coerced (DataFusion's analyzer). That their ORDER BY means `order` is for the caller to know.
    pub fn plan(
        windows: &[Expr],
        input: &DFSchema,
        output: SchemaRef,
        order: Order,
        props: &ExecutionProps,
        planning: &PhysicalPlanningContext,
    ) -> Result<Self> {
        let functions = windows.iter().map(|expr| Function::plan(expr, input, order, props, planning)).collect::<Result<_>>()?;
        let first = windows.first().ok_or_else(|| Error::bug("a window node without functions"))?;
        let keys = &window_function(first)?.params.partition_by;
        for other in windows {
            if window_function(other)?.params.partition_by != *keys {
                return Err(Error::bug("the functions of a window node differ in PARTITION BY"));
            }
        }
        let physical = |key| Ok(create_physical_expr(key, input, props, planning)?);
        Ok(OverSpec { partition_by: keys.iter().map(physical).collect::<Result<_>>()?, order, functions, output })
    }
}

/// LAG, LEAD, ROW_NUMBER, RANK, FIRST_VALUE … and aggregates over the rows of a partition, exact as a batch query over the same rows.
///
/// The input is append-only, and so is the output: a row keeps its event time and goes out once, when all its functions are known.
/// That is at once where they look back, and after the last row of the frame where they look ahead (LEAD, FOLLOWING): rows of other
/// partitions do not wait for it, but the watermark that goes on is held back to the earliest row that waits. The end of the stream
/// ends all frames. A row over which an expression fails is dropped alone, and counted.
///
/// State: for each partition the rows that its functions can still look at (LAG(n): n rows; RANGE: those of the interval; a running
/// aggregate: its accumulator). Partitions stay for ever, as a later row may ask for them, except where all functions look at
/// intervals of time: then those whose interval has passed are forgotten. [`Report::state_rows`] shows the size.
pub struct Over {
    spec: OverSpec,
    /// PARTITION BY, then the functions' arguments and filters. The latter are the first columns of the log; where rows wait, those
    /// of the input follow.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    answers: Vec<Box<dyn WindowFunction>>,
    ahead: Ahead,
    reorder: Reorder,
    dictionary: Dictionary,
    partitions: Vec<Partition>,
    log: RowLog,
    /// No partition takes a row with an earlier time.
    passed: Timestamp,
    ended: bool,
    watermark: Watermark,
    /// Rows without an answer by their time, and some that have one: (time, partition, row).
    waiting: BinaryHeap<Reverse<(i64, u32, u64)>>,
    waiting_rows: usize,
    /// Rows in order of time whose frame reaches beyond it by `ahead.nanos`.
    due: VecDeque<(i64, u32)>,
    bad: BadRows,
}

/// How far after a row its functions look.
#[derive(Default, Clone, Copy, PartialEq)]
struct Ahead {
    rows: u64,
    nanos: i64,
}

impl Over {
    pub fn new(spec: OverSpec) -> Result<Self> {
        let input = spec.output.fields().len().checked_sub(spec.functions.len());
        let input = input.ok_or_else(|| Error::bug("more window functions than output columns"))?;
        let input = Schema::new(spec.output.fields()[..input].to_vec());
        let key = |key: &Arc<dyn PhysicalExpr>| Ok(Field::new("key", key.data_type(&input)?, true));
        let keys = spec.partition_by.iter().map(key).collect::<Result<Vec<_>>>()?;
        let dictionary = Dictionary::new(Arc::new(Schema::new(keys)))?;
        let mut arguments: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut column = |expr: &Arc<dyn PhysicalExpr>| {
            arguments.iter().position(|known| known == expr).unwrap_or_else(|| {
                arguments.push(Arc::clone(expr));
                arguments.len() - 1
            })
        };
        let answer = |function: &Function| -> Box<dyn WindowFunction> {
            match &function.kind {
                FunctionKind::RowNumber => Box::new(RowNumbers),
                FunctionKind::Rank => Box::new(Ranks::new()),
                FunctionKind::DenseRank => Box::new(Ranks::dense()),
                FunctionKind::Value(value) => Box::new(ArgumentValues::new(value.clone(), column(&value.argument))),
                FunctionKind::Aggregate(aggregate) => {
                    let columns = aggregate.arguments.iter().map(&mut column).collect();
                    let filter = aggregate.filter.as_ref().map(&mut column);
                    Box::new(Aggregates::new(aggregate.clone(), columns, filter))
                }
            }
        };
        let answers = spec.functions.iter().map(answer).collect();
        let mut ahead = Ahead::default();
        for frame in spec.functions.iter().filter_map(Function::frame) {
            match frame.unit {
                Unit::Rows => ahead.rows = ahead.rows.max(frame.end.max(0) as u64),
                Unit::Time => ahead.nanos = ahead.nanos.max(frame.end),
            }
        }
        Ok(Over {
            expressions: spec.partition_by.iter().cloned().chain(arguments).collect(),
            spec,
            answers,
            ahead,
            reorder: Reorder::default(),
            dictionary,
            partitions: Vec::new(),
            log: RowLog::default(),
            passed: Timestamp::MIN,
            ended: false,
            watermark: Watermark::at(Timestamp::MIN),
            waiting: BinaryHeap::new(),
            waiting_rows: 0,
            due: VecDeque::new(),
            bad: BadRows::default(),
        })
    }

    /// Whether rows may have to wait for later ones of their partition.
    fn waits(&self) -> bool {
        self.ahead != Ahead::default()
    }

    /// The watermark came to `time`: rows before it are sorted into their partitions, and frames that end before it are complete.
    fn advance(&mut self, time: Timestamp, out: &mut Vec<Message>) -> Result<()> {
        if self.spec.order == Order::EventTime
            && let Some(rows) = self.reorder.release(time)?
        {
            let mut from = 0;
            while from < rows.len() {
                // Rows of one time are peers and stay together.
                let times = &rows.times.values()[from..];
                let last = times[BATCH_ROWS.min(times.len()) - 1];
                let count = times.partition_point(|time| *time <= last);
                self.passed = times.get(count).map_or(time, |next| Timestamp(*next));
                self.absorb(rows.slice(from, count), out)?;
                from += count;
            }
        }
        self.passed = self.passed.max(time);
        self.ended = self.ended || time == Timestamp::MAX;
        if !self.waits() {
            return Ok(());
        }
        let touched = match self.ended {
            true => (0..self.partitions.len() as u32).collect(),
            false => Vec::new(),
        };
        self.answer_waiting(touched, out)
    }

    /// Appends sorted rows to their partitions and emits those whose values are known.
    fn absorb(&mut self, changes: Changes, out: &mut Vec<Message>) -> Result<()> {
        let evaluated = evaluate_rows(&self.expressions, &changes, &mut self.bad)?;
        let changes = match evaluated.kept {
            Some(kept) => changes.take(&kept)?,
            None => changes,
        };
        if changes.is_empty() {
            return Ok(());
        }
        let mut partition = evaluated.columns;
        let mut columns = partition.split_off(self.spec.partition_by.len());
        let mut keys = Vec::new();
        self.dictionary.intern(&partition, changes.len(), &mut keys)?;
        self.partitions.resize_with(self.dictionary.len(), Partition::default);
        if self.waits() {
            columns.extend(changes.rows.columns().iter().cloned());
        }
        let start = self.log.append(columns, changes.len())?;
        // By partition, and in order within each.
        let mut order: Vec<u64> = keys.iter().enumerate().map(|(row, key)| (*key as u64) << 32 | row as u64).collect();
        order.sort_unstable();
        let mut touched: Vec<u32> = Vec::new();
        for entry in order {
            let (key, row) = ((entry >> 32) as u32, entry as u32);
            if touched.last() != Some(&key) {
                touched.push(key);
            }
            let time = changes.times.value(row as usize);
            let waits = self.waits();
            let partition = &mut self.partitions[key as usize];
            if waits {
                self.waiting.push(Reverse((time, key, partition.end())));
                self.waiting_rows += 1;
            }
            partition.push(RowEntry { position: start + Position::from(row), time });
        }
        if self.waits() {
            if self.ahead.nanos > 0 {
                self.due.extend(changes.times.values().iter().zip(&keys).map(|(time, key)| (*time, *key as u32)));
            }
            self.answer_waiting(touched, out)?;
        } else {
            let (turns, positions) = self.turns(&touched);
            let places: Vec<u32> = positions.iter().map(|position| (position - start) as u32).collect();
            let answers = self.answer(&turns, &places)?;
            let columns = changes.rows.columns().iter().cloned().chain(answers).collect();
            let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
            self.note_lost(&rows, &changes.times);
            out.push(Message::Changes(Changes::inserts(rows, changes.times)));
        }
        self.forget()?;
        match self.log.is_full() {
            true => self.compact(),
            false => Ok(()),
        }
    }

    /// Sends out, in order, the rows that waited and need wait no longer: for a row that came to `touched`, or for time to pass.
    fn answer_waiting(&mut self, mut touched: Vec<u32>, out: &mut Vec<Message>) -> Result<()> {
        let (ahead, passed) = (self.ahead.nanos, self.passed.nanos());
        while let Some((_, key)) = self.due.pop_front_if(|(time, _)| time.saturating_add(ahead) < passed) {
            touched.push(key);
        }
        let (turns, positions) = self.turns(&touched);
        if positions.is_empty() {
            return Ok(());
        }
        let mut order: Vec<u32> = (0..positions.len() as u32).collect();
        order.sort_unstable_by_key(|row| positions[*row as usize]);
        let mut places = vec![0; positions.len()];
        for (place, row) in order.iter().enumerate() {
            places[*row as usize] = place as u32;
        }
        let positions: Vec<Position> = order.iter().map(|row| positions[*row as usize]).collect();
        let mut times = vec![0; positions.len()];
        let mut place = places.iter();
        for turn in &turns {
            for (row, place) in turn.rows.clone().zip(&mut place) {
                times[*place as usize] = self.partitions[turn.key].get(row).time;
            }
        }
        let input = self.spec.output.fields().len() - self.spec.functions.len();
        let first = self.expressions.len() - self.spec.partition_by.len();
        let mut columns =
            (first..first + input).map(|column| self.log.gather(column, &positions, None)).collect::<Result<Vec<_>>>()?;
        columns.extend(self.answer(&turns, &places)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.output), columns)?;
        let changes = Changes::inserts(rows, TimestampArray::from(times));
        self.note_lost(&changes.rows, &changes.times);
        for from in (0..changes.len()).step_by(BATCH_ROWS) {
            out.push(Message::Changes(changes.slice(from, BATCH_ROWS.min(changes.len() - from))));
        }
        self.waiting_rows -= changes.len();
        if self.waiting.len() > 2 * self.waiting_rows + SLACK_ENTRIES {
            self.waiting.retain(|Reverse((_, key, row))| self.partitions[*key as usize].next <= *row);
        }
        Ok(())
    }

    /// Finds the rows of all partitions that wait for their values.
    fn wait_again(&mut self) {
        if !self.waits() {
            return;
        }
        let mut due = Vec::new();
        for (key, partition) in self.partitions.iter().enumerate() {
            for row in partition.next..partition.end() {
                let entry = partition.get(row);
                self.waiting.push(Reverse((entry.time, key as u32, row)));
                due.push((entry.time, key as u32));
            }
        }
        self.waiting_rows = due.len();
        if self.ahead.nanos > 0 {
            due.sort_unstable();
            self.due = due.into();
        }
    }

    /// The columns of the input.
    fn input(&self) -> SchemaRef {
        let columns = self.spec.output.fields().len() - self.spec.functions.len();
        Arc::new(Schema::new(self.spec.output.fields()[..columns].to_vec()))
    }

    /// Takes the rows of `keys` whose frames are complete off the waiting ones, and where they are in the log.
    fn turns(&mut self, keys: &[u32]) -> (Vec<ReadyRows>, Vec<Position>) {
        let mut turns = Vec::with_capacity(keys.len());
        let mut positions = Vec::new();
        for key in keys {
            let partition = &mut self.partitions[*key as usize];
            let from = partition.next;
            let ready = match self.ended {
                true => partition.end(),
                false => partition.end().saturating_sub(self.ahead.rows),
            };
            while partition.next < ready {
                let entry = partition.get(partition.next);
                let complete = entry.time.saturating_add(self.ahead.nanos) < self.passed.nanos();
                if self.ahead.nanos > 0 && !complete && !self.ended {
                    break;
                }
                positions.push(entry.position);
                partition.next += 1;
            }
            if from < partition.next {
                turns.push(ReadyRows { key: *key as usize, rows: from..partition.next });
            }
        }
        (turns, positions)
    }

    /// Computes the functions' columns for the rows that are ready; drops rows that no function needs any more.
    fn answer(&mut self, turns: &[ReadyRows], places: &[u32]) -> Result<Vec<ArrayRef>> {
        let all = Ready { log: &self.log, partitions: &self.partitions, turns, places };
        let columns = self.answers.iter_mut().map(|answer| answer.answer(&all)).collect::<Result<_>>()?;
        for ReadyRows { key, rows } in turns {
            let low = self.answers.iter().map(|answer| answer.low(*key, rows.end)).fold(rows.end, u64::min);
            self.partitions[*key].trim(low);
        }
        Ok(columns)
    }

    fn note_lost(&mut self, rows: &RecordBatch, times: &TimestampArray) {
        for answer in &mut self.answers {
            let lost = answer.lost();
            if !lost.is_empty() {
                self.bad.lose(lost, rows, |row| times.value(row));
            }
        }
    }

    /// The time up to which everything went out: the watermark, or that of the earliest row that waits.
    fn held_back(&mut self, time: Timestamp) -> Timestamp {
        while self.waiting.peek().is_some_and(|Reverse((_, key, row))| self.partitions[*key as usize].next > *row) {
            self.waiting.pop();
        }
        self.waiting.peek().map_or(time, |Reverse((waiting, ..))| time.min(Timestamp(*waiting)))
    }

    /// Frees the rows that nobody holds.
    fn compact(&mut self) -> Result<()> {
        let on_tapes = self.partitions.iter_mut().flat_map(Partition::positions);
        let held = on_tapes.chain(self.answers.iter_mut().flat_map(|answer| answer.positions())).collect();
        self.log.compact(held)
    }

    /// Forgets the partitions whose last row lies before every frame to come, if they are many: they would start again as they are.
    fn forget(&mut self) -> Result<()> {
        let Some(reach) = self.reach() else { return Ok(()) };
        let passed = self.passed.nanos();
        let lives = |partition: &Partition| {
            partition.next < partition.end() || partition.last().is_some_and(|last| last.time.saturating_add(reach) >= passed)
        };
        let mark =
            |alive: &mut [bool]| alive.iter_mut().zip(&self.partitions).for_each(|(alive, partition)| *alive = lives(partition));
        let Some(numbers) = self.dictionary.compact(mark)? else { return Ok(()) };
        let kept: Vec<bool> = numbers.iter().map(|number| *number != NONE).collect();
        keep(&mut self.partitions, &kept);
        self.answers.iter_mut().for_each(|answer| answer.keep(&kept));
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let waiting = waiting.map(|Reverse((time, key, row))| Reverse((time, numbers[key as usize], row)));
        self.waiting = waiting.filter(|Reverse((_, key, _))| *key != NONE).collect();
        self.due.retain_mut(|(_, key)| {
            *key = numbers[*key as usize];
            *key != NONE
        });
        Ok(())
    }

    /// How many nanoseconds after a row it can still matter; `None` is for ever.
    fn reach(&self) -> Option<i64> {
        let reach = |function: &Function| match function.frame() {
            Some(Frame { unit: Unit::Time, start: Some(start), .. }) => Some(start.min(0).saturating_neg()),
            _ => None,
        };
        self.spec.functions.iter().map(reach).try_fold(0, |reach, next| Some(next?.max(reach)))
    }
}

impl Operator for Over {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        match message {
            Message::Changes(Changes { weights: Some(_), .. }) => {
                Err(Error::bug("a window function over rows that may be taken back"))
            }
            Message::Changes(changes) if changes.is_empty() => Ok(()),
            Message::Changes(changes) => match self.spec.order {
                Order::EventTime => self.reorder.push(changes),
                Order::Arrival => self.absorb(changes, out),
            },
            Message::Watermark(Watermark { time, idle }) => {
                // What is only supposed lets rows out, and leaves room for others behind them. Frames that look ahead must know more.
                let known = match idle && self.spec.order == Order::EventTime && !self.waits() {
                    true => self.reorder.settled(time),
                    false => time,
                };
                self.advance(known, out)?;
                // Never back, even where rows in the order of arrival wait that were late already.
                let known = self.held_back(known).max(self.watermark.time);
                self.watermark = Watermark { time: known, idle };
                out.push(Message::Watermark(Watermark { time: self.held_back(time).max(known), idle }));
                Ok(())
            }
            Message::Barrier(_) => {
                out.push(message);
                Ok(())
            }
            Message::End => {
                self.advance(Timestamp::MAX, out)?;
                out.push(Message::End);
                Ok(())
            }
        }
    }

    fn describe(&self) -> String {
        let functions: Vec<&str> = self.spec.functions.iter().map(|function| function.name.as_str()).collect();
        let order = match self.spec.order {
            Order::EventTime => "event time",
            Order::Arrival => "arrival",
        };
        let keys: Vec<String> = self.spec.partition_by.iter().map(ToString::to_string).collect();
        format!("Over: [{}] by [{}] in order of {order}", functions.join(", "), keys.join(", "))
    }

    fn report(&self, report: &mut Report) {
        self.reorder.report(report);
        self.bad.report(report);
        report.state_rows += self.log.rows() + self.partitions.len();
    }

    fn bytes(&self) -> usize {
        let partitions: usize = self.partitions.iter().map(Partition::bytes).sum();
        let answers: usize = self.answers.iter().map(|answer| answer.bytes()).sum();
        let waiting = self.waiting.capacity() * size_of::<(i64, u32, u64)>() + self.due.capacity() * size_of::<(i64, u32)>();
        self.reorder.bytes() + self.dictionary.bytes() + partitions + self.log.bytes() + answers + waiting
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let time = |time: Timestamp| -> ArrayRef { Arc::new(Int64Array::from(vec![time.nanos()])) };
        let flag = |flag: bool| -> ArrayRef { Arc::new(BooleanArray::from(vec![flag])) };
        let columns = [
            ("passed", time(self.passed)),
            ("ended", flag(self.ended)),
            ("watermark", time(self.watermark.time)),
            ("idle", flag(self.watermark.idle)),
        ];
        state.put("over", state::rows(columns, 1)?);
        self.bad.save(state)?;
        self.reorder.save(state)?;
        self.dictionary.save(state)?;
        self.log.save(state)?;
        partition::save(&self.partitions, state)?;
        for (number, answer) in self.answers.iter_mut().enumerate() {
            answer.save(&mut state.within(number))?;
        }
        Ok(())
    }

    fn load(&mut self, state: &mut Loader) -> Result<()> {
        let mut saved = state.take("over")?;
        self.passed = Timestamp(saved.number::<Int64Type>("passed")?);
        self.ended = saved.flag("ended")?;
        let time = Timestamp(saved.number::<Int64Type>("watermark")?);
        self.watermark = Watermark { time, idle: saved.flag("idle")? };
        self.bad.load(state)?;
        let input = self.input();
        self.reorder.load(&input, state)?;
        self.dictionary.load(state)?;
        let arguments = self.expressions[self.spec.partition_by.len()..].iter();
        let mut columns: Vec<DataType> = arguments.map(|expr| Ok(expr.data_type(&input)?)).collect::<Result<_>>()?;
        if self.waits() {
            columns.extend(input.fields().iter().map(|field| field.data_type().clone()));
        }
        self.log.load(&columns, state)?;
        self.partitions = partition::load(&self.log, state)?;
        if self.partitions.len() > self.dictionary.len() {
            return Err(saved.misfit("stands beside rows of partitions that are not there"));
        }
        for (number, answer) in self.answers.iter_mut().enumerate() {
            answer.load(&mut state.within(number), &self.partitions, &self.log)?;
        }
        let retained = |(key, partition): (usize, &Partition)| {
            let answers = self.answers.iter().all(|answer| partition.first() <= answer.low(key, partition.next));
            answers && (self.waits() || partition.next == partition.end())
        };
        if !self.partitions.iter().enumerate().all(retained) {
            return Err(saved.misfit("stands beside partitions that lack rows"));
        }
        self.wait_again();
        saved.end()
    }
}
