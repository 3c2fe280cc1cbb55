//! What a short query may grow to before it runs: `WITH` parts that read each other twice, and `CUBE`. A planner that has begun on it
//! neither stops nor counts what it takes.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Query, Spanned, Visit, Visitor, visit_relations};

use super::folded;
use super::statement::fold;
use crate::error::{Code, Error, Result};

/// Most tables that a query may read, a part of `WITH` counting as often as it is read.
const READS_MAX: usize = 500;

/// Most columns of all `CUBE`s of a query: with each there are twice as many groupings.
const CUBED_MAX: usize = 8;

/// Refuses a query that would grow beyond measure.
pub fn check(query: &Query) -> Result<()> {
    match query.visit(&mut Grown::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

#[derive(Default)]
struct Grown {
    /// How many tables each part of a `WITH` reads.
    parts: HashMap<String, usize>,
    cubed: usize,
}

impl Grown {
    fn reads(&self, query: &Query) -> usize {
        let mut reads = 0_usize;
        let _ = visit_relations(query, |name| {
            let part = folded(name).and_then(|name| self.parts.get(&name).copied());
            reads = reads.saturating_add(part.unwrap_or(1));
            ControlFlow::<()>::Continue(())
        });
        reads
    }
}

impl Visitor for Grown {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let Some(with) = &query.with else { return ControlFlow::Continue(()) };
        for part in &with.cte_tables {
            let reads = self.reads(&part.query);
            if reads > READS_MAX {
                let name = &part.alias.name;
                let message =
                    format!("'{}' reads more than {READS_MAX} tables, since parts of it are read again and again", name.value);
                let error = Error::new(Code::Query, message).at(name.span);
                return ControlFlow::Break(error.hint("make a view of a part that is read often"));
            }
            self.parts.insert(fold(&part.alias.name), reads.max(1));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        if let Expr::Cube(columns) = expr {
            self.cubed += columns.len();
        }
        match self.cubed > CUBED_MAX {
            true => ControlFlow::Break(
                Error::new(Code::Query, format!("CUBE over more than {CUBED_MAX} columns"))
                    .at(expr.span())
                    .hint("name the groupings that are wanted: GROUP BY GROUPING SETS ((a, b), (a), ())"),
            ),
            false => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{StatementKind, parse};

    fn checked(text: &str) -> Result<()> {
        let (statements, errors) = parse(text);
        assert!(errors.is_empty(), "{errors:?}");
        let StatementKind::Query(query) = &statements[0].kind else { panic!("{text} is no query") };
        check(query)
    }

    #[test]
    fn what_doubles_with_every_part_is_refused() {
        let doubled = |parts: usize| {
            let more = (1..parts).map(|part| format!(", a{part} AS (SELECT x FROM a{0} UNION ALL SELECT x FROM a{0})", part - 1));
            format!("WITH a0 AS (SELECT 1 AS x){} SELECT count(*) AS n FROM a{}", more.collect::<String>(), parts - 1)
        };
        checked(&doubled(8)).unwrap();
        for text in [doubled(24), format!("SELECT n FROM ({}) AS s", doubled(24))] {
            let error = checked(&text).unwrap_err();
            assert!(error.message().contains("reads more than 500 tables"), "{error}");
        }
        checked("SELECT a FROM t GROUP BY CUBE (a, b, c)").unwrap();
        let columns: Vec<String> = (0..24).map(|column| format!("c{column}")).collect();
        let error = checked(&format!("SELECT count(*) AS n FROM t GROUP BY CUBE ({})", columns.join(", "))).unwrap_err();
        assert_eq!(error.message(), "CUBE over more than 8 columns");
    }
}
