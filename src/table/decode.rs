//! Events to rows of all the columns that some reader needs: decoded ones, and those computed from them.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, filter, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampNanosecondType, UInt32Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::arrival;
use super::current::CurrentRows;
use super::readers::Reader;
use super::spec::{ColumnSource, EventTime, TableSpec};
use super::status::TableStatus;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::format::{Bad, ChangeDecoder, Decoder, Op, RawEvent, RowChanges};
use crate::operator::Report;
use crate::operator::rows::{self, BadRows, evaluate_rows};
use crate::options::BadData;
use crate::time::{Timestamp, TimestampArray};

pub(super) struct Decode {
    events: EventDecoder,
    rejects: Rejects,
    /// Where each event since the last [`Decode::take`] begins among the rows or changes; nothing is noted where no event can be the
    /// end of the table.
    starts: Vec<usize>,
    failure: Option<FatalEvent>,
    /// For each column of the table that some reader needs, and behind them for the time of arrival: where it is among the decoded or the
    /// computed ones.
    columns: Vec<Option<ColumnAt>>,
    computed: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time where it is a computed column: its place among those, and its name.
    time: Option<(usize, String)>,
}

/// What an event is.
enum EventDecoder {
    /// A row of its own.
    Rows(Box<Decoder>),
    /// What became of a row.
    Changes(Box<Keyed>),
}

/// The rows of a keyed table. All its columns are decoded, since a reader that comes later gets the rows there are.
struct Keyed {
    decoder: ChangeDecoder,
    current: CurrentRows,
    schema: SchemaRef,
}

#[derive(Clone, Copy)]
enum ColumnAt {
    Decoded(usize),
    Computed(usize),
}

/// The event that is the end of the table.
pub(super) struct FatalEvent {
    /// The events before it, since the last [`Decode::take`]: they are in what that gave, and no others.
    pub(super) events_before: usize,
    pub(super) error: Error,
}

/// What all readers get, each its columns of it.
pub(super) struct Batch {
    /// The records read.
    pub(super) records: usize,
    /// The event times of the rows that came.
    pub(super) times: TimestampArray,
    content: DecodedContent,
}

enum DecodedContent {
    Rows(Box<Decoded>),
    /// Over all columns of the table.
    Changes(Vec<Changes>),
}

/// Rows for all readers, all parts of one length.
struct Decoded {
    rows: RecordBatch,
    computed: Vec<ArrayRef>,
    times: TimestampArray,
    /// Which of the rows that were read these are; `None` for all of them, which is the rule.
    kept: Option<UInt32Array>,
}

enum Judged {
    Rows(Box<Decoded>),
    /// The first row that is the end of the table.
    BadAt(usize),
}

/// Records that were decoded and are no rows all the same.
#[derive(Default)]
struct Unfit {
    samples: Vec<(Bad, Timestamp)>,
    /// Those that no sample is kept of.
    others: u64,
}

/// What becomes of records that are no rows.
struct Rejects {
    policy: BadData,
    status: Arc<TableStatus>,
    /// The first one under `bad_data = 'fail'`.
    failed: Option<Error>,
    /// How many there were, and why the last was one.
    count: u64,
    last: String,
}

