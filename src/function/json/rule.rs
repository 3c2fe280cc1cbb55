//! Where a plan orders, groups or joins by values of which equal ones may look different: by what `->` gives, and by floats.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use super::cast::by_value;
use super::get;
use super::key::{key, key_within};
use super::value::is_json;
use crate::function::form::{formed_within, has_forms, in_one_form, is_formed};

/// Orders by keys, groups by values in one form, and gives the functions of JSON their own way to find a value.
///
/// It runs once types are known, after the rule that folds a cast of `->` into a function: that one looks for DataFusion's functions.
#[derive(Debug)]
pub struct Rule;

impl AnalyzerRule for Rule {
    fn name(&self) -> &str {
        "json_values"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        Ok(plan
            .transform_up_with_subqueries(|plan| {
                let schema = merge_schema(&plan.inputs());
                let plan = plan.map_expressions(|expr| expr.transform_up(|expr| in_our_way(expr, &schema)))?;
                plan.transform_data(|plan| parted_by_value(plan, &schema))
            })?
            .data)
    }
}

/// An expression as the functions of this room compute it. The casts that the types of arguments ask for are there by now.
fn in_our_way(expr: Expr, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    Ok(get::wrap(by_value(ordered(expr, schema), schema).data))
}

fn json(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| is_json(&data_type))
}

fn formed(expr: &Expr, schema: &DFSchema) -> bool {
    !is_formed(expr) && expr.get_type(schema).is_ok_and(|data_type| has_forms(&data_type))
}

/// What is compared by its bytes: keys of JSON, and floats in one form.
fn parted(expr: Expr, schema: &DFSchema) -> Expr {
    if json(&expr, schema) {
        key_within(expr)
    } else if formed(&expr, schema) {
        formed_within(expr)
    } else {
        expr
    }
}

fn sorted(by: Vec<Sort>, by_value: impl Fn(Expr) -> Expr) -> Vec<Sort> {
    by.into_iter().map(|Sort { expr, asc, nulls_first }| Sort { expr: by_value(expr), asc, nulls_first }).collect()
}

/// What an aggregate or window function orders and parts its rows by.
fn ordered(expr: Expr, schema: &DFSchema) -> Expr {
    match expr {
        Expr::WindowFunction(mut call) => {
            call.params.partition_by = call.params.partition_by.into_iter().map(|by| parted(by, schema)).collect();
            Expr::WindowFunction(call)
        }
        Expr::AggregateFunction(mut call) => {
            let key = |by| if json(&by, schema) { key_within(by) } else { by };
            call.params.order_by = sorted(call.params.order_by, key);
            Expr::AggregateFunction(call)
        }
        other => other,
    }
}

fn parted_by_value(plan: LogicalPlan, schema: &DFSchema) -> DataFusionResult<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Sort(mut sort) if sort.expr.iter().any(|by| formed(&by.expr, schema)) => {
            sort.expr = sorted(sort.expr, |by| parted(by, schema));
            Ok(Transformed::yes(LogicalPlan::Sort(sort)))
        }
        LogicalPlan::Aggregate(mut aggregate) if aggregate.group_expr.iter().any(|by| formed(by, schema)) => {
            let normal = |by: Expr| match formed(&by, schema) {
                true => {
                    let (relation, name) = by.qualified_name();
                    in_one_form(by.unalias()).alias_qualified(relation, name)
                }
                false => by,
            };
            aggregate.group_expr = aggregate.group_expr.into_iter().map(normal).collect();
            Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
        }
        LogicalPlan::Distinct(Distinct::All(input))
            if input.schema().fields().iter().any(|field| has_forms(field.data_type())) =>
        {
            let column =
                |(relation, field): (Option<&datafusion::common::TableReference>, &std::sync::Arc<arrow::datatypes::Field>)| {
                    let column = Expr::Column(Column::new(relation.cloned(), field.name()));
                    match has_forms(field.data_type()) {
                        true => in_one_form(column).alias_qualified(relation.cloned(), field.name()),
                        false => column,
                    }
                };
            let columns: Vec<Expr> = input.schema().iter().map(column).collect();
            let input = LogicalPlanBuilder::from(input.as_ref().clone()).project(columns)?.build()?;
            Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::All(input.into()))))
        }
        LogicalPlan::Join(mut join) if join.on.iter().any(|(left, right)| formed(left, schema) || formed(right, schema)) => {
            let keys = |(left, right): (Expr, Expr)| {
                if json(&left, schema) || json(&right, schema) {
                    (key(left, None), key(right, None))
                } else if formed(&left, schema) || formed(&right, schema) {
                    (in_one_form(left), in_one_form(right))
                } else {
                    (left, right)
                }
            };
            join.on = join.on.into_iter().map(keys).collect();
            Ok(Transformed::yes(LogicalPlan::Join(join)))
        }
        other => Ok(Transformed::no(other)),
    }
}
