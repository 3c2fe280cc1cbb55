//! `now()` and its like in a query that runs on: DataFusion would put in the time at which it plans, and that time would stand still.
//!
//! In `SELECT` they are the time at which the row's event came in: the scan gives it as a hidden column, which is carried up to where it
//! is asked for. So a row keeps its value however often it is looked at. Everywhere else they are refused. A query over files alone is
//! planned and read at one time, and stays as DataFusion has it.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{
    Cast, Expr, ExprSchemable, Filter, Limit, LogicalPlan, Projection, Sort, SubqueryAlias, TableScan, Union, Window,
};
use datafusion::optimizer::AnalyzerRule;

use super::compile::{streams, table, tables};
use super::node::WindowNode;
use crate::error::{Code, Error, Result};
use crate::sql::{first_clock, frozen, is_clock};
use crate::table::{ARRIVAL, WithArrival};

/// Gives `now()` the time of arrival where a query over feeds selects it, and refuses what would be a constant there.
#[derive(Debug)]
pub struct Clocks;

impl AnalyzerRule for Clocks {
    fn name(&self) -> &str {
        "streamgauge_clocks"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        if tables(&plan).iter().all(|table| table.spec().feed.is_file()) {
            return Ok(plan);
        }
        let zone = config.execution.time_zone.as_deref();
        let plan = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Projection(projection) if projection.expr.iter().any(|expr| first_clock(expr).is_some()) => {
                Ok(Transformed::yes(at_arrival(&projection, zone)?))
            }
            other => Ok(Transformed::no(other)),
        })?;
        plan.data.apply_with_subqueries(|plan| {
            plan.apply_expressions(|expr| match frozen(expr) {
                Some(name) => Err(refused(&name, plan).into()),
                None => Ok(TreeNodeRecursion::Continue),
            })
        })?;
        Ok(plan.data)
    }
}

fn refused(name: &str, plan: &LogicalPlan) -> Error {
    let message = format!("{name}() would stand still at the time at which the query is planned, and the query runs on");
    if !is_clock(name) {
        return Error::new(Code::Endless, message).hint("give it a column, or write its value");
    }
    let error = Error::new(Code::Endless, message);
    match plan {
        LogicalPlan::Projection(_) => error.hint("give the time in the query that reads the rows"),
        _ => error.hint(
            "compare with a column received_at TIMESTAMP METADATA FROM 'received_at'; or leave the condition to who reads the rows: \
             …/results?where=ts > now() - INTERVAL '1 minute'; in SELECT it is the time of arrival",
        ),
    }
}

/// A projection whose functions of the time read the time of arrival of their row.
fn at_arrival(projection: &Projection, zone: Option<&str>) -> Result<LogicalPlan> {
    let clock = || projection.expr.iter().find_map(first_clock).unwrap_or_default();
    let (input, arrival) = with_arrival(&projection.input)?.ok_or_else(|| no_arrival(&clock(), &projection.input))?;
    let preserver = NamePreserver::new_for_projection();
    let exprs = projection.expr.iter().cloned().map(|expr| {
        let name = preserver.save(&expr);
        let expr = expr.transform_up(|part| match &part {
            Expr::ScalarFunction(call) if is_clock(call.func.name()) => {
                Ok(Transformed::yes(read(&part, call.func.name(), &arrival, input.schema(), zone)?))
            }
            _ => Ok(Transformed::no(part)),
        })?;
        Ok(name.restore(expr.data))
    });
    let exprs = exprs.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
}

/// What `call` tells, read from the column of the arrival; dates and times of day are those of `zone`.
fn read(call: &Expr, name: &str, arrival: &Column, schema: &DFSchema, zone: Option<&str>) -> DataFusionResult<Expr> {
    let cast = |expr: Expr, data_type: DataType| Expr::Cast(Cast::new(Box::new(expr), data_type));
    let wanted = call.get_type(schema)?;
    let arrival = Expr::Column(arrival.clone());
    let local = match name {
        "now" => arrival,
        _ => cast(arrival, DataType::Timestamp(TimeUnit::Nanosecond, zone.map(Into::into))),
    };
    Ok(if local.get_type(schema)? == wanted { local } else { cast(local, wanted) })
}

fn no_arrival(name: &str, input: &LogicalPlan) -> Error {
    let mut windowed = false;
    let _ = input.apply(|plan| {
        windowed |= WindowNode::of(plan).is_some() || matches!(plan, LogicalPlan::Aggregate(_));
        Ok(TreeNodeRecursion::Continue)
    });
    if tables(input).iter().any(|table| table.spec().key.is_some()) {
        return Error::new(
            Code::Query,
            format!("{name}() over rows that change: which event's time of arrival it is, is not told"),
        )
        .hint("declare a column received_at TIMESTAMP METADATA FROM 'received_at' and select that");
    }
    match windowed {
        true => Error::new(Code::Endless, format!("{name}() over results that have no time of arrival of their own")).hint(
            "take that of their rows: declare received_at TIMESTAMP METADATA FROM 'received_at' and select max(received_at); or window.end",
        ),
        false => Error::new(Code::Endless, format!("{name}() would stand still here: rows that are read once have no time of arrival"))
            .hint("select it from the feed itself"),
    }
}

