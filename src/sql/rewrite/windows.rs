//! Calls of `TUMBLE`, `HOP` and `SESSION`: where they may stand, and how `GROUP BY` names them.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, FunctionArguments, GroupByExpr, Query, Select, SelectItem, Spanned, TableFactor, TableWithJoins, Value, Visit, Visitor,
};

use super::aliases::Aliases;
use crate::error::{Code, Error, Result, Span};
use crate::sql::statement::fold;
use crate::window::WindowKind;

/// What a window is called that is not given a name.
pub const NAME: &str = "window";

/// The fields of a window.
pub const FIELDS: [&str; 2] = ["start", "end"];

pub fn is_call(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => {
            function.over.is_none() && matches!(function.args, FunctionArguments::List(_)) && is_name(&function.name)
        }
        Expr::Nested(inner) => is_call(inner),
        _ => false,
    }
}

fn is_name(name: &sqlparser::ast::ObjectName) -> bool {
    match name.0.as_slice() {
        [part] => part.as_ident().is_some_and(|ident| WindowKind::named(&ident.value).is_some()),
        _ => false,
    }
}

/// The first window call in an expression, not counting its subqueries.
pub fn first_call(expr: &Expr) -> Option<Expr> {
    find(expr, &|expr| is_call(expr) && !matches!(expr, Expr::Nested(_)))
}

/// Whether an expression asks for an `OVER`, not counting its subqueries.
pub fn has_over(expr: &Expr) -> bool {
    find(expr, &|expr| matches!(expr, Expr::Function(function) if function.over.is_some())).is_some()
}

/// Whether an expression reads a column of this name or a field of it, not counting its subqueries.
pub fn reads(expr: &Expr, name: &str) -> bool {
    let is_read = |expr: &Expr| match expr {
        Expr::Identifier(ident) => fold(ident) == name,
        Expr::CompoundIdentifier(parts) => parts.first().is_some_and(|first| fold(first) == name),
        _ => false,
    };
    find(expr, &is_read).is_some()
}

/// Where an expression stands. The parser's span of a call ends before its `)`.
pub fn place(expr: &Expr) -> Span {
    let mut span = Span::from(expr.span());
    if let Expr::Function(_) = expr {
        span.end.column += 1;
    }
    span
}

/// Replaces what `GROUP BY` says for a window by its call, and tells the one it groups by.
pub fn group(group_by: &mut GroupByExpr, items: &[SelectItem], aliases: &Aliases) -> Result<Option<Expr>> {
    let exprs = match group_by {
        GroupByExpr::Expressions(exprs, _) => exprs,
        GroupByExpr::All(_) => return one(items.iter().filter_map(expr_of).filter(|expr| is_call(expr))),
    };
    for expr in exprs.iter_mut() {
        let meant = match &*expr {
            Expr::Identifier(ident) => aliases.get(ident),
            Expr::Value(value) => position(&value.value).and_then(|index| items.get(index)).and_then(expr_of),
            _ => None,
        };
        match meant {
            Some(meant) if is_call(meant) => *expr = meant.clone(),
            Some(meant) if first_call(meant).is_some() => return Err(inside(expr, &first_call(meant).expect("checked"))),
            _ => {}
        }
        match first_call(expr) {
            Some(call) if !is_call(expr) => return Err(inside(expr, &call)),
            Some(call) => *expr = call,
            None if names_field(expr, aliases) => {
                return Err(Error::new(Code::Window, format!("GROUP BY {expr} is a part of a window"))
                    .at(place(expr))
                    .hint(format!("group by the whole: GROUP BY {}", expr.to_string().split('.').next().unwrap_or(NAME))));
            }
            None => {}
        }
    }
    let window = one(exprs.iter().filter(|expr| is_call(expr)))?;
    if window.is_some() {
        let mut seen = false;
        exprs.retain(|expr| !is_call(expr) || !std::mem::replace(&mut seen, true));
    }
    Ok(window)
}

