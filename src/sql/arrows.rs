//! Gives `->` and `->>` their place: closer than comparisons, `IS`, `IN`, `LIKE` and `BETWEEN`, as in PostgreSQL.
//!
//! The parser binds them looser than all of these: it reads `a ->> 'b' = 'c'` as `a ->> ('b' = 'c')`. Brackets that a user wrote stand
//! in the tree by themselves, so what is not in brackets can be turned safely.

use std::convert::Infallible;
use std::ops::ControlFlow;

use sqlparser::ast::{BinaryOperator, Expr, Value, VisitMut, VisitorMut};

/// Turns every arrow in `part` that took more than its operands.
pub(super) fn bind<T: VisitMut>(mut part: T) -> T {
    let _ = part.visit(&mut Bind);
    part
}

struct Bind;

impl VisitorMut for Bind {
    type Break = Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        if matches!(expr, Expr::BinaryOp { op: BinaryOperator::Arrow | BinaryOperator::LongArrow, .. })
            && let Expr::BinaryOp { left, op, right } = take(expr)
        {
            *expr = bound(*left, op, *right);
        }
        ControlFlow::Continue(())
    }
}

/// `left op right` where the arrow takes the nearest operand on each side.
fn bound(mut left: Expr, op: BinaryOperator, mut right: Expr) -> Expr {
    if let Some(key) = first(&mut right) {
        *key = bound(left, op, take(key));
        return right;
    }
    if let Some(json) = last(&mut left) {
        *json = bound(take(json), op, right);
        return left;
    }
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// The first operand of an expression that binds looser than an arrow.
fn first(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { left, op, .. } if is_comparison(op) => Some(left),
        Expr::IsNull(of)
        | Expr::IsNotNull(of)
        | Expr::IsTrue(of)
        | Expr::IsNotTrue(of)
        | Expr::IsFalse(of)
        | Expr::IsNotFalse(of)
        | Expr::IsUnknown(of)
        | Expr::IsNotUnknown(of)
        | Expr::IsDistinctFrom(of, _)
        | Expr::IsNotDistinctFrom(of, _) => Some(of),
        Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::Between { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. } => Some(expr),
        Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => Some(left),
        _ => None,
    }
}

/// The last operand of an expression that binds looser than an arrow and ends with an operand.
fn last(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { right, op, .. } if is_comparison(op) => Some(right),
        Expr::IsDistinctFrom(_, with) | Expr::IsNotDistinctFrom(_, with) => Some(with),
        Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } | Expr::SimilarTo { pattern, .. } => Some(pattern),
        Expr::Between { high, .. } => Some(high),
        _ => None,
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(
        op,
        Eq | NotEq | Lt | LtEq | Gt | GtEq | Spaceship | PGRegexMatch | PGRegexIMatch | PGRegexNotMatch | PGRegexNotIMatch
    )
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::value(Value::Null))
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::GenericDialect;
    use sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn an_arrow_takes_the_operands_beside_it() {
        for (text, same) in [
            ("a ->> 'b' = 'c'", "(a ->> 'b') = 'c'"),
            ("a ->> 'b' IS NOT NULL", "(a ->> 'b') IS NOT NULL"),
            ("a -> 'b' ->> 'c' IN ('d', 'e')", "((a -> 'b') ->> 'c') IN ('d', 'e')"),
            ("x = a -> 'b' ->> 'c'", "x = ((a -> 'b') ->> 'c')"),
            (
                "a ->> 'b' < c ->> 'd' AND NOT e ->> 'f' LIKE 'g%'",
                "((a ->> 'b') < (c ->> 'd')) AND (NOT ((e ->> 'f') LIKE 'g%'))",
            ),
            ("a ->> 'b' BETWEEN 'c' AND 'd'", "(a ->> 'b') BETWEEN 'c' AND 'd'"),
            ("x LIKE a ->> 'b' OR a -> i + 1 = 2", "(x LIKE (a ->> 'b')) OR ((a -> (i + 1)) = 2)"),
            ("a ->> ('b' = 'c')", "a ->> ('b' = 'c')"),
            ("a ->> 'b' = 'c' IS TRUE", "((a ->> 'b') = 'c') IS TRUE"),
        ] {
            let parse = |text: &str| bind(Parser::new(&GenericDialect {}).try_with_sql(text).unwrap().parse_expr().unwrap());
            // Brackets only show the tree: without them both are the same.
            assert_eq!(shown(&parse(text)), shown(&parse(same)), "{text}");
        }
    }

    /// The tree with a bracket around every operator, and none beside.
    fn shown(expr: &Expr) -> String {
        match expr {
            Expr::Nested(inner) => shown(inner),
            Expr::BinaryOp { left, op, right } => format!("({} {op} {})", shown(left), shown(right)),
            Expr::IsNotNull(of) => format!("({} IS NOT NULL)", shown(of)),
            Expr::IsTrue(of) => format!("({} IS TRUE)", shown(of)),
            Expr::InList { expr, list, .. } => {
                format!("({} IN {})", shown(expr), list.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
            Expr::Between { expr, low, high, .. } => format!("({} BETWEEN {low} AND {high})", shown(expr)),
            Expr::Like { expr, pattern, .. } => format!("({} LIKE {})", shown(expr), shown(pattern)),
            Expr::UnaryOp { op, expr } => format!("({op} {})", shown(expr)),
            other => other.to_string(),
        }
    }
}
