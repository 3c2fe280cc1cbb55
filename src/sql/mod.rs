//! Text in, statements out: what a user wrote, with its places; nothing is resolved yet.

mod columns;
mod dialect;
mod explain;
mod mask;
mod parse;
mod rewrite;
mod statement;
mod syntax;
mod text;
mod types;

pub use explain::{Names, explain_error, explain_plan};
pub use mask::covered;
pub use parse::parse;
pub use rewrite::{Columns, rewrite};
pub use statement::*;
pub use text::Text;
pub use types::{Types, arrow_type};

#[cfg(test)]
mod tests;

/// What the last part of a name means, folded as the parser folds it.
pub fn folded(name: &sqlparser::ast::ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(statement::fold)
}