impl Decode {
    pub(super) fn new(spec: &TableSpec, status: &Arc<TableStatus>, readers: &[Reader]) -> Result<Self> {
        let wanted: BTreeSet<usize> = match spec.key {
            Some(_) => (0..spec.columns.len()).collect(),
            None => readers.iter().flat_map(|reader| reader.projection.iter().copied()).collect(),
        };
        let mut decoded: BTreeSet<usize> = BTreeSet::new();
        let mut expressions = Vec::new();
        let mut places = Vec::new();
        for (index, source) in spec.columns.iter().enumerate() {
            let is_time = matches!(spec.time, EventTime::Computed(index_of_time) if index_of_time == index);
            places.push(match source {
                _ if !wanted.contains(&index) && !is_time => None,
                ColumnSource::Decoded(at) => {
                    decoded.insert(*at);
                    Some(ColumnAt::Decoded(*at))
                }
                ColumnSource::Generated(generated) => {
                    decoded.extend(collect_columns(&generated.expr).into_iter().map(|column| column.index()));
                    expressions.push(&generated.expr);
                    Some(ColumnAt::Computed(expressions.len() - 1))
                }
            });
        }
        let mut format = Cow::Borrowed(&spec.format);
        if spec.key.is_none() && wanted.contains(&spec.columns.len()) {
            let at = format.columns.len();
            format.to_mut().columns.push(arrival::column());
            decoded.insert(at);
            places.push(Some(ColumnAt::Decoded(at)));
        }
        let decoded: Vec<usize> = decoded.into_iter().collect();
        let moved = |place: ColumnAt| match place {
            ColumnAt::Decoded(at) => place_of(at, &decoded).map(ColumnAt::Decoded),
            ColumnAt::Computed(_) => Ok(place),
        };
        let columns: Vec<Option<ColumnAt>> =
            places.into_iter().map(|place| place.map(moved).transpose()).collect::<Result<_>>()?;
        let time = match spec.time {
            EventTime::Computed(index) => match columns[index] {
                Some(ColumnAt::Computed(at)) => Some((at, spec.schema.field(index).name().clone())),
                _ => return Err(Error::bug("the event time is not computed")),
            },
            EventTime::Arrival | EventTime::Column(_) => None,
        };
        Ok(Decode {
            events: match &spec.key {
                Some(key) => EventDecoder::Changes(Box::new(Keyed::new(spec, key, &decoded)?)),
                None => EventDecoder::Rows(Box::new(Decoder::new(&format, &decoded)?.observe())),
            },
            rejects: Rejects { policy: spec.bad_data, status: Arc::clone(status), failed: None, count: 0, last: String::new() },
            starts: Vec::new(),
            failure: None,
            columns,
            computed: expressions.into_iter().map(|expr| over_decoded(expr, &decoded)).collect::<Result<_>>()?,
            time,
        })
    }

    /// Takes an event; after one that is the end of the table, none.
    pub(super) fn push(&mut self, input: RawEvent<'_>) {
        if self.rejects.failed.is_some() {
            return;
        }
        if self.may_fail() {
            self.starts.push(match &self.events {
                EventDecoder::Rows(decoder) => decoder.len(),
                EventDecoder::Changes(keyed) => keyed.decoder.len(),
            });
        }
        let rejects = &mut self.rejects;
        let mut bad = |bad| rejects.add(bad, input.received);
        match &mut self.events {
            EventDecoder::Rows(decoder) => decoder.push(input, &mut bad),
            EventDecoder::Changes(keyed) => keyed.decoder.push(input, &mut bad),
        }
    }

    /// Whether an event may be the end of the table: a bad one, or one that makes the rows of a keyed table too many.
    pub(super) fn may_fail(&self) -> bool {
        self.rejects.policy == BadData::Fail || matches!(self.events, EventDecoder::Changes(_))
    }

    /// How many records were bad, if any, and why the last was.
    pub(super) fn rejected(&self) -> Option<(u64, &str)> {
        (self.rejects.count > 0).then_some((self.rejects.count, self.rejects.last.as_str()))
    }

    /// Turns to other readers; the rows of a keyed table stay.
    pub(super) fn serve(&mut self, spec: &TableSpec, status: &Arc<TableStatus>, readers: &[Reader]) -> Result<()> {
        match spec.key {
            Some(_) => self.rejects.policy = spec.bad_data,
            None => *self = Decode::new(spec, status, readers)?,
        }
        Ok(())
    }

    /// The rows of a keyed table that a new reader finds; `None` where there are none, and where rows are not kept.
    pub(super) fn current(&self, reader: &Reader) -> Result<Option<Changes>> {
        self.rows()?.map(|all| project(&all, reader)).transpose()
    }

    /// All rows of a keyed table; `None` where there are none, and where rows are not kept.
    pub(super) fn rows(&self) -> Result<Option<Changes>> {
        match &self.events {
            EventDecoder::Rows(_) => Ok(None),
            EventDecoder::Changes(keyed) => keyed.current.all(),
        }
    }

    /// Puts rows that [`Decode::rows`] gave into a keyed table that has none.
    pub(super) fn fill(&mut self, rows: Changes) -> Result<()> {
        match &mut self.events {
            EventDecoder::Rows(_) => Err(Error::bug("rows were kept of a table that keeps none")),
            EventDecoder::Changes(keyed) => keyed.current.fill(rows),
        }
    }

