//! What happens inside one emitted window: which part of a plan that is, and how it is run.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::{FieldRef, SchemaRef, TimestampNanosecondType};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::bounded::{BoundedPlan, BoundedRun, SlotNode};
use super::marker;
use super::node::WindowNode;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::operator::rows::{BadRows, Evaluated, evaluate_rows};
use crate::operator::{Finish, Report};
use crate::time::TimestampArray;

/// The window that `plan` looks at one at a time: every node from its root down to the window keeps windows apart.
pub fn window_under(plan: &LogicalPlan) -> Option<&WindowNode> {
    if let Some(node) = WindowNode::of(plan) {
        return Some(node);
    }
    let window = |expr: &Expr, input: &LogicalPlan| marker::is_window(expr, input.schema());
    match plan {
        LogicalPlan::Projection(projection) => window_under(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => window_under(&alias.input),
        LogicalPlan::Filter(filter) => window_under(&filter.input),
        LogicalPlan::Sort(sort) => window_under(&sort.input),
        LogicalPlan::Unnest(unnest) => window_under(&unnest.input),
        // The first rows of an order are the first of each window; the first rows of a stream are its first ones.
        LogicalPlan::Limit(limit) if is_sorted(&limit.input) => window_under(&limit.input),
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(|expr| window(expr, &aggregate.input)) => {
            window_under(&aggregate.input)
        }
        LogicalPlan::Distinct(Distinct::All(input))
            if input.schema().iter().any(|(qualifier, field)| window(&Expr::Column((qualifier, field).into()), input)) =>
        {
            window_under(input)
        }
        LogicalPlan::Window(over) => {
            let per_window = |expr: &Expr| match expr {
                Expr::WindowFunction(function) => function.params.partition_by.iter().any(|by| window(by, &over.input)),
                _ => false,
            };
            match over.window_expr.iter().all(|expr| per_window(&expr.clone().unalias_nested().data)) {
                true => window_under(&over.input),
                false => None,
            }
        }
        _ => None,
    }
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_sorted(&alias.input),
        _ => false,
    }
}

/// The nodes between `top` and its window from below, if each of them looks at one row at a time.
pub fn row_by_row(top: &LogicalPlan) -> Option<Vec<&LogicalPlan>> {
    let mut nodes = Vec::new();
    let mut plan = top;
    while WindowNode::of(plan).is_none() {
        plan = match plan {
            LogicalPlan::Projection(projection) => {
                nodes.push(plan);
                &projection.input
            }
            LogicalPlan::Filter(filter) => {
                nodes.push(plan);
                &filter.input
            }
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            _ => return None,
        };
    }
    nodes.reverse();
    Some(nodes)
}

/// `top` with its window replaced by rows that are put there.
pub fn over_slot(top: &LogicalPlan) -> Result<LogicalPlan> {
    let plan = top.clone().transform_down(|plan| match WindowNode::of(&plan) {
        Some(node) => Ok(Transformed::new(
            SlotNode::plan(0, Arc::clone(&node.schema)),
            true,
            datafusion::common::tree_node::TreeNodeRecursion::Jump,
        )),
        None => Ok(Transformed::no(plan)),
    })?;
    Ok(plan.data)
}

/// The columns of `top` that name a row within its window: those that come from a group column.
pub fn keys(top: &LogicalPlan, node: &WindowNode) -> Vec<usize> {
    (0..top.schema().fields().len()).filter(|index| is_key(top, *index, node)).collect()
}

fn is_key(plan: &LogicalPlan, index: usize, node: &WindowNode) -> bool {
    let below = |input: &LogicalPlan, expr: &Expr| match expr.clone().unalias_nested().data {
        Expr::Column(column) => input.schema().maybe_index_of_column(&column).is_some_and(|index| is_key(input, index, node)),
        _ => false,
    };
    match plan {
        _ if WindowNode::of(plan).is_some() => index <= node.keys.len(),
        LogicalPlan::Projection(projection) => below(&projection.input, &projection.expr[index]),
        LogicalPlan::Aggregate(aggregate) => index < aggregate.group_expr.len(),
        LogicalPlan::SubqueryAlias(alias) => is_key(&alias.input, index, node),
        LogicalPlan::Filter(filter) => is_key(&filter.input, index, node),
        LogicalPlan::Sort(sort) => is_key(&sort.input, index, node),
        LogicalPlan::Limit(limit) => is_key(&limit.input, index, node),
        LogicalPlan::Window(over) if index < over.input.schema().fields().len() => is_key(&over.input, index, node),
        _ => false,
    }
}

