//! `GROUP BY` with a window: rows in, aggregates for each window out, when the watermark says that it is complete.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{take, take_arrays};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::emit::{Emission, Emitter, send};
use super::finish::Finish;
use super::grid::GridWindows;
use super::keys::Dictionary;
use super::pane::Aggregates;
use super::rows::{BadRows, Evaluated, LateRows, evaluate, evaluate_rows};
use super::session::Sessions;
use super::{Loader, Message, Operator, Report, Saver, state};
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::time::{Timestamp, Watermark};
use crate::window::{Shape, Window, length};

/// What a [`WindowAggregate`] computes.
pub struct WindowAggregateSpec {
    pub shape: Shape,
    /// The group keys without the window, over input rows.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// DataFusion's aggregates, over input rows.
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// `FILTER (WHERE …)` of each aggregate.
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// The group columns in order, with the window as a struct of two nanosecond timestamps at `window_index`, then the aggregates.
    pub output: SchemaRef,
    pub window_index: usize,
    pub emission: Emission,
    /// What happens inside an emitted window.
    pub finish: Box<dyn Finish>,
}

/// Aggregates an append-only input by key and window.
///
/// A window is emitted when the watermark reaches its end, before the watermark itself goes on; the event time of a result is the
/// last nanosecond of its window. Where only silence says so, windows that hold rows are emitted, and one that said nothing may still be
/// opened. A row counts in every window still open, however late it is for others; one that is too late
/// for all is dropped and counted. With early results or allowed lateness a window speaks more than once: what it says again is
/// the difference to what it said last, as `-1`, `+1` pairs.
pub struct WindowAggregate {
    basis: WindowContext,
    windows: Box<dyn Windows>,
    reader: InputColumns,
    title: String,
}

impl WindowAggregate {
    pub fn new(spec: WindowAggregateSpec) -> Result<Self> {
        let title = title(&spec);
        let WindowAggregateSpec { shape, keys, aggregates, filters, output, window_index, emission, finish } = spec;
        if filters.len() != aggregates.len() || output.fields().len() != keys.len() + 1 + aggregates.len() {
            return Err(Error::bug("the parts of a windowed aggregate do not fit each other"));
        }
        if let (Shape::Session(_), true, false) = (shape, emission.updates(), finish.rowwise()) {
            let problem =
                "early results and late corrections of a SESSION cannot be ordered, limited or ranked inside the window";
            return Err(Error::new(Code::NotYet, problem)
                .hint("leave out emit = 'changes' and allowed_lateness, or rank in a second view over this one"));
        }
        let finished = finish.schema();
        let mut columns = finished.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        if emission.updates()
            && let Some(at) = columns.position(|column| !RowConverter::supports_fields(&[column]))
        {
            let column = finished.field(at);
            let problem = format!("corrections of {} cannot be told apart: its type is {}", column.name(), column.data_type());
            return Err(Error::new(Code::NotYet, problem).hint("leave the column out, or emit final results only"));
        }
        let key_fields = output.fields().iter().enumerate().filter(|(at, _)| *at != window_index).take(keys.len());
        let key_schema = Arc::new(Schema::new(key_fields.map(|(_, field)| field.clone()).collect::<Vec<_>>()));
        let aggregates = Aggregates::new(&aggregates)?;
        let reader = InputColumns::new(keys, aggregates.arguments.clone(), filters);
        let basis = WindowContext {
            dictionary: Dictionary::new(key_schema)?,
            aggregates,
            emitter: Emitter::new(output, window_index, finish)?,
            emission,
            late: LateRows::default(),
            bad: BadRows::default(),
            watermark: i64::MIN,
        };
        let windows: Box<dyn Windows> = match shape {
            Shape::Grid(grid) => Box::new(GridWindows::new(grid)),
            Shape::Session(gap) => Box::new(Sessions::new(gap)),
        };
        Ok(WindowAggregate { basis, windows, reader, title })
    }
}

