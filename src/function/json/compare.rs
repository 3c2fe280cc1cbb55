//! Comparisons with what `->` gives: by value, whatever type the other side has.
//!
//! Values of two kinds are different, and neither is less than the other: `d -> 'level' > 4` is NULL where the level is a text. Among
//! values of JSON alone, and in ORDER BY, there is an order: booleans, numbers, texts, arrays, objects.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Between, BinaryExpr, Case, InList, WindowFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Operator, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use super::extreme;
use super::key::{JsonKind, has_key, key, key_within};
use super::value::is_json;

/// Compares keys where values of JSON are compared.
#[derive(Debug)]
pub struct CompareJson;

impl FunctionRewrite for CompareJson {
    fn name(&self) -> &str {
        "json_comparison"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> DataFusionResult<Transformed<Expr>> {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => match by_key(&[&left, &right], schema) {
                Some(types) => {
                    let only = if is_order(op) { types.iter().find_map(JsonKind::of) } else { None };
                    let (left, right) = (Box::new(key(*left, only)), Box::new(key(*right, only)));
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
                }
                None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            },
            Expr::Between(Between { expr, negated, low, high }) => match by_key(&[&expr, &low, &high], schema) {
                Some(types) => {
                    let only = types.iter().find_map(JsonKind::of);
                    let [expr, low, high] = [expr, low, high].map(|part| Box::new(key(*part, only)));
                    Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
                }
                None => Transformed::no(Expr::Between(Between { expr, negated, low, high })),
            },
            Expr::InList(InList { expr, list, negated }) => {
                let parts: Vec<&Expr> = std::iter::once(expr.as_ref()).chain(&list).collect();
                match by_key(&parts, schema) {
                    Some(_) => {
                        let list = list.into_iter().map(|part| key(part, None)).collect();
                        Transformed::yes(Expr::InList(InList { expr: Box::new(key(*expr, None)), list, negated }))
                    }
                    None => Transformed::no(Expr::InList(InList { expr, list, negated })),
                }
            }
            Expr::Case(Case { expr: Some(of), when_then_expr, else_expr }) => {
                let parts: Vec<&Expr> =
                    std::iter::once(of.as_ref()).chain(when_then_expr.iter().map(|(when, _)| when.as_ref())).collect();
                match by_key(&parts, schema) {
                    Some(_) => {
                        let branches = when_then_expr.into_iter().map(|(when, then)| (Box::new(key(*when, None)), then));
                        let when_then_expr = branches.collect();
                        Transformed::yes(Expr::Case(Case { expr: Some(Box::new(key(*of, None))), when_then_expr, else_expr }))
                    }
                    None => Transformed::no(Expr::Case(Case { expr: Some(of), when_then_expr, else_expr })),
                }
            }
            Expr::AggregateFunction(mut call) => {
                let over_json = call.params.args.first().is_some_and(|arg| json(arg, schema));
                match extreme::of(&call.func).filter(|_| over_json) {
                    Some(func) => {
                        call.func = func;
                        Transformed::yes(Expr::AggregateFunction(call))
                    }
                    None if over_json && call.params.distinct && call.func.name() == "count" => {
                        call.params.args = call.params.args.into_iter().map(key_within).collect();
                        Transformed::yes(Expr::AggregateFunction(call))
                    }
                    None => Transformed::no(Expr::AggregateFunction(call)),
                }
            }
            Expr::WindowFunction(call) => window(*call, schema),
            other => Transformed::no(other),
        })
    }
}

fn json(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| is_json(&data_type))
}

/// A window function over JSON, or in its order. Rows of one key are peers, which a frame of groups says as one of a range does: a
/// range would have to know how far two keys are apart.
fn window(mut call: WindowFunction, schema: &DFSchema) -> Transformed<Expr> {
    let mut changed = false;
    if let WindowFunctionDefinition::AggregateUDF(func) = &call.fun
        && call.params.args.first().is_some_and(|arg| json(arg, schema))
        && let Some(func) = extreme::of(func)
    {
        call.fun = WindowFunctionDefinition::AggregateUDF(func);
        changed = true;
    }
    let frame = &call.params.window_frame;
    let near = |bound: &WindowFrameBound| bound.is_unbounded() || matches!(bound, WindowFrameBound::CurrentRow);
    let near = near(&frame.start_bound) && near(&frame.end_bound);
    if call.params.order_by.iter().any(|by| json(&by.expr, schema)) && (near || frame.units != WindowFrameUnits::Range) {
        for by in &mut call.params.order_by {
            let expr = std::mem::take(&mut by.expr);
            by.expr = if json(&expr, schema) { key_within(expr) } else { expr };
        }
        if frame.units == WindowFrameUnits::Range {
            let (start, end) = (frame.start_bound.clone(), frame.end_bound.clone());
            call.params.window_frame = WindowFrame::new_bounds(WindowFrameUnits::Groups, start, end);
        }
        changed = true;
    }
    match changed {
        true => Transformed::yes(Expr::WindowFunction(Box::new(call))),
        false => Transformed::no(Expr::WindowFunction(Box::new(call))),
    }
}

/// The types of the expressions, where one is JSON and the others can be compared with it.
fn by_key(parts: &[&Expr], schema: &DFSchema) -> Option<Vec<DataType>> {
    let types = parts.iter().map(|part| part.get_type(schema).ok()).collect::<Option<Vec<_>>>()?;
    (types.iter().any(is_json) && types.iter().all(has_key)).then_some(types)
}

fn compares(op: Operator) -> bool {
    is_order(op) || matches!(op, Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom)
}

fn is_order(op: Operator) -> bool {
    matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}
