//! Conditions and orders that clients give for the rows of a view: over rows that are there, and over changes to come.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ExprSchemable, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use futures::FutureExt;
use tokio::time::Instant;

use super::{Engine, Purpose, QueryPool, for_questions, session, statement};
use crate::error::{Code, Error, Result};
use crate::sql::{self, KnownNames, Statement, StatementKind};

impl Engine {
    /// Some of `rows`: those that meet the condition `filter`, by `order`, a list as behind `ORDER BY`. No subqueries.
    pub async fn select(
        &self,
        rows: RecordBatch,
        filter: Option<String>,
        order: Option<String>,
        deadline: Instant,
    ) -> Result<RecordBatch> {
        if filter.is_none() && order.is_none() {
            return Ok(rows);
        }
        let memory = self.aside.as_ref().map_or_else(|| Ok(Arc::default()), QueryPool::memory)?;
        self.ask(Purpose::Reader, deadline, selected(for_questions(memory)?, rows, filter, order)).await?
    }

    /// A condition over rows of `schema` that are looked at one by one, as they come: what would need all of them, or the time, is refused.
    pub fn condition(&self, schema: &SchemaRef, text: &str) -> Result<Arc<dyn PhysicalExpr>> {
        // The rows are in memory, so nothing waits.
        let planned = planned(session()?, RecordBatch::new_empty(Arc::clone(schema)), Some(text), None).now_or_never();
        let (alone, plan) = planned.ok_or_else(|| Error::bug("a condition waits while it is planned"))??;
        let mut node = &plan;
        let filter = loop {
            node = match node {
                LogicalPlan::Filter(filter) => break filter,
                LogicalPlan::Projection(projection) => &projection.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                _ => return Err(over_all()),
            };
        };
        if !matches!(*filter.input, LogicalPlan::TableScan(_)) {
            return Err(over_all());
        }
        if let Some(name) = sql::unsteady(&filter.predicate) {
            return Err(Error::new(
                Code::Query,
                format!("{name}() has another value later, and a row that was sent would not be taken back then"),
            )
            .hint("compare columns with values here; the rows as they are take it: /results?where=…"));
        }
        let columns = filter.input.schema();
        // NULL alone has a type of its own.
        let predicate = filter.predicate.clone().cast_to(&DataType::Boolean, columns)?;
        // Some functions are only names for a CASE, and are computed as one.
        let state = alone.state();
        let simple =
            SimplifyContext::builder().with_schema(Arc::clone(columns)).with_config_options(state.config_options().clone());
        let predicate = ExprSimplifier::new(simple.build()).simplify(predicate)?;
        let condition = state.create_physical_expr(predicate, columns)?;
        // What fails without any row would fail for all.
        condition.evaluate(&RecordBatch::new_empty(Arc::clone(schema)))?;
        Ok(condition)
    }
}

fn over_all() -> Error {
    Error::new(Code::Query, "the condition looks at more than one row, and changes come one by one")
        .hint("compare the columns of a row with values; the rows as they are take it: /results?where=…")
}

/// Some of `rows`, see [`Engine::select`].
async fn selected(
    alone: SessionContext,
    rows: RecordBatch,
    filter: Option<String>,
    order: Option<String>,
) -> Result<RecordBatch> {
    let schema = rows.schema();
    let (alone, plan) = planned(alone, rows, filter.as_deref(), order.as_deref()).await?;
    let batches = alone.execute_logical_plan(plan).await?.collect().await?;
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}

/// A plan of `SELECT * FROM rows` with a condition and an order, in a session that is `alone`: they see these rows and nothing else.
async fn planned(
    alone: SessionContext,
    rows: RecordBatch,
    filter: Option<&str>,
    order: Option<&str>,
) -> Result<(SessionContext, LogicalPlan)> {
    let schema = rows.schema();
    let condition = filter;
    let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    let order = order.map(|order| format!(" ORDER BY {order}")).unwrap_or_default();
    let (statements, errors) = sql::parse(&format!("SELECT * FROM rows{filter}{order}"));
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let [Statement { kind: StatementKind::Query(query), .. }] = statements.as_slice() else {
        return Err(
            Error::new(Code::Syntax, "a condition or an order is more than that").hint("give an expression over the columns")
        );
    };
    // Whoever may read a view may not have its rows multiplied with themselves.
    if !sql::is_single(query) {
        return Err(Error::new(Code::Query, "a condition or an order holds a query of its own")
            .hint("compare columns with values; what needs more is a view: CREATE VIEW … AS SELECT …"));
    }
    if let Some(condition) = condition {
        sql::expression(condition)?;
    }
    alone.register_batch("rows", rows)?;
    let state = alone.state();
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let mut query = query.as_ref().clone();
    sql::rewrite(&mut query, &|_| Some(columns.clone()))?;
    let plan = state.statement_to_plan(statement(&query)).await.map_err(|error| {
        let functions: Vec<String> = state.udfs().into_iter().collect();
        sql::explain_error(error, &query, KnownNames { tables: &["rows".into()], functions: &functions })
    })?;
    Ok((alone, plan))
}