impl Operator for WindowAggregate {
    fn push(&mut self, _input: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let mut parts = Vec::new();
        match message {
            Message::Changes(changes) if changes.weights.is_some() => {
                Err(Error::bug("a windowed aggregate was given rows that are taken back"))
            }
            Message::Changes(changes) if changes.is_empty() => Ok(()),
            Message::Changes(changes) => {
                let rows = self.reader.read(&mut self.basis, changes)?;
                self.windows.add(&mut self.basis, rows, &mut parts)?;
                send(parts, out)
            }
            Message::Watermark(watermark) => {
                let to = watermark.time.nanos().max(self.basis.watermark);
                if to > self.basis.watermark {
                    self.basis.watermark = self.windows.advance(&mut self.basis, to, watermark.idle, &mut parts)?;
                    send(parts, out)?;
                }
                out.push(Message::Watermark(Watermark { time: Timestamp(to), idle: watermark.idle }));
                Ok(())
            }
            Message::Barrier(_) | Message::End => {
                out.push(message);
                Ok(())
            }
        }
    }

    fn describe(&self) -> String {
        self.title.clone()
    }

    fn report(&self, report: &mut Report) {
        self.basis.late.report(report);
        self.basis.bad.report(report);
        self.windows.report(&self.basis, report);
    }

    fn bytes(&self) -> usize {
        self.basis.dictionary.bytes() + self.windows.bytes()
    }

    fn save(&mut self, state: &mut Saver) -> Result<()> {
        let watermark: ArrayRef = Arc::new(Int64Array::from(vec![self.basis.watermark]));
        state.put("windows", state::rows([("watermark", watermark)], 1)?);
        self.basis.late.save(state)?;
        self.basis.bad.save(state)?;
        self.windows.save(&mut self.basis, state)
    }

    fn load(&mut self, state: &mut Loader) -> Result<()> {
        let mut saved = state.take("windows")?;
        self.basis.watermark = saved.number::<Int64Type>("watermark")?;
        saved.end()?;
        self.basis.late.load(state)?;
        self.basis.bad.load(state)?;
        self.windows.load(&mut self.basis, state)
    }
}

fn title(spec: &WindowAggregateSpec) -> String {
    let keys: Vec<String> = spec.keys.iter().map(|key| fmt_sql(key.as_ref()).to_string()).collect();
    let aggregates: Vec<&str> =
        spec.aggregates.iter().map(|aggregate| aggregate.human_display().unwrap_or(aggregate.name())).collect();
    let mut title = format!("WindowAggregate: {} by [{}], [{}]", spec.shape, keys.join(", "), aggregates.join(", "));
    if let Some(early) = spec.emission.early {
        title.push_str(&format!(", early every {}", length(crate::time::nanos_of(early))));
    }
    if !spec.emission.allowed_lateness.is_zero() {
        title.push_str(&format!(", allowed lateness {}", length(spec.emission.lateness())));
    }
    let finish = spec.finish.describe();
    if !finish.is_empty() {
        title.push_str(&format!(", then {finish}"));
    }
    title
}

/// What all kinds of windows stand on: keys, aggregates, the way out, and how far the input has come.
pub struct WindowContext {
    pub dictionary: Dictionary,
    pub aggregates: Aggregates,
    pub emitter: Emitter,
    pub emission: Emission,
    pub late: LateRows,
    pub bad: BadRows,
    pub watermark: i64,
}

impl WindowContext {
    /// Whether a window with this end takes no rows any more once the watermark is at `watermark`.
    pub fn is_over(&self, end: i64, watermark: i64) -> bool {
        end.saturating_add(self.emission.lateness()) <= watermark
    }

    /// The full result for groups of the dictionary, each with its window.
    pub fn result(&self, ids: &[u32], windows: &[Window], values: Vec<ArrayRef>) -> Result<RecordBatch> {
        self.emitter.result(self.dictionary.keys(ids)?, windows, values)
    }
}

