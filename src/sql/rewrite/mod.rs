//! What users write and DataFusion does not read as meant, said in DataFusion's words: window calls, and aliases in `SELECT` and `WHERE`.

mod aliases;
mod named;
mod scope;
mod windows;

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, Visit, VisitMut, Visitor, VisitorMut,
};

use self::aliases::Aliases;
use self::named::Named;
pub use self::scope::Columns;
use self::scope::Scopes;
pub use self::windows::{is_call as is_window_call, place};
use super::bounds;
use super::clauses;
use super::statement::fold;
use super::zones::zones;
use crate::error::{Code, Error, Result};

/// Rewrites every `SELECT` of a query, at every depth, so that DataFusion plans it as it was meant:
///
/// - `TUMBLE/HOP/SESSION(…)` is grouped by as a whole, however `GROUP BY` names it; `window.start` reads its field. A window that is not
///   given its own name is called `window`.
/// - An alias can be used in the items after its own, that of a window in all items, and both in `WHERE` and in `QUALIFY`. A column of `FROM` of the same name wins.
/// - A condition of `WHERE` that holds an `OVER` moves to `QUALIFY`.
/// - `OVER w` and `OVER (w …)` are spelled out.
/// - `AT TIME ZONE` is a call of the function it stands for.
///
/// `columns` tells the columns of a table or view by its name. Windows that have no meaning are refused ([`Code::Window`]).
pub fn rewrite(query: &mut Query, columns: Columns) -> Result<()> {
    bounds::check(query)?;
    let mut pass = Pass { scopes: Scopes::new(columns), budget: EXPANSION_MAX };
    match query.visit(&mut pass) {
        ControlFlow::Continue(()) => {
            zones(query);
            Ok(())
        }
        ControlFlow::Break(error) => Err(error),
    }
}

/// Most parts of expressions that aliases may stand for in one query: an alias of aliases can grow twofold with every step.
const EXPANSION_MAX: usize = 100_000;

struct Pass<'a> {
    scopes: Scopes<'a>,
    budget: usize,
}

impl VisitorMut for Pass<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let Err(error) = clauses::check_query(query) {
            return ControlFlow::Break(error);
        }
        self.scopes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let done = self.body(&mut query.body, query.order_by.as_mut());
        self.scopes.leave();
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Pass<'_> {
    /// The `SELECT`s of one query; those of its subqueries have been visited before.
    fn body(&mut self, body: &mut SetExpr, order_by: Option<&mut OrderBy>) -> Result<()> {
        match body {
            SetExpr::Select(select) => self.select(select, order_by),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, None)?;
                self.body(right, None)
            }
            _ => Ok(()),
        }
    }

    fn select(&mut self, select: &mut Select, mut order_by: Option<&mut OrderBy>) -> Result<()> {
        clauses::check_select(select)?;
        windows::refuse_in_from(&select.from)?;
        let named = Named::take(select)?;
        named.expand(&mut select.projection)?;
        named.expand(&mut select.selection)?;
        named.expand(&mut select.qualify)?;
        if let Some(order_by) = order_by.as_deref_mut() {
            named.expand(order_by)?;
        }
        let mut aliases = Aliases::new(self.scopes.visible(&select.from), &mut self.budget);
        name_windows(&mut select.projection);
        let unnamed = unnamed_window(select, &aliases);
        if let Some(window) = &unnamed {
            aliases.add(&Ident::new(windows::NAME), window);
        }
        // The window is that of all items, wherever it stands among them.
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { expr, alias } = item
                && windows::is_call(expr)
            {
                aliases.add(alias, expr);
            }
        }
        for item in &mut select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) => {
                    let is_window = matches!(expr, Expr::Identifier(ident) if fold(ident) == windows::NAME);
                    let (field, written) = match is_window {
                        true => (Some(Ident::new(windows::NAME)).filter(|_| unnamed.is_some()), None),
                        false => (field_name(expr), written_name(expr)),
                    };
                    let name = match aliases.replace(expr)? {
                        true => field.or(written),
                        false => written,
                    };
                    if let Some(alias) = name {
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                    }
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    aliases.replace(expr)?;
                    aliases.add(alias, expr);
                }
                _ => {}
            }
        }
        if let Some(condition) = select.selection.take() {
            let (rows, windowed) = split_where(condition, &mut aliases)?;
            select.selection = all(rows);
            select.qualify = all(select.qualify.take().into_iter().chain(windowed));
        }
        for condition in select.having.iter_mut().chain(&mut select.qualify) {
            aliases.replace(condition)?;
        }
        let grouped = windows::group(&mut select.group_by, &select.projection, &aliases)?;
        windows::check(select, grouped.as_ref())?;
        if let Some(OrderBy { kind: OrderByKind::Expressions(exprs), .. }) = order_by {
            for order in exprs {
                // Whatever else ORDER BY names is in the result, where DataFusion finds it.
                if unnamed.is_some() && windows::reads(&order.expr, windows::NAME) {
                    aliases.replace(&mut order.expr)?;
                }
                windows::check_expr(&order.expr, "ORDER BY", grouped.as_ref())?;
            }
        }
        Ok(())
    }
}