    /// The rows since the last call, up to the event that is the end of the table. A row that an expression cannot be computed for, or
    /// without an event time, is a bad record.
    pub(super) fn take(&mut self) -> Result<Option<Batch>> {
        let batch = self.take_rows()?;
        self.tell_absent();
        Ok(batch)
    }

    /// No event follows.
    pub(super) fn end(&mut self) {
        match &mut self.events {
            EventDecoder::Rows(decoder) => decoder.end(),
            EventDecoder::Changes(keyed) => keyed.decoder.end(),
        }
        self.tell_absent();
    }

    fn tell_absent(&mut self) {
        let absent = match &mut self.events {
            EventDecoder::Rows(decoder) => decoder.absent(),
            EventDecoder::Changes(keyed) => keyed.decoder.absent(),
        };
        if let Some(absent) = absent {
            self.rejects.status.absent(absent);
        }
    }

    fn take_rows(&mut self) -> Result<Option<Batch>> {
        let starts = std::mem::take(&mut self.starts);
        // After a bad event no other was taken.
        let end = match self.rejects.failed.is_some() {
            true => starts.last().map(|last| self.fail_at(&starts, *last)),
            false => None,
        };
        let batch = match &mut self.events {
            EventDecoder::Rows(decoder) if decoder.is_empty() => return Ok(None),
            EventDecoder::Rows(decoder) => {
                let (rows, times) = decoder.take()?;
                let end = end.unwrap_or(times.len());
                let (rows, times) = (rows.slice(0, end), times.slice(0, end));
                let decoded = match self.judge(&rows, &times)? {
                    Judged::Rows(decoded) => decoded,
                    Judged::BadAt(row) => {
                        let end = self.fail_at(&starts, row);
                        Box::new(self.compute(rows.slice(0, end), times.slice(0, end))?.0)
                    }
                };
                Batch { records: decoded.times.len(), times: decoded.times.clone(), content: DecodedContent::Rows(decoded) }
            }
            EventDecoder::Changes(keyed) if keyed.decoder.is_empty() => return Ok(None),
            EventDecoder::Changes(keyed) => {
                let mut told = keyed.decoder.take()?;
                told.truncate(end.unwrap_or(told.ops.len()));
                self.change(told, &starts)?
            }
        };
        Ok((batch.records > 0).then_some(batch))
    }

    /// Notes that the event to which the row or change `at` belongs is the end of the table; gives where that event begins.
    fn fail_at(&mut self, starts: &[usize], at: usize) -> usize {
        let events_before = starts.partition_point(|start| *start <= at).saturating_sub(1);
        let error = self.rejects.failed.take().unwrap_or_else(|| Error::bug("a table has failed for no reason"));
        self.failure = Some(FatalEvent { events_before, error });
        starts.get(events_before).copied().unwrap_or_default()
    }

    /// The event that is the end of the table, by a bad record or a row too many; what came before it has been taken.
    pub(super) fn failure(&mut self) -> Option<FatalEvent> {
        self.failure.take()
    }

    /// Computes rows, and notes the bad ones; of those that are the end of the table, only the first.
    fn judge(&mut self, rows: &RecordBatch, times: &TimestampArray) -> Result<Judged> {
        let (decoded, unfit) = self.compute(rows.clone(), times.clone())?;
        match &decoded.kept {
            Some(kept) if self.rejects.policy == BadData::Fail && kept.len() < rows.num_rows() => {
                let row = kept.values().iter().zip(0..).position(|(kept, row)| *kept != row).unwrap_or(kept.len());
                let (_, unfit) = self.compute(rows.slice(row, 1), times.slice(row, 1))?;
                self.rejects.add_unfit(unfit);
                Ok(Judged::BadAt(row))
            }
            _ => {
                self.rejects.add_unfit(unfit);
                Ok(Judged::Rows(Box::new(decoded)))
            }
        }
    }

    /// The rows that are fit, and what is said of the others.
    fn compute(&self, rows: RecordBatch, times: TimestampArray) -> Result<(Decoded, Unfit)> {
        if self.computed.is_empty() {
            return Ok((Decoded { rows, computed: Vec::new(), times, kept: None }, Unfit::default()));
        }
        let mut bad = BadRows::default();
        let changes = Changes::inserts(rows, times);
        let found = evaluate_rows(&self.computed, &changes, &mut bad)?;
        let changes = match &found.kept {
            Some(kept) => changes.take(kept)?,
            None => changes,
        };
        let mut unfit = Unfit::of(&bad);
        let decoded = Decoded { rows: changes.rows, computed: found.columns, times: changes.times, kept: found.kept };
        let decoded = match &self.time {
            Some((at, name)) => decoded.timed(*at, name, &mut unfit)?,
            None => decoded,
        };
        Ok((decoded, unfit))
    }

