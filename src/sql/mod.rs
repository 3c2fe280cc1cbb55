//! Text in, statements out: what a user wrote, with its places; nothing is resolved yet.

mod bounds;
mod clauses;
mod columns;
mod dialect;
mod explain;
mod foreign;
mod mask;
mod parse;
mod rewrite;
mod statement;
mod steady;
mod syntax;
mod text;
mod types;
mod zones;

pub use explain::{KnownNames, explain_error, explain_plan};
pub use mask::covered;
pub use parse::{Unread, data_type, expression, parse, parse_all};
pub use rewrite::{Columns, rewrite};
pub use statement::*;
pub use steady::{chance, first_clock, frozen, is_clock, unsteady};
pub use text::{Lines, Text};
pub use types::{Types, arrow_type};
pub use zones::zones;

#[cfg(test)]
mod tests;

/// What the last part of a name means, folded as the parser folds it.
pub fn folded(name: &sqlparser::ast::ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(statement::fold)
}

/// Whether a query is one `SELECT`: nothing is united with it, and no other is within it.
pub fn is_single(query: &sqlparser::ast::Query) -> bool {
    use std::ops::ControlFlow;

    use sqlparser::ast::{Query, SetExpr, Visit, Visitor};

    struct Nested(usize);
    impl Visitor for Nested {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    matches!(query.body.as_ref(), SetExpr::Select(_)) && query.visit(&mut Nested(0)).is_continue()
}

/// The name of the table that a query takes as it is: `SELECT * FROM name`.
pub fn whole(query: &sqlparser::ast::Query) -> Option<String> {
    let name = query.to_string().strip_prefix("SELECT * FROM ")?.to_string();
    match query.body.as_ref() {
        sqlparser::ast::SetExpr::Select(select) => match select.from.as_slice() {
            [sqlparser::ast::TableWithJoins { relation: sqlparser::ast::TableFactor::Table { name: table, .. }, joins }]
                if joins.is_empty() && table.to_string() == name =>
            {
                folded(table)
            }
            _ => None,
        },
        _ => None,
    }
}
