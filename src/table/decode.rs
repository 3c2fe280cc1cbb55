//! Events to rows of all the columns that some reader needs: decoded ones, and those computed from them.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, filter_record_batch};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::readers::Reader;
use super::spec::{EventTime, Source, Spec};
use super::status::Status;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::format::{Bad, Decoder, Input};
use crate::operator::Report;
use crate::operator::rows::{self, BadRows, evaluate_rows};
use crate::options::BadData;
use crate::time::{Timestamp, TimestampArray};

pub(super) struct Decode {
    decoder: Decoder,
    rejects: Rejects,
    /// For each column of the table that some reader needs: where it is among the decoded or the computed ones.
    columns: Vec<Option<Place>>,
    computed: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time where it is a computed column: its place among those, and its name.
    time: Option<(usize, String)>,
}

#[derive(Clone, Copy)]
enum Place {
    Decoded(usize),
    Computed(usize),
}

/// Rows for all readers, all parts of one length.
pub(super) struct Decoded {
    rows: RecordBatch,
    computed: Vec<ArrayRef>,
    pub(super) times: TimestampArray,
}

/// What becomes of records that are no rows.
struct Rejects {
    policy: BadData,
    status: Arc<Status>,
    /// The first one under `bad_data = 'fail'`.
    failed: Option<Error>,
}

impl Decode {
    pub(super) fn new(spec: &Spec, status: &Arc<Status>, readers: &[Reader]) -> Result<Self> {
        let wanted: BTreeSet<usize> = readers.iter().flat_map(|reader| reader.projection.iter().copied()).collect();
        let mut decoded: BTreeSet<usize> = BTreeSet::new();
        let mut expressions = Vec::new();
        let mut places = Vec::new();
        for (index, source) in spec.columns.iter().enumerate() {
            let is_time = matches!(spec.time, EventTime::Computed(index_of_time) if index_of_time == index);
            places.push(match source {
                _ if !wanted.contains(&index) && !is_time => None,
                Source::Decoded(at) => {
                    decoded.insert(*at);
                    Some(Place::Decoded(*at))
                }
                Source::Generated(generated) => {
                    decoded.extend(collect_columns(&generated.expr).into_iter().map(|column| column.index()));
                    expressions.push(&generated.expr);
                    Some(Place::Computed(expressions.len() - 1))
                }
            });
        }
        let decoded: Vec<usize> = decoded.into_iter().collect();
        let moved = |place: Place| match place {
            Place::Decoded(at) => place_of(at, &decoded).map(Place::Decoded),
            Place::Computed(_) => Ok(place),
        };
        let columns: Vec<Option<Place>> = places.into_iter().map(|place| place.map(moved).transpose()).collect::<Result<_>>()?;
        let time = match spec.time {
            EventTime::Computed(index) => match columns[index] {
                Some(Place::Computed(at)) => Some((at, spec.schema.field(index).name().clone())),
                _ => return Err(Error::bug("the event time is not computed")),
            },
            EventTime::Arrival | EventTime::Column(_) => None,
        };
        Ok(Decode {
            decoder: Decoder::new(&spec.format, &decoded)?,
            rejects: Rejects { policy: spec.bad_data, status: Arc::clone(status), failed: None },
            columns,
            computed: expressions.into_iter().map(|expr| over_decoded(expr, &decoded)).collect::<Result<_>>()?,
            time,
        })
    }

    /// Takes an event; after one that is the end of the table, none.
    pub(super) fn push(&mut self, input: Input<'_>) {
        let rejects = &mut self.rejects;
        if rejects.failed.is_some() {
            return;
        }
        self.decoder.push(input, &mut |bad| rejects.add(bad, input.received));
    }

    /// The rows since the last call. A row that an expression cannot be computed for, or without an event time, is a bad record.
    pub(super) fn take(&mut self) -> Result<Option<Decoded>> {
        if self.decoder.is_empty() {
            return Ok(None);
        }
        let (rows, times) = self.decoder.take()?;
        let decoded = self.compute(rows, times)?;
        Ok((!decoded.times.is_empty()).then_some(decoded))
    }

    /// The bad record that is the end of the table; what came before it has been taken.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.rejects.failed.take()
    }

    fn compute(&mut self, rows: RecordBatch, times: TimestampArray) -> Result<Decoded> {
        if self.computed.is_empty() {
            return Ok(Decoded { rows, computed: Vec::new(), times });
        }
        let mut bad = BadRows::default();
        let changes = Changes::inserts(rows, times);
        let found = evaluate_rows(&self.computed, &changes, &mut bad)?;
        let changes = match &found.kept {
            Some(kept) => changes.take(kept)?,
            None => changes,
        };
        self.rejects.add_failed(bad);
        let decoded = Decoded { rows: changes.rows, computed: found.columns, times: changes.times };
        match &self.time {
            Some((at, name)) => decoded.timed(*at, name, &mut self.rejects),
            None => Ok(decoded),
        }
    }

    /// The columns of one reader, in its order.
    pub(super) fn project(&self, decoded: &Decoded, reader: &Reader) -> Result<Changes> {
        let columns = reader.projection.iter().map(|index| match self.columns[*index] {
            Some(Place::Decoded(at)) => Ok(Arc::clone(decoded.rows.column(at))),
            Some(Place::Computed(at)) => Ok(Arc::clone(&decoded.computed[at])),
            None => Err(Error::bug("a reader's column is not decoded")),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.times.len()));
        let columns = columns.collect::<Result<_>>()?;
        let rows = RecordBatch::try_new_with_options(Arc::clone(&reader.schema), columns, &options)?;
        Ok(Changes::inserts(rows, decoded.times.clone()))
    }
}

impl Decoded {
    /// The rows whose computed column `at` is their event time; those where it is NULL are rejected.
    fn timed(mut self, at: usize, name: &str, rejects: &mut Rejects) -> Result<Decoded> {
        let times = time_column(&self.computed[at])?;
        if times.null_count() == 0 {
            self.times = times.clone();
            return Ok(self);
        }
        let reason = format!("event time '{name}' is missing");
        for row in (0..times.len()).filter(|row| times.is_null(*row)) {
            rejects.add(sample(reason.clone(), rows::text(&self.rows, row)), Timestamp(self.times.value(row)));
        }
        let keep: BooleanArray = (0..times.len()).map(|row| Some(times.is_valid(row))).collect();
        let computed = self.computed.iter().map(|column| Ok(filter(column, &keep)?)).collect::<Result<Vec<_>>>()?;
        let times = time_column(&computed[at])?.clone();
        Ok(Decoded { rows: filter_record_batch(&self.rows, &keep)?, computed, times })
    }
}

fn time_column(column: &ArrayRef) -> Result<&TimestampArray> {
    column.as_any().downcast_ref().ok_or_else(|| Error::bug("an event time of another type"))
}

impl Rejects {
    fn add(&mut self, bad: Bad, received: Timestamp) {
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

    /// Rows on which an expression failed; of many, only the last are samples.
    fn add_failed(&mut self, bad: BadRows) {
        let mut report = Report::default();
        bad.report(&mut report);
        for _ in report.bad_samples.len() as u64..report.bad_rows {
            self.status.drop_bad();
        }
        for row in report.bad_samples {
            self.add(sample(format!("a generated column cannot be computed: {}", row.reason), row.row), row.time);
        }
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