    /// What `told` does to the rows of a keyed table.
    fn change(&mut self, mut told: RowChanges, starts: &[usize]) -> Result<Batch> {
        let decoded = match self.judge(&told.rows, &told.times)? {
            Judged::Rows(decoded) => decoded,
            Judged::BadAt(row) => {
                let of_row = |op: &Op| matches!(op, Op::Upsert { row: of, .. } if *of as usize == row);
                let at = told.ops.iter().position(of_row).ok_or_else(|| Error::bug("a row that no change is about"))?;
                told.truncate(self.fail_at(starts, at));
                Box::new(self.compute(told.rows, told.times)?.0)
            }
        };
        let RowChanges { mut ops, keys, skipped, .. } = told;
        if let Some(kept) = &decoded.kept {
            only(&mut ops, kept);
        }
        let columns = (0..self.columns.len()).map(|index| self.column(&decoded, index)).collect::<Result<_>>()?;
        let EventDecoder::Changes(keyed) = &mut self.events else { return Err(Error::bug("changes of a table without a key")) };
        let rows = RecordBatch::try_new(Arc::clone(&keyed.schema), columns)?;
        let applied = keyed.current.apply(&ops, rows, decoded.times.clone(), keys.columns())?;
        self.rejects.status.ignored(skipped, applied.unmatched);
        self.rejects.status.holds(keyed.current.bytes());
        if let Some((at, error)) = applied.failure {
            // Where changes of bad rows were left out, some that were made come again: they say what is so already.
            self.rejects.failed = Some(error);
            self.fail_at(starts, at);
        }
        Ok(Batch { records: ops.len(), times: decoded.times, content: DecodedContent::Changes(applied.changes) })
    }

    fn column(&self, decoded: &Decoded, index: usize) -> Result<ArrayRef> {
        match self.columns[index] {
            Some(ColumnAt::Decoded(at)) => Ok(Arc::clone(decoded.rows.column(at))),
            Some(ColumnAt::Computed(at)) => Ok(Arc::clone(&decoded.computed[at])),
            None => Err(Error::bug("a reader's column is not decoded")),
        }
    }

    /// The columns of one reader, in its order.
    pub(super) fn project(&self, batch: &Batch, reader: &Reader) -> Result<Vec<Changes>> {
        match &batch.content {
            DecodedContent::Rows(decoded) => {
                let columns = reader.projection.iter().map(|index| self.column(decoded, *index)).collect::<Result<_>>()?;
                let rows = rows_of(reader, columns, decoded.times.len())?;
                Ok(vec![Changes::inserts(rows, decoded.times.clone())])
            }
            DecodedContent::Changes(parts) => {
                let mut projected = Vec::new();
                for part in parts {
                    projected.extend(project(part, reader)?.settle()?.into_iter().filter(|part| !part.is_empty()));
                }
                Ok(projected)
            }
        }
    }
}

impl Keyed {
    /// `decoded` are all that the columns of the table are made of.
    fn new(spec: &TableSpec, key: &[usize], decoded: &[usize]) -> Result<Self> {
        let in_format = key.iter().map(|index| match &spec.columns[*index] {
            ColumnSource::Decoded(at) => Ok(*at),
            ColumnSource::Generated(_) => Err(Error::bug("a key is computed")),
        });
        let in_format = in_format.collect::<Result<Vec<_>>>()?;
        Ok(Keyed {
            decoder: ChangeDecoder::new(&spec.format, decoded, &in_format, spec.source_table.as_deref())?,
            current: CurrentRows::new(Arc::clone(&spec.schema), key.to_vec())?,
            schema: Arc::clone(&spec.schema),
        })
    }
}

/// The columns of one reader out of all.
fn project(changes: &Changes, reader: &Reader) -> Result<Changes> {
    let columns = reader.projection.iter().map(|index| Arc::clone(changes.rows.column(*index))).collect();
    Ok(Changes { rows: rows_of(reader, columns, changes.len())?, ..changes.clone() })
}

fn rows_of(reader: &Reader, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(&reader.schema), columns, &options)?)
}