/// A window in `SELECT` without a name is called `window`, if nothing else is.
fn name_windows(items: &mut [SelectItem]) {
    let taken = items.iter().any(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => fold(alias) == windows::NAME,
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => fold(ident) == windows::NAME,
        _ => false,
    });
    let unnamed = items.iter_mut().find(|item| matches!(item, SelectItem::UnnamedExpr(expr) if windows::is_call(expr)));
    if let (false, Some(item)) = (taken, unnamed)
        && let SelectItem::UnnamedExpr(expr) = item
    {
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(windows::NAME) };
    }
}

/// The window that only `GROUP BY` spells out: it is called `window` too, unless something else is.
fn unnamed_window(select: &Select, aliases: &Aliases) -> Option<Expr> {
    let GroupByExpr::Expressions(exprs, _) = &select.group_by else { return None };
    let window = exprs.iter().find(|expr| windows::is_call(expr))?;
    let named = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if fold(alias) == windows::NAME);
    match aliases.sees(windows::NAME) || select.projection.iter().any(named) {
        true => None,
        false => Some(window.clone()),
    }
}

/// The name of a column that DataFusion would name with the types of literals, as in `Int64(1)`, or with what `AT TIME ZONE` stands for:
/// the expression as it is written.
fn written_name(expr: &Expr) -> Option<Ident> {
    struct Literal;
    impl Visitor for Literal {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Value(_) | Expr::Interval(_) | Expr::TypedString(_) | Expr::AtTimeZone { .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Literal).is_break().then(|| Ident::with_quote('"', expr.to_string()))
}

/// The last part of `window.start`: the name of its column in the result.
fn field_name(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        _ => None,
    }
}

/// The conditions of a `WHERE` on rows, and those on the results of `OVER`.
fn split_where(condition: Expr, aliases: &mut Aliases) -> Result<(Vec<Expr>, Vec<Expr>)> {
    let mut parts = Vec::new();
    split_and(condition, &mut parts);
    let (mut rows, mut windowed) = (Vec::new(), Vec::new());
    for mut part in parts {
        aliases.replace(&mut part)?;
        if let Some(call) = windows::first_call(&part) {
            return Err(Error::new(Code::Window, format!("{call} stands in WHERE, where rows are not in windows yet"))
                .at(windows::place(&call))
                .hint("filter its results with HAVING, as in HAVING window.start >= …"));
        }
        if windows::has_over(&part) { windowed.push(part) } else { rows.push(part) }
    }
    Ok((rows, windowed))
}

fn split_and(condition: Expr, parts: &mut Vec<Expr>) {
    use sqlparser::ast::BinaryOperator::And;
    match condition {
        Expr::BinaryOp { left, op: And, right } => {
            split_and(*left, parts);
            split_and(*right, parts);
        }
        Expr::Nested(inner) if matches!(*inner, Expr::BinaryOp { op: And, .. }) => split_and(*inner, parts),
        part => parts.push(part),
    }
}

/// All conditions together; none is no condition.
fn all(parts: impl IntoIterator<Item = Expr>) -> Option<Expr> {
    use sqlparser::ast::BinaryOperator::And;
    let closed = |part: Expr| match part {
        Expr::BinaryOp { op: sqlparser::ast::BinaryOperator::Or, .. } => Expr::Nested(Box::new(part)),
        part => part,
    };
    parts.into_iter().reduce(|left, right| Expr::BinaryOp {
        left: Box::new(closed(left)),
        op: And,
        right: Box::new(closed(right)),
    })
}

#[cfg(test)]
mod tests;
