//! Clauses of other programs that the parser reads and that nobody would obey: each is refused, with what is written here instead.

use sqlparser::ast::{GroupByExpr, LimitClause, OrderBy, OrderByKind, Query, Select, TableFactor, TableWithJoins};

use crate::error::{Code, Error, Result};

/// Refuses what stands around the `SELECT`s of a query.
pub(super) fn check_query(query: &Query) -> Result<()> {
    let limit_by = matches!(&query.limit_clause, Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty());
    let fill = |order_by: &OrderBy| match &order_by.kind {
        OrderByKind::Expressions(exprs) => order_by.interpolate.is_some() || exprs.iter().any(|expr| expr.with_fill.is_some()),
        OrderByKind::All(_) => false,
    };
    first(&[
        (!query.pipe_operators.is_empty(), "`|>`", "write SELECT … FROM … WHERE …"),
        (
            limit_by,
            "LIMIT … BY",
            "number the rows of each: QUALIFY ROW_NUMBER() OVER (PARTITION BY k, window ORDER BY v DESC) <= 1",
        ),
        (query.fetch.is_some(), "FETCH", "write LIMIT 10"),
        (!query.locks.is_empty(), "FOR UPDATE", "leave it out: event streams are read, never written"),
        (query.for_clause.is_some(), "FOR", "leave it out: the output is NDJSON, or what --format and Accept ask for"),
        (query.settings.is_some(), "SETTINGS", "leave it out: settings are those of SET name = value"),
        (query.format_clause.is_some(), "FORMAT", "leave it out: the output is NDJSON, or what --format and Accept ask for"),
        (
            query.order_by.as_ref().is_some_and(fill),
            "WITH FILL",
            "a window without rows has no result: join the results with the windows that you expect",
        ),
    ])
}

/// Refuses what stands within a `SELECT`.
pub(super) fn check_select(select: &Select) -> Result<()> {
    let modified = match &select.group_by {
        GroupByExpr::Expressions(_, modifiers) | GroupByExpr::All(modifiers) => !modifiers.is_empty(),
    };
    first(&[
        (select.top.is_some(), "TOP", "write LIMIT 10 at the end"),
        (select.into.is_some(), "INTO", "keep it as a view: CREATE VIEW name AS SELECT …"),
        (select.prewhere.is_some(), "PREWHERE", "write WHERE"),
        (
            !select.connect_by.is_empty(),
            "CONNECT BY",
            "a result that feeds itself has no meaning on a stream; make a view for each level",
        ),
        (!select.lateral_views.is_empty(), "LATERAL VIEW", "write unnest(list) in SELECT, over the results of a window"),
        (!select.cluster_by.is_empty(), "CLUSTER BY", "leave it out: rows are spread by nobody here"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY", "leave it out: rows are spread by nobody here"),
        (!select.sort_by.is_empty(), "SORT BY", "write ORDER BY"),
        (modified, "WITH ROLLUP, CUBE or TOTALS", "write GROUP BY ROLLUP (…) or CUBE (…)"),
    ])?;
    let factors =
        select.from.iter().flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    factors.into_iter().try_for_each(check_factor)
}

fn check_factor(factor: &TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table { with_hints, version, with_ordinality, partitions, sample, index_hints, .. } => first(&[
            (sample.is_some(), "TABLESAMPLE", "write WHERE random() < 0.1"),
            (version.is_some(), "a table of an earlier time", "leave it out: rows of an earlier time are not kept"),
            (*with_ordinality, "WITH ORDINALITY", "number the rows with ROW_NUMBER() OVER (…)"),
            (!partitions.is_empty(), "PARTITION", "write WHERE"),
            (!with_hints.is_empty() || !index_hints.is_empty(), "a hint for the planner", "leave it out"),
        ]),
        TableFactor::Derived { sample, .. } => first(&[(sample.is_some(), "TABLESAMPLE", "write WHERE random() < 0.1")]),
        TableFactor::NestedJoin { table_with_joins, .. } => {
            let TableWithJoins { relation, joins } = table_with_joins.as_ref();
            check_factor(relation)?;
            joins.iter().try_for_each(|join| check_factor(&join.relation))
        }
        _ => Ok(()),
    }
}

/// The first of these that is there.
fn first(clauses: &[(bool, &str, &str)]) -> Result<()> {
    match clauses.iter().find(|(is_there, ..)| *is_there) {
        Some((_, name, hint)) => Err(Error::new(Code::NotYet, format!("{name} is not known in a query here")).hint(*hint)),
        None => Ok(()),
    }
}
