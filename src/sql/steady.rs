//! Which functions of an expression give another value when they are asked again, and which DataFusion takes for constants of a query.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Volatility};

/// DataFusion's functions of the time, by the names that they have whatever a query calls them.
const CLOCKS: [&str; 3] = ["now", "current_date", "current_time"];

/// Whether a function tells the time.
pub fn is_clock(name: &str) -> bool {
    CLOCKS.contains(&name)
}

/// The name of the first function of the time in an expression.
pub fn first_clock(expr: &Expr) -> Option<String> {
    first(expr, &|name, _, _| is_clock(name))
}

/// The name of the first function in an expression that DataFusion takes for a constant of the query and that is none.
pub fn frozen(expr: &Expr) -> Option<String> {
    first(expr, &|_, volatility, args| volatility == Volatility::Stable && args.iter().all(|arg| !arg.any_column_refs()))
}

/// The name of the first function in an expression that may give another value when it is asked again, so that a row could not be taken
/// back as it was sent.
pub fn unsteady(expr: &Expr) -> Option<String> {
    first(expr, &|_, volatility, _| volatility != Volatility::Immutable)
}

/// The name of the first function in an expression that gives another value for every row: chance, which no optimiser folds.
pub fn chance(expr: &Expr) -> Option<String> {
    first(expr, &|_, volatility, _| volatility == Volatility::Volatile)
}

/// The name of the first function that is wanted, by its name, volatility and arguments; not looking into subqueries.
fn first(expr: &Expr, wanted: &dyn Fn(&str, Volatility, &[Expr]) -> bool) -> Option<String> {
    let mut found = None;
    let _ = expr.apply(|part| {
        let (name, volatility, args) = match part {
            Expr::ScalarFunction(call) => (call.func.name(), call.func.signature().volatility, call.args.as_slice()),
            Expr::AggregateFunction(call) => (call.func.name(), call.func.signature().volatility, call.params.args.as_slice()),
            Expr::WindowFunction(call) => (call.fun.name(), call.fun.signature().volatility, call.params.args.as_slice()),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        if !wanted(name, volatility, args) {
            return Ok(TreeNodeRecursion::Continue);
        }
        found = Some(name.to_string());
        Ok(TreeNodeRecursion::Stop)
    });
    found
}