/// The same rows with the column [`ARRIVAL`] beside the others, and what it is called there; `None` where they have no such time.
fn with_arrival(plan: &LogicalPlan) -> Result<Option<(LogicalPlan, Column)>> {
    let below =
        |input: &Arc<LogicalPlan>| Ok::<_, Error>(with_arrival(input)?.map(|(input, arrival)| (Arc::new(input), arrival)));
    Ok(match plan {
        LogicalPlan::TableScan(scan) => scanned(scan)?,
        LogicalPlan::SubqueryAlias(alias) => match below(&alias.input)? {
            Some((input, _)) => {
                let arrival = Column::new(Some(alias.alias.clone()), ARRIVAL);
                Some((LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?), arrival))
            }
            None => None,
        },
        LogicalPlan::Projection(projection) => match below(&projection.input)? {
            Some((input, arrival)) => {
                let column = Expr::Column(arrival.clone());
                let mut exprs = projection.expr.clone();
                if !exprs.contains(&column) {
                    exprs.push(column);
                }
                Some((LogicalPlan::Projection(Projection::try_new(exprs, input)?), arrival))
            }
            None => None,
        },
        LogicalPlan::Filter(filter) => match below(&filter.input)? {
            Some((input, arrival)) => Some((LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), input)?), arrival)),
            None => None,
        },
        LogicalPlan::Window(window) => match below(&window.input)? {
            Some((input, arrival)) => Some((LogicalPlan::Window(Window::try_new(window.window_expr.clone(), input)?), arrival)),
            None => None,
        },
        LogicalPlan::Sort(sort) => {
            below(&sort.input)?.map(|(input, arrival)| (LogicalPlan::Sort(Sort { input, ..sort.clone() }), arrival))
        }
        LogicalPlan::Limit(limit) => {
            below(&limit.input)?.map(|(input, arrival)| (LogicalPlan::Limit(Limit { input, ..limit.clone() }), arrival))
        }
        LogicalPlan::Union(union) => united(union)?,
        LogicalPlan::Join(join) => {
            let of_left = streams(&join.left);
            let Some((input, arrival)) = below(if of_left { &join.left } else { &join.right })? else { return Ok(None) };
            let mut join = join.clone();
            *(if of_left { &mut join.left } else { &mut join.right }) = input;
            let join = LogicalPlan::Join(join).recompute_schema()?;
            join.schema().has_column(&arrival).then_some((join, arrival))
        }
        _ => None,
    })
}

fn scanned(scan: &TableScan) -> Result<Option<(LogicalPlan, Column)>> {
    let Some(table) = table(scan).filter(|table| table.spec().key.is_none()) else { return Ok(None) };
    let arriving = WithArrival::new(table);
    let projection = scan.projection.clone().map(|mut projection| {
        if !projection.contains(&arriving.index()) {
            projection.push(arriving.index());
        }
        projection
    });
    let scan = TableScanBuilder::new(scan.table_name.clone(), provider_as_source(Arc::new(arriving)))
        .with_projection(projection)
        .with_filters(scan.filters.clone())
        .with_fetch(scan.fetch)
        .build()?;
    let arrival = Column::new(Some(scan.table_name.clone()), ARRIVAL);
    Ok(Some((LogicalPlan::TableScan(scan), arrival)))
}

/// All inputs have their columns in the order of the union, and the arrival behind them.
fn united(union: &Union) -> Result<Option<(LogicalPlan, Column)>> {
    let mut inputs = Vec::new();
    for input in &union.inputs {
        let Some((with, arrival)) = with_arrival(input)? else { return Ok(None) };
        let columns = input.schema().columns().into_iter().filter(|column| column.name != ARRIVAL);
        let exprs = columns.map(Expr::Column).chain([Expr::Column(arrival).alias(ARRIVAL)]).collect();
        inputs.push(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(with))?)));
    }
    let mut fields: Vec<_> = union.schema.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
    let arrival = Column::from_name(ARRIVAL);
    if !union.schema.has_column(&arrival) {
        let Some(first) = inputs.first() else { return Ok(None) };
        let field = first.schema().field_with_unqualified_name(ARRIVAL)?;
        fields.push((None, Arc::new(Field::clone(field))));
    }
    let schema = DFSchema::new_with_metadata(fields, union.schema.metadata().clone())?;
    Ok(Some((LogicalPlan::Union(Union { inputs, schema: Arc::new(schema) }), arrival)))
}

/// Whether a scan reads a feed with the time of arrival.
pub(super) fn arriving(scan: &TableScan) -> Option<Arc<WithArrival>> {
    let provider = source_as_provider(&scan.source).ok()?;
    (provider as Arc<dyn std::any::Any + Send + Sync>).downcast::<WithArrival>().ok()
}
