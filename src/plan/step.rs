//! A planned query as plain data: a tree of steps that can be run many times, each run with operators of its own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, SchemaRef, UInt32Type};
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, aggregate::AggregateFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;

use super::bounded::{BoundedPlan, BoundedRun};
use super::finish::{Finished, with_schema};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::operator::{
    Chain, Emission, Filter, Function, Hold, Limit, Message, Operator, Order, Over, OverSpec, Project, Union, WindowAggregate, WindowAggregateSpec,
};
use crate::table::Table;
use crate::window::Shape;

/// A whole query over streams.
#[derive(Debug)]
pub struct Plan {
    pub root: Step,
    /// The columns of the result.
    pub schema: SchemaRef,
}

/// One step and what it reads from.
#[derive(Debug)]
pub enum Step {
    Source { table: Arc<Table>, projection: Vec<usize>, schema: SchemaRef },
    Filter { input: Box<Step>, predicate: Arc<dyn PhysicalExpr> },
    Project { input: Box<Step>, exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
    Window(Box<WindowStep>),
    Over { input: Box<Step>, partition_by: Vec<Arc<dyn PhysicalExpr>>, order: Order, functions: Vec<Function>, schema: SchemaRef },
    Union { inputs: Vec<Step> },
    Limit { input: Box<Step>, skip: usize, fetch: Option<usize> },
    /// Watermarks `by` later: what comes out of a window below is its last word.
    Hold { input: Box<Step>, by: Duration },
    /// A join with rows that do not change: `fixed` is read once, `lookup` runs on each batch (slot 0) and the fixed rows (slot 1).
    Lookup { input: Box<Step>, fixed: Arc<dyn ExecutionPlan>, lookup: BoundedPlan, columns: LookupColumns, schema: SchemaRef },
}

/// A window aggregate with what happens inside each emitted window.
#[derive(Debug)]
pub struct WindowStep {
    pub input: Step,
    pub shape: Shape,
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    pub output: SchemaRef,
    pub window_index: usize,
    pub emission: Emission,
    pub finish: Finished,
}

/// A source of a run: which table, and the columns it reads.
#[derive(Debug, Clone)]
pub struct SourceRef {
    pub table: Arc<Table>,
    pub projection: Vec<usize>,
}

/// The fixed side of a join: its plan, and where its rows go once they are read.
pub struct FixedRef {
    pub plan: Arc<dyn ExecutionPlan>,
    pub rows: std::sync::mpsc::SyncSender<RecordBatch>,
}

impl Plan {
    pub fn new(root: Step, schema: SchemaRef) -> Self {
        Plan { root, schema }
    }

    /// Whether results are corrected later, so that rows carry weights.
    pub fn is_changelog(&self) -> bool {
        self.root.is_changelog()
    }

    /// Whether the query ends by itself.
    pub fn is_finite(&self) -> bool {
        self.root.sources().iter().all(|source| source.table.spec().finite) || self.root.is_limited()
    }

    /// A chain with state of its own, the tables to feed it with in the order of its inputs, and fixed rows to read before it starts.
    pub fn chain(&self) -> Result<(Chain, Vec<SourceRef>, Vec<FixedRef>)> {
        let mut build = Build { chain: Chain::default(), sources: Vec::new(), fixed: Vec::new() };
        let root = self.root.build(&mut build)?;
        build.chain.finish(root);
        Ok((build.chain, build.sources, build.fixed))
    }

    /// The tree of steps, the root first, two blanks a level.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        self.root.describe(0, &mut text);
        text
    }
}
