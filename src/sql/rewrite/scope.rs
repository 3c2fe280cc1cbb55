//! Which columns a `FROM` makes visible: from tables by their names, from subqueries and `WITH` by reading them.

use std::collections::{HashMap, HashSet};

use sqlparser::ast::{
    Expr, ObjectName, Query, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins,
};

use super::windows;
use crate::sql::statement::fold;

/// The columns of the table or view of a name, if it is known.
pub type Columns<'a> = &'a dyn Fn(&ObjectName) -> Option<Vec<String>>;

/// What a `FROM` makes visible.
#[derive(Debug, Default)]
pub struct Visible {
    pub columns: HashSet<String>,
    /// The names that may stand before a column's.
    pub tables: HashSet<String>,
}

/// The tables of the `WITH` clauses around a place, the nearest last.
pub struct Scopes<'a> {
    columns: Columns<'a>,
    tables: Vec<HashMap<String, Vec<String>>>,
}

impl<'a> Scopes<'a> {
    pub fn new(columns: Columns<'a>) -> Self {
        Scopes { columns, tables: Vec::new() }
    }

    pub fn enter(&mut self, query: &Query) {
        self.tables.push(HashMap::new());
        for table in query.with.iter().flat_map(|with| &with.cte_tables) {
            let columns = renamed(self.outputs(&table.query), &table.alias);
            let scope = self.tables.last_mut().expect("pushed above");
            scope.insert(fold(&table.alias.name), columns);
        }
    }

    pub fn leave(&mut self) {
        self.tables.pop();
    }

    pub fn visible(&mut self, from: &[TableWithJoins]) -> Visible {
        let mut visible = Visible::default();
        for (table, columns) in from.iter().flat_map(|from| self.tables_of(from)) {
            visible.tables.extend(table);
            visible.columns.extend(columns);
        }
        visible
    }

    /// Each table of a `FROM` item: what it is called there, and its columns.
    fn tables_of(&mut self, from: &TableWithJoins) -> Vec<(Option<String>, Vec<String>)> {
        let mut found = Vec::new();
        for table in std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)) {
            match table {
                TableFactor::Table { name, alias, .. } => {
                    let columns = self.columns_of(name);
                    found.push(match alias {
                        Some(alias) => (Some(fold(&alias.name)), renamed(columns, alias)),
                        None => (name.0.last().and_then(|part| part.as_ident()).map(fold), columns),
                    });
                }
                TableFactor::Derived { subquery, alias, .. } => {
                    let columns = self.outputs(subquery);
                    found.push(match alias {
                        Some(alias) => (Some(fold(&alias.name)), renamed(columns, alias)),
                        None => (None, columns),
                    });
                }
                TableFactor::NestedJoin { table_with_joins, .. } => found.extend(self.tables_of(table_with_joins)),
                _ => {}
            }
        }
        found
    }

    fn columns_of(&self, name: &ObjectName) -> Vec<String> {
        let part = |part: &sqlparser::ast::ObjectNamePart| part.as_ident().map(fold);
        let with = match name.0.as_slice() {
            [one] => part(one).and_then(|name| self.tables.iter().rev().find_map(|scope| scope.get(&name))),
            _ => None,
        };
        match with {
            Some(columns) => columns.clone(),
            None => (self.columns)(name).unwrap_or_default(),
        }
    }

    /// The columns of a query's result, as far as they have names of their own.
    fn outputs(&mut self, query: &Query) -> Vec<String> {
        self.enter(query);
        let columns = self.outputs_of(&query.body);
        self.leave();
        columns
    }

    fn outputs_of(&mut self, body: &SetExpr) -> Vec<String> {
        let select = match body {
            SetExpr::Select(select) => select,
            SetExpr::Query(query) => return self.outputs(query),
            SetExpr::SetOperation { left, .. } => return self.outputs_of(left),
            _ => return Vec::new(),
        };
        let tables: Vec<_> = select.from.iter().flat_map(|from| self.tables_of(from)).collect();
        let mut columns = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => columns.push(fold(alias)),
                SelectItem::UnnamedExpr(Expr::Identifier(ident)) => columns.push(fold(ident)),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => columns.extend(parts.last().map(fold)),
                SelectItem::UnnamedExpr(expr) if windows::is_call(expr) => columns.push(windows::NAME.into()),
                // It has a place among the others, and no name that a query could write.
                SelectItem::UnnamedExpr(expr) => columns.push(expr.to_string()),
                SelectItem::Wildcard(_) => columns.extend(tables.iter().flat_map(|(_, columns)| columns.clone())),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let name = name.0.last().and_then(|part| part.as_ident()).map(fold);
                    columns.extend(tables.iter().filter(|(table, _)| *table == name).flat_map(|(_, columns)| columns.clone()));
                }
                _ => {}
            }
        }
        columns
    }
}

/// The columns of `t AS alias (a, b, …)`.
fn renamed(mut columns: Vec<String>, alias: &TableAlias) -> Vec<String> {
    for (index, column) in alias.columns.iter().enumerate() {
        match columns.get_mut(index) {
            Some(old) => *old = fold(&column.name),
            None => columns.push(fold(&column.name)),
        }
    }
    columns
}
