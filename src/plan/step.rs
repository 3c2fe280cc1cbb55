//! A planned query as plain data: a tree of steps that can be run many times, each run with operators of its own.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;

use super::describe::readable;
use crate::error::Result;
use crate::operator::bounded::BoundedPlan;
use crate::operator::lookup;
use crate::operator::{
    Chain, Emission, Filter, Finished, Hold, Limit, Lookup, Merge, Over, OverSpec, Project, Tree, WindowAggregate,
    WindowAggregateSpec,
};
use crate::table::{ARRIVAL, Table};
use crate::window::Shape;

/// A whole query over streams.
#[derive(Debug)]
pub struct Plan {
    pub root: Step,
    /// The columns of the result.
    pub schema: SchemaRef,
    /// What its author may not expect of it.
    pub notices: Vec<String>,
}

/// One step and what it reads from.
#[derive(Debug)]
pub enum Step {
    Source {
        table: Arc<Table>,
        projection: Vec<usize>,
        schema: SchemaRef,
    },
    Filter {
        input: Box<Step>,
        predicate: Arc<dyn PhysicalExpr>,
    },
    Project {
        input: Box<Step>,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    Window(Box<WindowStep>),
    Over {
        input: Box<Step>,
        spec: OverSpec,
    },
    Union {
        inputs: Vec<Step>,
    },
    Limit {
        input: Box<Step>,
        skip: usize,
        fetch: Option<usize>,
    },
    /// Watermarks `by` later: what comes out of a window below is its last word.
    Hold {
        input: Box<Step>,
        by: Duration,
    },
    /// A join with rows that do not change: `fixed` is read once, `lookup` runs on each batch (slot 0) and the fixed rows (slot 1).
    Lookup {
        input: Box<Step>,
        fixed: Arc<dyn ExecutionPlan>,
        lookup: BoundedPlan,
        build: lookup::Build,
        columns: lookup::Columns,
        schema: SchemaRef,
    },
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
    /// See [`Plan::key`].
    pub key: Option<Vec<usize>>,
}

/// A chain with state of its own, and what it is fed with.
pub struct Instance {
    pub chain: Chain,
    /// The table of each input of the chain, and the columns it reads.
    pub sources: Vec<(Arc<Table>, Vec<usize>)>,
    /// Rows to read before the first message.
    pub fixed: Vec<Fixed>,
}

/// The fixed side of a join: its plan, and where its rows go once they are read.
pub struct Fixed {
    pub plan: Arc<dyn ExecutionPlan>,
    pub rows: Arc<OnceLock<RecordBatch>>,
}

impl Plan {
    pub fn new(root: Step, schema: SchemaRef, notices: Vec<String>) -> Self {
        Plan { root, schema, notices }
    }

    /// Whether results are corrected later, so that rows carry weights.
    pub fn is_changelog(&self) -> bool {
        self.root.is_changelog()
    }

    /// The columns of the result that name a row: the primary key of a keyed table, or window and group columns. `None` where there is
    /// no such key, or not all of it is left.
    pub fn key(&self) -> Option<Vec<usize>> {
        self.root.key()
    }

    /// Whether the query ends by itself: all its feeds do, or it stops after so many rows.
    pub fn is_finite(&self) -> bool {
        self.root.is_finite()
    }

    /// Whether results are those of windows: a row once settled stays so.
    pub fn is_windowed(&self) -> bool {
        self.root.is_windowed()
    }

    pub fn instance(&self) -> Result<Instance> {
        let mut sources = Vec::new();
        let mut fixed = Vec::new();
        let tree = self.root.tree(&mut sources, &mut fixed)?;
        Ok(Instance { chain: Chain::new(tree), sources, fixed })
    }