/// What is done with the rows of an emitted window, as plain data.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Row by row: computed at once, for any number of windows.
    Rows { steps: Vec<RowStep>, keys: Vec<usize>, schema: SchemaRef, window_index: usize },
    /// A bounded plan, run for each window apart.
    Plan { plan: BoundedPlan, keys: Vec<usize>, schema: SchemaRef, window_index: usize },
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
            Finished::Rows { steps, keys, schema, window_index } => Box::new(FinishRows {
                steps: steps.clone(),
                keys: keys.clone(),
                schema: Arc::clone(schema),
                window_index: *window_index,
                bad: BadRows::default(),
            }),
            Finished::Plan { plan, keys, schema, window_index } => Box::new(FinishPlan {
                run: plan.runner(1)?,
                keys: keys.clone(),
                schema: Arc::clone(schema),
                window_index: *window_index,
                bad: BadRows::default(),
            }),
        })
    }
}

struct FinishRows {
    steps: Vec<RowStep>,
    keys: Vec<usize>,
    schema: SchemaRef,
    window_index: usize,
    bad: BadRows,
}

impl Finish for FinishRows {
    fn run(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        let mut changes = timed(rows, self.window_index)?;
        for step in &self.steps {
            let exprs = match step {
                RowStep::Project { exprs, .. } => exprs.as_slice(),
                RowStep::Filter { predicate } => std::slice::from_ref(predicate),
            };
            let Evaluated { columns, kept } = evaluate_rows(exprs, &changes, &mut self.bad)?;
            if let Some(kept) = kept {
                changes = changes.take(&kept)?;
            }
            match step {
                RowStep::Project { schema, .. } => {
                    let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
                    changes.rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
                }
                RowStep::Filter { .. } => {
                    let holds = as_boolean_array(&columns[0])?.iter().enumerate();
                    let holds = holds.filter(|(_, holds)| *holds == Some(true)).map(|(row, _)| row as u32);
                    let holds = UInt32Array::from_iter_values(holds);
                    if holds.len() < changes.len() {
                        changes = changes.take(&holds)?;
                    }
                }
            }
        }
        with_schema(changes.rows, &self.schema)
    }

    fn report(&self, report: &mut Report) {
        self.bad.report(report);
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

struct FinishPlan {
    run: BoundedRun,
    keys: Vec<usize>,
    schema: SchemaRef,
    window_index: usize,
    bad: BadRows,
}

impl FinishPlan {
    fn try_run(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        self.run.put(0, rows);
        with_schema(self.run.run()?, &self.schema)
    }

    /// The rows of a stretch that the plan can be run on: halves it until those that fail stand alone, which are noted as bad.
    fn good_rows(&mut self, changes: &Changes, start: usize, length: usize, good: &mut Vec<u32>) -> Result<()> {
        match self.try_run(changes.rows.slice(start, length)) {
            Ok(_) => good.extend(start as u32..(start + length) as u32),
            Err(error) if error.code() != Code::Runtime => return Err(error),
            Err(error) if length == 1 => self.bad.note(changes, start, &error),
            Err(_) => {
                let half = length / 2;
                self.good_rows(changes, start, half, good)?;
                self.good_rows(changes, start + half, length - half, good)?;
            }
        }
        Ok(())
    }
}

impl Finish for FinishPlan {
    /// A row on which an expression fails costs only itself; where only several together fail, they cost their window.
    fn run(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        match self.try_run(rows.clone()) {
            Err(error) if error.code() == Code::Runtime && rows.num_rows() > 0 => {}
            result => return result,
        }
        let changes = timed(rows, self.window_index)?;
        let mut good = Vec::new();
        self.good_rows(&changes, 0, changes.len(), &mut good)?;
        let rest = changes.take(&UInt32Array::from(good))?;
        match self.try_run(rest.rows.clone()) {
            Err(error) if error.code() == Code::Runtime && !rest.is_empty() => {
                (0..rest.len()).for_each(|row| self.bad.note(&rest, row, &error));
                Ok(RecordBatch::new_empty(Arc::clone(&self.schema)))
            }
            result => result,
        }
    }

    fn report(&self, report: &mut Report) {
        self.bad.report(report);
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

/// The rows of windows with their event times: the last moment of each one's window.
fn timed(rows: RecordBatch, window_index: usize) -> Result<Changes> {
    let windows = rows.column(window_index).as_struct_opt().ok_or_else(|| Error::bug("a window's column is no struct"))?;
    let ends = windows.column(1).as_primitive_opt::<TimestampNanosecondType>();
    let ends = ends.ok_or_else(|| Error::bug("a window's end is no time"))?;
    let times = TimestampArray::from_iter_values(ends.values().iter().map(|end| end - 1));
    Ok(Changes::inserts(rows, times))
}

/// The same columns under the names and marks that the query gives them.
pub fn with_schema(rows: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)?)
}