/// A kind of windows: takes rows, and gives results as the watermark goes on.
pub trait Windows: Send {
    fn add(&mut self, basis: &mut WindowContext, rows: Grouped, parts: &mut Vec<Changes>) -> Result<()>;

    /// The watermark goes from `basis.watermark` on to `to`, which is only `supposed` where the input is silent. Gives the time before which
    /// no row is taken any more: where it is supposed, perhaps less.
    fn advance(&mut self, basis: &mut WindowContext, to: i64, supposed: bool, parts: &mut Vec<Changes>) -> Result<i64>;

    fn report(&self, basis: &WindowContext, report: &mut Report);

    /// Memory of all windows, without their keys.
    fn bytes(&self) -> usize;

    fn save(&mut self, basis: &mut WindowContext, state: &mut Saver) -> Result<()>;

    fn load(&mut self, basis: &mut WindowContext, state: &mut Loader) -> Result<()>;
}

/// Rows ready to be aggregated.
pub struct Grouped {
    /// The rows as they came, for their times and for samples of late ones.
    pub changes: Changes,
    /// The number of each row's key.
    pub ids: Vec<usize>,
    pub arguments: Vec<Vec<ArrayRef>>,
    pub filters: Vec<Option<BooleanArray>>,
}

impl Grouped {
    /// The rows at `indices`, in that order; without a copy where they stand side by side.
    pub fn take(&self, indices: Vec<u32>) -> Result<Grouped> {
        let length = indices.len();
        let start = indices.first().map_or(0, |first| *first as usize);
        if indices.iter().enumerate().all(|(at, index)| *index as usize == start + at) {
            let slice = |columns: &Vec<ArrayRef>| columns.iter().map(|column| column.slice(start, length)).collect();
            return Ok(Grouped {
                changes: self.changes.slice(start, length),
                ids: self.ids[start..start + length].to_vec(),
                arguments: self.arguments.iter().map(slice).collect(),
                filters: self.filters.iter().map(|filter| filter.as_ref().map(|filter| filter.slice(start, length))).collect(),
            });
        }
        let ids = indices.iter().map(|index| self.ids[*index as usize]).collect();
        let indices = UInt32Array::from(indices);
        let filter = |filter: &Option<BooleanArray>| match filter {
            Some(filter) => Ok(Some(take(filter, &indices, None)?.as_boolean().clone())),
            None => Ok(None),
        };
        Ok(Grouped {
            changes: self.changes.take(&indices)?,
            ids,
            arguments: self.arguments.iter().map(|columns| Ok(take_arrays(columns, &indices, None)?)).collect::<Result<_>>()?,
            filters: self.filters.iter().map(filter).collect::<Result<_>>()?,
        })
    }
}

/// The numbers of the keys, the arguments of each aggregate, and what follows them.
type Parted = (Vec<usize>, Vec<Vec<ArrayRef>>, std::vec::IntoIter<ArrayRef>);

/// Computes keys, arguments and filters of input rows.
struct InputColumns {
    /// Keys, then the arguments of all aggregates, then the filters.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    keys: usize,
    /// How many arguments each aggregate has, and whether it has a filter.
    aggregates: Vec<(usize, bool)>,
}

impl InputColumns {
    fn new(
        keys: Vec<Arc<dyn PhysicalExpr>>,
        arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
        filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    ) -> Self {
        let aggregates = arguments.iter().zip(&filters).map(|(arguments, filter)| (arguments.len(), filter.is_some())).collect();
        let count = keys.len();
        let expressions = keys.into_iter().chain(arguments.into_iter().flatten()).chain(filters.into_iter().flatten());
        InputColumns { expressions: expressions.collect(), keys: count, aggregates }
    }