/// Refuses windows that are not the one of the `GROUP BY`.
pub fn check(select: &Select, grouped: Option<&Expr>) -> Result<()> {
    for item in &select.projection {
        let Some(expr) = expr_of(item) else { continue };
        let Some(call) = stray(expr, grouped) else { continue };
        if let Some(grouped) = grouped {
            return Err(two(grouped, &call));
        }
        let name = match item {
            SelectItem::ExprWithAlias { alias, expr } if is_call(expr) => alias.to_string(),
            _ => call.to_string(),
        };
        let group_by = match &select.group_by {
            GroupByExpr::Expressions(exprs, _) => {
                exprs.iter().map(ToString::to_string).chain([name]).collect::<Vec<_>>().join(", ")
            }
            GroupByExpr::All(_) => name,
        };
        return Err(Error::new(Code::Window, format!("{call} stands in SELECT and not in GROUP BY"))
            .at(place(&call))
            .hint(format!("add it: GROUP BY {group_by}")));
    }
    if let Some(call) = select.from.iter().find_map(|from| stray(from, None)) {
        return Err(Error::new(Code::Window, format!("{call} stands in a JOIN, where rows are not in windows yet"))
            .at(place(&call))
            .hint("compute the windows in views, and join those ON a.window = b.window"));
    }
    let clauses = [("HAVING", select.having.as_ref()), ("QUALIFY", select.qualify.as_ref())];
    for (clause, expr) in clauses.into_iter().filter_map(|(clause, expr)| Some((clause, expr?))) {
        check_expr(expr, clause, grouped)?;
    }
    Ok(())
}

pub fn check_expr(expr: &Expr, clause: &str, grouped: Option<&Expr>) -> Result<()> {
    match (stray(expr, grouped), grouped) {
        (None, _) => Ok(()),
        (Some(call), Some(grouped)) => Err(two(grouped, &call)),
        (Some(call), None) => Err(Error::new(Code::Window, format!("{call} stands in {clause} and not in GROUP BY"))
            .at(place(&call))
            .hint(format!("add it to the query: SELECT {call} AS window, … GROUP BY window"))),
    }
}

/// `FROM TUMBLE(t, …)` is another program's way.
pub fn refuse_in_from(from: &[TableWithJoins]) -> Result<()> {
    for table in from.iter().flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
    {
        match table {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } if is_name(name) => {
                return Err(Error::new(Code::Window, format!("{name} stands in FROM")).at(name.span()).hint(
                    "windows stand in SELECT: SELECT TUMBLE(INTERVAL '1 minute') AS window, COUNT(*) FROM t GROUP BY window",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A window call that is not the grouped one.
fn stray(part: &impl Visit, grouped: Option<&Expr>) -> Option<Expr> {
    find(part, &|expr| matches!(expr, Expr::Function(_)) && is_call(expr) && !grouped.is_some_and(|grouped| same(expr, grouped)))
}

/// The one window among these, if any.
fn one<'a>(mut calls: impl Iterator<Item = &'a Expr>) -> Result<Option<Expr>> {
    let Some(first) = calls.next() else { return Ok(None) };
    match calls.find(|call| !same(call, first)) {
        Some(other) => Err(two(first, other)),
        None => Ok(Some(first.clone())),
    }
}

/// Whether two calls are the same in upper or lower case.
fn same(one: &Expr, other: &Expr) -> bool {
    let text = |expr: &Expr| first_call(expr).map(|call| call.to_string().to_ascii_lowercase());
    text(one) == text(other)
}

fn two(first: &Expr, other: &Expr) -> Error {
    Error::new(Code::Window, format!("{first} and {other} stand in one SELECT"))
        .at(place(other))
        .hint("a query groups by one window; compute the other in a view of its own, or group the results of this one again")
}

fn inside(expr: &Expr, call: &Expr) -> Error {
    Error::new(Code::Window, format!("{call} stands inside of another expression of GROUP BY"))
        .at(place(expr))
        .hint(format!("group by the window itself: SELECT {call} AS window, … GROUP BY window"))
}

/// Whether an expression is `window.start` of an alias that is a window.
fn names_field(expr: &Expr, aliases: &Aliases) -> bool {
    matches!(expr, Expr::CompoundIdentifier(parts) if parts.len() == 2 && aliases.is_window_field(&parts[0]))
}

fn expr_of(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

/// `GROUP BY 2` counts from 1.
fn position(value: &Value) -> Option<usize> {
    match value {
        Value::Number(number, _) => number.to_string().parse::<usize>().ok()?.checked_sub(1),
        _ => None,
    }
}

/// The first expression that `wanted` picks, not looking into subqueries.
fn find(part: &impl Visit, wanted: &dyn Fn(&Expr) -> bool) -> Option<Expr> {
    struct Find<'a> {
        wanted: &'a dyn Fn(&Expr) -> bool,
        queries: usize,
        found: Option<Expr>,
    }
    impl Visitor for Find<'_> {
        // An expression here would stand in the visitor's frames hundreds of times: more of the stack than its guard reckons with.
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.queries += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.queries -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if self.queries == 0 && (self.wanted)(expr) {
                self.found = Some(expr.clone());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    let mut find = Find { wanted, queries: 0, found: None };
    let _ = part.visit(&mut find);
    find.found
}