/// Drops what is said of rows that are not among `kept`, and gives the others their new places.
fn only(ops: &mut Vec<Op>, kept: &UInt32Array) {
    ops.retain_mut(|op| match op {
        Op::Upsert { row, .. } => match kept.values().binary_search(row) {
            Ok(at) => {
                *row = at as u32;
                true
            }
            Err(_) => false,
        },
        Op::Remove { .. } | Op::Clear => true,
    });
}

impl Decoded {
    /// The rows whose computed column `at` is their event time; those where it is NULL are unfit.
    fn timed(mut self, at: usize, name: &str, unfit: &mut Unfit) -> Result<Decoded> {
        let times = &time_column(&self.computed[at])?;
        if times.null_count() == 0 {
            self.times = times.clone();
            return Ok(self);
        }
        let reason = format!("event time '{name}' is missing");
        for row in (0..times.len()).filter(|row| times.is_null(*row)) {
            unfit.samples.push((sample(reason.clone(), rows::text(&self.rows, row)), Timestamp(self.times.value(row))));
        }
        let keep: BooleanArray = (0..times.len()).map(|row| Some(times.is_valid(row))).collect();
        let computed = self.computed.iter().map(|column| Ok(filter(column, &keep)?)).collect::<Result<Vec<_>>>()?;
        let times = time_column(&computed[at])?;
        let kept = self.kept.unwrap_or_else(|| UInt32Array::from_iter_values(0..keep.len() as u32));
        let kept = filter(&kept, &keep)?.as_primitive::<UInt32Type>().clone();
        Ok(Decoded { rows: filter_record_batch(&self.rows, &keep)?, computed, times, kept: Some(kept) })
    }
}

/// The instants of a column in nanoseconds; NULL where those cannot count so far.
fn time_column(column: &ArrayRef) -> Result<TimestampArray> {
    let nanos = cast(column, &DataType::Timestamp(TimeUnit::Nanosecond, None))?;
    nanos.as_primitive_opt::<TimestampNanosecondType>().cloned().ok_or_else(|| Error::bug("an event time of another type"))
}

impl Rejects {
    fn add(&mut self, bad: Bad, received: Timestamp) {
        self.count += 1;
        self.last.clone_from(&bad.reason);
        match self.policy {
            BadData::Drop => return self.status.drop_bad(),
            BadData::DeadLetter => {}
            BadData::Fail => {
                self.failed.get_or_insert_with(|| {
                    Error::new(Code::BadData, bad.reason.clone())
                        .hint("correct the table's columns, or let bad events be kept aside: bad_data = 'dead_letter'")
                });
            }
        }
        self.status.keep_bad(bad, received);
    }

    fn add_unfit(&mut self, unfit: Unfit) {
        self.count += unfit.others;
        (0..unfit.others).for_each(|_| self.status.drop_bad());
        unfit.samples.into_iter().for_each(|(bad, received)| self.add(bad, received));
    }
}

impl Unfit {
    /// Rows on which an expression failed; of many, only the last are samples.
    fn of(bad: &BadRows) -> Self {
        let mut report = Report::default();
        bad.report(&mut report);
        let others = report.bad_rows - report.bad_samples.len() as u64;
        let samples = report.bad_samples.into_iter().map(|row| {
            let reason = format!("a generated column cannot be computed: {}", row.reason);
            (sample(reason, row.row), row.time)
        });
        Unfit { samples: samples.collect(), others }
    }
}

/// A record that was decoded and is no row all the same: its cells stand for its data.
fn sample(reason: String, data: String) -> Bad {
    Bad { reason, id: String::new(), kind: String::new(), data, offset: 0 }
}

fn place_of(index: usize, decoded: &[usize]) -> Result<usize> {
    decoded.binary_search(&index).map_err(|_| Error::bug("a column is not decoded"))
}

/// An expression over all decodable columns, moved to a batch that holds those in `decoded`.
fn over_decoded(expr: &Arc<dyn PhysicalExpr>, decoded: &[usize]) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(expr).transform(|expr| match (expr.as_ref() as &dyn Any).downcast_ref::<Column>() {
        Some(column) => {
            let at = place_of(column.index(), decoded).map_err(DataFusionError::from)?;
            Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Arc<dyn PhysicalExpr>))
        }
        None => Ok(Transformed::no(expr)),
    })?;
    Ok(moved.data)
}