    /// Rows without an event time, or that a key fails on, are noted as bad and left out.
    fn read(&self, basis: &mut WindowContext, mut changes: Changes) -> Result<Grouped> {
        if changes.times.null_count() > 0 {
            let timeless = Error::new(Code::BadData, "it has no event time");
            let (without, with): (Vec<u32>, Vec<u32>) =
                (0..changes.len() as u32).partition(|row| changes.times.is_null(*row as usize));
            without.iter().for_each(|row| basis.bad.note(&changes, *row as usize, &timeless));
            changes = changes.take(&UInt32Array::from(with))?;
        }
        match evaluate(&self.expressions, &changes.rows) {
            Ok(columns) => self.group(basis, changes, columns),
            Err(_) => self.read_apart(basis, changes),
        }
    }

    /// Where an expression fails: a row without a key is left out, and one without an argument costs the aggregate that asks for it.
    fn read_apart(&self, basis: &mut WindowContext, changes: Changes) -> Result<Grouped> {
        let Evaluated { mut columns, kept } = evaluate_rows(&self.expressions[..self.keys], &changes, &mut basis.bad)?;
        let changes = match kept {
            Some(kept) => changes.take(&kept)?,
            None => changes,
        };
        let mut filters = Vec::new();
        let mut from = self.keys;
        let mut filter = self.keys + self.aggregates.iter().map(|(count, _)| count).sum::<usize>();
        for (count, filtered) in &self.aggregates {
            let mut expressions = self.expressions[from..from + count].to_vec();
            from += count;
            if *filtered {
                expressions.push(Arc::clone(&self.expressions[filter]));
                filter += 1;
            }
            let Evaluated { columns: mut found, kept } = evaluate_rows(&expressions, &changes, &mut basis.bad)?;
            let mut admitted = None;
            if let Some(kept) = kept {
                // Rows that failed are NULL, and no filter lets them through.
                let places: UInt32Array = {
                    let mut places = vec![None; changes.len()];
                    kept.values().iter().enumerate().for_each(|(place, row)| places[*row as usize] = Some(place as u32));
                    places.into()
                };
                found = take_arrays(&found, &places, None)?;
                admitted = Some(BooleanArray::from_iter((0..places.len()).map(|row| Some(places.is_valid(row)))));
            }
            if *filtered {
                let filter = found.pop().and_then(|column| column.as_boolean_opt().cloned());
                admitted = Some(filter.ok_or_else(|| Error::bug("the filter of an aggregate is no BOOLEAN"))?);
            }
            columns.extend(found);
            filters.push(admitted);
        }
        let (ids, arguments, _) = self.split(basis, changes.len(), columns)?;
        Ok(Grouped { ids, arguments, filters, changes })
    }

    fn group(&self, basis: &mut WindowContext, changes: Changes, columns: Vec<ArrayRef>) -> Result<Grouped> {
        let (ids, arguments, mut left) = self.split(basis, changes.len(), columns)?;
        let filters = self.aggregates.iter().map(|(_, filtered)| {
            if !filtered {
                return Ok(None);
            }
            let filter = left.next().and_then(|column| column.as_boolean_opt().cloned());
            filter.map(Some).ok_or_else(|| Error::bug("the filter of an aggregate is no BOOLEAN"))
        });
        Ok(Grouped { ids, arguments, filters: filters.collect::<Result<_>>()?, changes })
    }

    /// The numbers of the keys, the arguments of each aggregate, and what follows them.
    fn split(&self, basis: &mut WindowContext, rows: usize, columns: Vec<ArrayRef>) -> Result<Parted> {
        let mut columns = columns.into_iter();
        let keys: Vec<ArrayRef> = columns.by_ref().take(self.keys).collect();
        let mut ids = Vec::new();
        basis.dictionary.intern(&keys, rows, &mut ids)?;
        let arguments = self.aggregates.iter().map(|(count, _)| columns.by_ref().take(*count).collect()).collect();
        Ok((ids, arguments, columns))
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod tests;
