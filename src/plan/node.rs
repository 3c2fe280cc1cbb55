//! `GROUP BY` with a window as a node of DataFusion's logical plan, and the analyzer rule that makes it out of an aggregate.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Aggregate, Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::optimizer::AnalyzerRule;

use super::finish::window_under;
use super::marker::{self, Call};
use crate::error::{Code, Error, Result};
use crate::sql::chance;
use crate::window::Shape;

/// An aggregate by a window and further keys. Its schema is that of the aggregate it came from: the group columns, among them
/// the window at `window_index`, then the aggregates.
#[derive(Debug, Clone)]
pub struct WindowNode {
    pub input: Arc<LogicalPlan>,
    pub shape: Shape,
    /// The group columns without the window.
    pub keys: Vec<Expr>,
    pub aggregates: Vec<Expr>,
    pub window_index: usize,
    pub schema: DFSchemaRef,
}

impl WindowNode {
    fn new(aggregate: &Aggregate) -> Result<Option<Self>> {
        let mut found: Option<(usize, Call)> = None;
        for (index, expr) in aggregate.group_expr.iter().enumerate() {
            if matches!(expr, Expr::GroupingSet(_)) && marker::first_call(expr).is_some() {
                return Err(Error::new(Code::NotYet, "ROLLUP, CUBE and GROUPING SETS with a window are not built yet")
                    .hint("UNION ALL a view for each of the groupings, or group the results of a window again"));
            }
            let Some(call) = marker::call(expr)? else { continue };
            if found.replace((index, call)).is_some() {
                return Err(Error::new(Code::Window, "a GROUP BY takes one window, not two")
                    .hint("group by one window here, and by the other in a view over this one"));
            }
        }
        let Some((window_index, call)) = found else { return Ok(None) };
        if let Some(time) = &call.time
            && !marker::is_event_time(time, aggregate.input.schema())
        {
            let time = match time {
                Expr::Column(column) => column.name.clone(),
                other => other.to_string(),
            };
            return Err(Error::new(Code::EventTime, format!("'{time}' is not the event time of the rows")).hint(format!(
                "declare it with the table: WATERMARK FOR {time}, or event_time_field = '{time}'; then leave it out of the call"
            )));
        }
        let mut keys = aggregate.group_expr.clone();
        keys.remove(window_index);
        Ok(Some(WindowNode {
            input: Arc::clone(&aggregate.input),
            shape: call.shape,
            keys,
            aggregates: aggregate.aggr_expr.clone(),
            window_index,
            schema: Arc::clone(&aggregate.schema),
        }))
    }

    /// The node at the root of `plan`, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&WindowNode> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    fn identity(&self) -> (&LogicalPlan, &Shape, &[Expr], &[Expr], usize) {
        (&self.input, &self.shape, &self.keys, &self.aggregates, self.window_index)
    }
}

impl PartialEq for WindowNode {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for WindowNode {}

impl Hash for WindowNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.keys, &self.aggregates, self.window_index).hash(state);
    }
}

impl PartialOrd for WindowNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.input, &self.keys, &self.aggregates).partial_cmp(&(&other.input, &other.keys, &other.aggregates))
    }
}

impl UserDefinedLogicalNodeCore for WindowNode {
    fn name(&self) -> &str {
        "WindowAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().chain(&self.aggregates).cloned().collect()
    }

    /// A filter by a key that is a column of the rows may go below: it has the same name there. One by the window, by an aggregate or by a
    /// key that is computed may not: below there is no such column.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let is_column = |index: usize| match index.cmp(&self.window_index) {
            Ordering::Equal => false,
            side => {
                let key = if side == Ordering::Less { index } else { index - 1 };
                let (qualifier, field) = self.schema.qualified_field(index);
                matches!(self.keys.get(key), Some(Expr::Column(column)) if *column == Column::from((qualifier, field)))
            }
        };
        let all = self.schema.fields().iter().enumerate();
        all.filter(|(index, _)| !is_column(*index)).map(|(_, field)| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "WindowAggregate: {} by [{}], [{}]", self.shape, list(&self.keys), list(&self.aggregates))
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let aggregates = exprs.split_off(self.keys.len());
        let input = Arc::new(inputs.remove(0));
        Ok(WindowNode { input, keys: exprs, aggregates, ..self.clone() })
    }

    /// Without this the scan below would read every column.
    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema();
        let mut needed: Vec<usize> = self
            .expressions()
            .iter()
            .flat_map(Expr::column_refs)
            .filter_map(|column: &Column| schema.maybe_index_of_column(column))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Puts a [`WindowNode`] in the place of every aggregate that groups by a window, and refuses a window that stands elsewhere.
#[derive(Debug)]
pub struct FindWindows;

impl AnalyzerRule for FindWindows {
    fn name(&self) -> &str {
        "streamgauge_find_windows"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let plan = plan.transform_up_with_subqueries(|plan| match &plan {
            LogicalPlan::Aggregate(aggregate) => match WindowNode::new(aggregate)? {
                Some(node) => Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) }))),
                None => Ok(Transformed::no(plan)),
            },
            _ => Ok(Transformed::no(plan)),
        })?;
        plan.data.apply_with_subqueries(|plan| {
            match plan {
                LogicalPlan::Filter(filter) if window_under(&filter.input).is_some() => refuse_chance(&filter.predicate)?,
                _ => {}
            }
            plan.apply_expressions(|expr| match marker::first_call(expr) {
                Some(kind) => Err(marker::outside(kind).into()),
                None => Ok(TreeNodeRecursion::Continue),
            })
        })?;
        Ok(plan.data)
    }
}

/// Refuses a condition of chance on the results of a window. Where all its columns are keys it would be asked of the rows below, one by one.
fn refuse_chance(predicate: &Expr) -> Result<()> {
    let Some(name) = chance(predicate) else { return Ok(()) };
    Err(Error::new(Code::NotYet, format!("{name}() in a condition on the results of a window is not built yet")).hint(format!(
        "select it, and compare that: SELECT * FROM (SELECT {name}() AS chance, … GROUP BY window) WHERE chance < 0.5"
    )))
}