    /// The chain for `EXPLAIN`: a line an operator, the last one first, two blanks a level.
    pub fn describe(&self) -> Result<String> {
        Ok(readable(&self.instance()?.chain.describe()).replace(ARRIVAL, "time of arrival"))
    }
}

impl Step {
    fn tree(&self, sources: &mut Vec<(Arc<Table>, Vec<usize>)>, fixed: &mut Vec<Fixed>) -> Result<Tree> {
        let mut below = |step: &Step| step.tree(sources, fixed);
        Ok(match self {
            Step::Source { table, projection, .. } => {
                let spec = table.spec();
                // The place behind the last column is the time of arrival.
                let name = |index: &usize| spec.schema.fields().get(*index).map_or(ARRIVAL, |field| field.name().as_str());
                let names: Vec<&str> = projection.iter().map(name).collect();
                let key = spec.key_text().map_or(String::new(), |key| format!(", primary key ({key})"));
                let line = format!("Feed: {} [{}], {}{key}", spec.name, names.join(", "), spec.time_text());
                sources.push((Arc::clone(table), projection.clone()));
                Tree::source(sources.len() - 1, line)
            }
            Step::Filter { input, predicate } => Tree::operator(Filter::new(Arc::clone(predicate)), vec![below(input)?]),
            Step::Project { input, exprs, schema } => {
                Tree::operator(Project::new(exprs.clone(), Arc::clone(schema))?, vec![below(input)?])
            }
            Step::Window(window) => {
                let input = below(&window.input)?;
                let spec = WindowAggregateSpec {
                    shape: window.shape,
                    keys: window.keys.clone(),
                    aggregates: window.aggregates.clone(),
                    filters: window.filters.clone(),
                    output: Arc::clone(&window.output),
                    window_index: window.window_index,
                    emission: window.emission,
                    finish: window.finish.runner()?,
                };
                Tree::operator(WindowAggregate::new(spec)?, vec![input])
            }
            Step::Over { input, spec } => Tree::operator(Over::new(spec.clone())?, vec![below(input)?]),
            Step::Union { inputs } => Tree::operator(Merge::new(inputs.len()), inputs.iter().map(below).collect::<Result<_>>()?),
            Step::Limit { input, skip, fetch } => Tree::operator(Limit::new(*skip, *fetch), vec![below(input)?]),
            Step::Hold { input, by } => Tree::operator(Hold::new(*by), vec![below(input)?]),
            Step::Lookup { input, fixed: plan, lookup, build, columns, schema } => {
                let input = below(input)?;
                let rows = Arc::default();
                fixed.push(Fixed { plan: Arc::clone(plan), rows: Arc::clone(&rows) });
                Tree::operator(Lookup::new(lookup.runner(2)?, *build, rows, columns.clone(), Arc::clone(schema)), vec![input])
            }
        })
    }

    fn inputs(&self) -> Vec<&Step> {
        match self {
            Step::Source { .. } => Vec::new(),
            Step::Union { inputs } => inputs.iter().collect(),
            Step::Window(window) => vec![&window.input],
            Step::Filter { input, .. }
            | Step::Project { input, .. }
            | Step::Over { input, .. }
            | Step::Limit { input, .. }
            | Step::Hold { input, .. }
            | Step::Lookup { input, .. } => vec![input],
        }
    }

    pub fn is_changelog(&self) -> bool {
        match self {
            Step::Window(window) => window.emission.updates(),
            Step::Source { table, .. } => table.spec().key.is_some(),
            other => other.inputs().into_iter().any(Step::is_changelog),
        }
    }

    fn key(&self) -> Option<Vec<usize>> {
        match self {
            Step::Source { table, projection, .. } => {
                let place = |index: &usize| projection.iter().position(|read| read == index);
                table.spec().key.as_ref()?.iter().map(place).collect()
            }
            Step::Window(window) => window.key.clone(),
            Step::Project { input, exprs, .. } => {
                let place = |index: &usize| {
                    let is_it = |expr: &Arc<dyn PhysicalExpr>| {
                        (expr.as_ref() as &dyn Any).downcast_ref::<Column>().is_some_and(|column| column.index() == *index)
                    };
                    exprs.iter().position(is_it)
                };
                input.key()?.iter().map(place).collect()
            }
            Step::Filter { input, .. } | Step::Limit { input, .. } | Step::Hold { input, .. } => input.key(),
            // What comes in stands first in what goes out.
            Step::Over { input, .. } => input.key(),
            // Rows of several streams may have one key, and a row of a join may be there several times.
            Step::Union { .. } | Step::Lookup { .. } => None,
        }
    }

    fn is_windowed(&self) -> bool {
        matches!(self, Step::Window(_)) || self.inputs().into_iter().any(Step::is_windowed)
    }

    fn is_finite(&self) -> bool {
        match self {
            Step::Source { table, .. } => table.spec().finite,
            Step::Limit { fetch: Some(_), .. } => true,
            other => other.inputs().into_iter().all(Step::is_finite),
        }
    }

    /// The same rows under the names and marks of another schema with the same types.
    pub fn with_schema(self, from: &SchemaRef, schema: &SchemaRef) -> Step {
        let column = |(index, field): (usize, &Arc<arrow::datatypes::Field>)| {
            Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>
        };
        let exprs = from.fields().iter().enumerate().map(column).collect();
        Step::Project { input: Box::new(self), exprs, schema: Arc::clone(schema) }
    }
}
