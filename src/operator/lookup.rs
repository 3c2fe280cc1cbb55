//! A join of a stream with rows that do not change: each batch is joined by a bounded plan, and every result row keeps its event time.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt32Type};
use datafusion::common::{DFSchema, DFSchemaRef};

use super::bounded::BoundedRun;
use super::state::{Loader, Saver};
use super::{Message, Operator};
use crate::error::{Error, Result};

/// The hidden column that says which row of the batch a result row comes from.
const ROW: &str = "__streamgauge_row";

/// The slot of the stream's rows, and that of the fixed ones.
pub const STREAM: usize = 0;
pub const FIXED: usize = 1;

/// The schema of a batch with its rows numbered.
pub fn numbered(schema: &DFSchema) -> Result<DFSchemaRef> {
    let mut fields: Vec<_> = schema.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
    fields.push((None, row_field()));
    Ok(Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?))
}

fn row_field() -> FieldRef {
    Arc::new(Field::new(ROW, DataType::UInt32, true))
}

/// Where the columns of the join's result are in what the bounded plan gives.
#[derive(Debug, Clone)]
pub struct Columns {
    result: Vec<usize>,
    row: usize,
}

impl Columns {
    pub fn new(joined: &DFSchema, wanted: &DFSchema) -> Result<Self> {
        let find =
            |column| joined.maybe_index_of_column(column).ok_or_else(|| Error::bug(format!("a join lost the column {column}")));
        let result = wanted.columns().iter().map(find).collect::<Result<_>>()?;
        Ok(Columns {
            result,
            row: joined.index_of_column_by_name(None, ROW).ok_or_else(|| Error::bug("a join lost the row numbers"))?,
        })
    }
}

/// When the join builds its first side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// It is the fixed one, and stays.
    Once,
    /// It is the stream's.
    EachBatch,
}

/// The operator: joins each batch with the fixed rows.
pub struct Lookup {
    run: BoundedRun,
    build: Build,
    /// Set before the first batch comes.
    fixed: Arc<OnceLock<RecordBatch>>,
    columns: Columns,
    schema: SchemaRef,
    input: Option<SchemaRef>,
}

impl Lookup {
    pub fn new(run: BoundedRun, build: Build, fixed: Arc<OnceLock<RecordBatch>>, columns: Columns, schema: SchemaRef) -> Self {
        Lookup { run, build, fixed, columns, schema, input: None }
    }

    fn join(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = match &self.input {
            Some(schema) => Arc::clone(schema),
            None => {
                let fixed = self.fixed.get().ok_or_else(|| Error::bug("a join runs before its fixed rows are read"))?;
                self.run.put(FIXED, fixed.clone());
                let fields = rows.schema_ref().fields().iter().cloned().chain([row_field()]).collect::<Vec<_>>();
                Arc::clone(self.input.insert(Arc::new(Schema::new(fields))))
            }
        };
        let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows.num_rows() as u32));
        let columns = rows.columns().iter().cloned().chain([numbers]).collect();
        self.run.put(STREAM, RecordBatch::try_new(schema, columns)?);
        match self.build {
            Build::Once => self.run.rerun(),
            Build::EachBatch => self.run.run(),
        }
    }
}

/// The rows in the order of the stream's, which pairs of old and new rows hang on: a join may give unmatched rows last.
fn in_order(joined: &RecordBatch, row: usize) -> Result<RecordBatch> {
    let mut order: Vec<u32> = (0..joined.num_rows() as u32).collect();
    let rows = joined.column(row).as_primitive::<UInt32Type>();
    order.sort_by_key(|at| rows.value(*at as usize));
    Ok(take_record_batch(joined, &UInt32Array::from(order))?)
}

impl Operator for Lookup {
    fn push(&mut self, _: usize, message: Message, out: &mut Vec<Message>) -> Result<()> {
        let Message::Changes(changes) = message else {
            out.push(message);
            return Ok(());
        };
        let joined = self.join(&changes.rows)?;
        if joined.num_rows() == 0 {
            return Ok(());
        }
        let joined = match changes.weights {
            Some(_) => in_order(&joined, self.columns.row)?,
            None => joined,
        };
        let rows = joined.column(self.columns.row).as_primitive::<UInt32Type>();
        let mut kept = changes.take(rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(joined.num_rows()));
        let columns = self.columns.result.iter().map(|index| Arc::clone(joined.column(*index))).collect();
        kept.rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        out.extend(changes.cut(rows, kept).into_iter().map(Message::Changes));
        Ok(())
    }

    fn describe(&self) -> String {
        format!("Lookup: {}", self.run.describe())
    }

    /// The fixed rows are read again.
    fn save(&mut self, _: &mut Saver) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, _: &mut Loader) -> Result<()> {
        Ok(())
    }
}
