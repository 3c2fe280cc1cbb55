//! What happens to the rows of an emitted window before they leave: HAVING, projection, ORDER BY, LIMIT, ROW_NUMBER and so on.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::bounded::{BoundedPlan, BoundedRun};
use crate::error::Result;

/// Turns the full result of one window into output rows: HAVING, projection, ORDER BY, LIMIT, ROW_NUMBER and so on. Runs again
/// on each emission of the window.
pub trait Finish: Send {
    fn run(&mut self, rows: RecordBatch) -> Result<RecordBatch>;

    fn schema(&self) -> SchemaRef;

    /// The columns of the output that identify a row, to pair updates; none if unknown.
    fn keys(&self) -> &[usize];

    /// Whether each row is finished by itself, so that rows of several windows may come together.
    fn rowwise(&self) -> bool {
        false
    }

    fn describe(&self) -> String;
}

/// What is done with the rows of an emitted window, as plain data.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Row by row: computed at once, for any number of windows.
    Rows { steps: Vec<RowStep>, keys: Vec<usize>, schema: SchemaRef },
    /// A bounded plan, run for each window apart.
    Plan { plan: BoundedPlan, keys: Vec<usize>, schema: SchemaRef },
}

#[derive(Debug, Clone)]
pub enum RowStep {
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
    Filter { predicate: Arc<dyn PhysicalExpr> },
}

impl Finished {
    /// A runner with state of its own.
    pub fn runner(&self) -> Result<Box<dyn Finish>> {
        Ok(match self {
            Finished::Rows { steps, keys, schema } => Box::new(FinishRows::new(steps.clone(), keys.clone(), Arc::clone(schema))),
            Finished::Plan { plan, keys, schema } => {
                Box::new(FinishPlan { run: plan.runner(1)?, keys: keys.clone(), schema: Arc::clone(schema) })
            }
        })
    }
}

/// Finishes each row by itself.
pub struct FinishRows {
    steps: Vec<RowStep>,
    keys: Vec<usize>,
    schema: SchemaRef,
}

impl FinishRows {
    /// With no steps, the output is the result of the window.
    pub fn new(steps: Vec<RowStep>, keys: Vec<usize>, schema: SchemaRef) -> Self {
        FinishRows { steps, keys, schema }
    }
}

impl Finish for FinishRows {
    fn run(&mut self, mut rows: RecordBatch) -> Result<RecordBatch> {
        for step in &self.steps {
            rows = match step {
                RowStep::Project { exprs, schema } => {
                    let columns = exprs.iter().map(|expr| expr.evaluate(&rows)?.into_array(rows.num_rows()));
                    let columns = columns.collect::<Result<_, datafusion::error::DataFusionError>>()?;
                    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
                    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?
                }
                RowStep::Filter { predicate } => {
                    let keep = predicate.evaluate(&rows)?.into_array(rows.num_rows())?;
                    filter_record_batch(&rows, as_boolean_array(&keep)?)?
                }
            };
        }
        with_schema(rows, &self.schema)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn keys(&self) -> &[usize] {
        &self.keys
    }

    fn rowwise(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        let column = |(expr, field): (&Arc<dyn PhysicalExpr>, &FieldRef)| match fmt_sql(expr.as_ref()).to_string() {
            text if text == *field.name() => text,
            text => format!("{text} AS {}", field.name()),
        };
        let steps = self.steps.iter().map(|step| match step {
            RowStep::Project { exprs, schema } => {
                format!("project [{}]", exprs.iter().zip(schema.fields()).map(column).collect::<Vec<_>>().join(", "))
            }
            RowStep::Filter { predicate } => format!("filter {}", fmt_sql(predicate.as_ref())),
        });
        steps.collect::<Vec<_>>().join(", then ")
    }
}

/// Finishes a window by a bounded plan.
struct FinishPlan {
    run: BoundedRun,
    keys: Vec<usize>,
    schema: SchemaRef,
}

impl Finish for FinishPlan {
    fn run(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        self.run.put(0, rows);
        with_schema(self.run.run()?, &self.schema)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn keys(&self) -> &[usize] {
        &self.keys
    }

    fn describe(&self) -> String {
        self.run.describe()
    }
}

/// The same columns under the names and marks that the query gives them.
fn with_schema(rows: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)?)
}
