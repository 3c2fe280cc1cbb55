//! What happens inside one emitted window: which part of a logical plan that is, and which of its columns name a row.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use super::marker;
use super::node::WindowNode;
use crate::error::Result;
use crate::operator::bounded::SlotNode;

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

/// Each node between `top` and its window.
pub fn above(top: &LogicalPlan, each: &mut dyn FnMut(&LogicalPlan) -> Result<()>) -> Result<()> {
    if WindowNode::of(top).is_some() {
        return Ok(());
    }
    each(top)?;
    top.inputs().into_iter().try_for_each(|input| above(input, each))
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

/// The columns of `top` that name a row of the whole result: the group columns of the topmost grouping, where all of them are left.
pub fn key(top: &LogicalPlan) -> Option<Vec<usize>> {
    match top {
        LogicalPlan::Projection(projection) => {
            let below = key(&projection.input)?;
            let schema = projection.input.schema();
            let place = |index: &usize| {
                projection.expr.iter().position(|expr| match expr.clone().unalias_nested().data {
                    Expr::Column(column) => schema.maybe_index_of_column(&column) == Some(*index),
                    _ => false,
                })
            };
            below.iter().map(place).collect()
        }
        LogicalPlan::SubqueryAlias(alias) => key(&alias.input),
        LogicalPlan::Filter(filter) => key(&filter.input),
        LogicalPlan::Sort(sort) => key(&sort.input),
        LogicalPlan::Limit(limit) => key(&limit.input),
        LogicalPlan::Window(over) => key(&over.input),
        LogicalPlan::Distinct(Distinct::All(input)) => key(input),
        LogicalPlan::Aggregate(aggregate) => Some((0..aggregate.group_expr.len()).collect()),
        // An unnested row is there as often as its list is long.
        _ => WindowNode::of(top).map(|node| (0..=node.keys.len()).collect()),
    }
}
