//! Walks a logical plan from its root and gives each node its operator.
//!
//! Three regions meet in a plan. What lies below every window runs row by row as rows come. A window's own aggregate keeps state
//! per pane. What lies above a window and looks at one window at a time (sorting, ranking, a limit per window) is handed to
//! DataFusion whole, as a bounded plan over the rows of one window.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, ExprSchemable, FetchType, Join, Limit, LogicalPlan, SkipType, TableScan, Window};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_planner::PhysicalPlanner;
use datafusion::prelude::SessionConfig;

use super::clocks;
use super::finish;
use super::marker;
use super::node::WindowNode;
use super::step::{Plan, Step, WindowStep};
use crate::error::{Code, Error, Result};
use crate::operator::bounded::BoundedPlan;
use crate::operator::over::window_function;
use crate::operator::{Emission, Finished, Order, OverSpec, RowStep, SlotNode, lookup};
use crate::sql::unsteady;
use crate::table::{EventTime, Table};

/// When the windows of a query give results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Emit {
    /// Also before a window closes, at most once in so much event time.
    pub early: Option<Duration>,
    /// For how long after their end windows take late rows; `None`: as the tables say.
    pub allowed_lateness: Option<Duration>,
}

/// The streaming tables that a plan reads, each as often as it is read.
pub fn tables(plan: &LogicalPlan) -> Vec<Arc<Table>> {
    let mut found = Vec::new();
    let _ = plan.apply_with_subqueries(|plan| {
        if let LogicalPlan::TableScan(scan) = plan {
            found.extend(table(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The streaming table that a scan reads.
pub(super) fn table(scan: &TableScan) -> Option<Arc<Table>> {
    if let Some(arriving) = clocks::arriving(scan) {
        return Some(Arc::clone(&arriving.table));
    }
    let provider = source_as_provider(&scan.source).ok()?;
    (provider as Arc<dyn std::any::Any + Send + Sync>).downcast::<Table>().ok()
}

/// Whether an error says that a query cannot run on an endless stream: on finite feeds it may still have an answer.
pub fn is_refusal(error: &Error) -> bool {
    matches!(error.code(), Code::Endless | Code::NotYet)
}

/// Turns a whole query over streams into a plan of operators. `planner` is asked for expressions and for the bounded parts.
pub async fn compile(
    plan: &LogicalPlan,
    planner: &dyn PhysicalPlanner,
    session: &dyn Session,
    context: &PhysicalPlanningContext,
    emit: Emit,
) -> Result<Plan> {
    let lateness = tables(plan).iter().map(|table| table.spec().allowed_lateness).max().unwrap_or_default();
    let bounded = bounded_session(session)?;
    let lateness = emit.allowed_lateness.unwrap_or(lateness);
    let compiler = Compiler { planner, session, context, bounded, lateness, early: emit.early, notices: Mutex::default() };
    let root = compiler.step(plan, Nesting::Top).await?;
    let notices = compiler.notices.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Plan::new(root, Arc::clone(plan.schema().inner()), notices))
}

/// A session like `state` but for its settings; tables and functions are shared.
pub fn session(state: SessionState, settings: impl FnOnce(SessionConfig) -> SessionConfig) -> SessionState {
    let mut builder = SessionStateBuilder::new_from_existing(state);
    // The builder's own configuration knows that the default catalog is there and must not be made anew.
    let config = builder.config().take().unwrap_or_default();
    builder.with_config(settings(config)).build()
}

/// The session for bounded parts: they run inside an operator, on one partition, over and over.
fn bounded_session(state: &dyn Session) -> Result<SessionState> {
    let state = state.as_any().downcast_ref::<SessionState>().ok_or_else(|| Error::bug("a session of another kind"))?;
    Ok(session(state.clone(), |config| {
        let mut config = config.with_target_partitions(1);
        config.options_mut().optimizer.enable_dynamic_filter_pushdown = false;
        config
    }))
}

struct Compiler<'a> {
    planner: &'a dyn PhysicalPlanner,
    session: &'a dyn Session,
    context: &'a PhysicalPlanningContext,
    bounded: SessionState,
    early: Option<Duration>,
    lateness: Duration,
    notices: Mutex<Vec<String>>,
}

/// Where a window stands: only the topmost one gives early results and corrections; what reads from a window wants its last word.
#[derive(Clone, Copy, PartialEq)]
enum Nesting {
    Top,
    Inner,
}

impl Compiler<'_> {
    async fn step(&self, plan: &LogicalPlan, place: Nesting) -> Result<Step> {
        if let Some(window) = finish::window_under(plan) {
            return Box::pin(self.window(plan, window, place)).await;
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.source(scan),
            LogicalPlan::SubqueryAlias(alias) => Box::pin(self.step(&alias.input, place)).await,
            LogicalPlan::Projection(projection) => {
                let input = Box::pin(self.step(&projection.input, place)).await?;
                steady(plan, &input)?;
                let exprs = self.exprs(&projection.expr, projection.input.schema())?;
                let schema = Arc::clone(plan.schema().inner());
                let project = |input| Step::Project { input, exprs, schema };
                Ok(match input {
                    // The optimiser puts LIMIT below; but a row that cannot be computed is none of those that were asked for.
                    Step::Limit { input, skip, fetch } => Step::Limit { input: Box::new(project(input)), skip, fetch },
                    input => project(Box::new(input)),
                })
            }
            LogicalPlan::Filter(filter) => {
                let input = Box::pin(self.step(&filter.input, place)).await?;
                steady(plan, &input)?;
                Ok(Step::Filter { input: Box::new(input), predicate: self.expr(&filter.predicate, filter.input.schema())? })
            }
            LogicalPlan::Window(window) => Box::pin(self.over(window, plan)).await,
            LogicalPlan::Union(union) => {
                let mut inputs = Vec::new();
                for input in &union.inputs {
                    let step = Box::pin(self.step(input, place)).await?;
                    inputs.push(step.with_schema(input.schema().inner(), union.schema.inner()));
                }
                Ok(Step::Union { inputs })
            }
            LogicalPlan::Limit(limit) => {
                let (skip, fetch) = first_rows(limit)?;
                let input = Box::pin(self.step(&limit.input, place)).await?;
                if input.is_changelog() && is_keyed(&limit.input) {
                    return Err(over_changes("LIMIT over", &limit.input));
                }
                if input.is_changelog() {
                    return Err(Error::new(Code::NotYet, "the first rows of results that are corrected later are not settled")
                        .hint(
                            "leave out LIMIT, or emit = 'changes' and allowed_lateness; or limit each window by ORDER BY … LIMIT",
                        ));
                }
                Ok(Step::Limit { input: Box::new(input), skip, fetch })
            }
            LogicalPlan::Join(join) => Box::pin(self.lookup(join, plan, place)).await,
            other => Err(refuse(other)),
        }
    }

    fn source(&self, scan: &TableScan) -> Result<Step> {
        let table = table(scan).ok_or_else(|| {
            Error::new(Code::NotYet, format!("'{}' is no feed, and a query over feeds can only join it", scan.table_name))
                .hint("read it in a JOIN … ON …, or in a query of its own")
        })?;
        let all = || (0..scan.source.schema().fields().len()).collect();
        let projection = scan.projection.clone().unwrap_or_else(all);
        Ok(Step::Source { schema: Arc::clone(scan.projected_schema.inner()), table, projection })
    }

    /// A window with everything above it that looks at one window at a time.
    async fn window(&self, top: &LogicalPlan, node: &WindowNode, place: Nesting) -> Result<Step> {
        let input = Box::pin(self.step(&node.input, Nesting::Inner)).await?;
        if input.is_changelog() {
            return Err(over_changes("a window over", &node.input));
        }
        let schema = node.input.schema();
        let mut aggregates = Vec::new();
        let mut filters = Vec::new();
        for expr in &node.aggregates {
            let lowered =
                LoweredAggregateBuilder::new(expr, schema, schema.as_arrow(), self.session.execution_props(), self.context)
                    .build()?;
            aggregates.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        let (emission, hold) = match place {
            Nesting::Top => (Emission { early: self.early, allowed_lateness: self.lateness }, Duration::ZERO),
            Nesting::Inner => (Emission { early: None, allowed_lateness: Duration::ZERO }, self.lateness),
        };
        if emission.updates() {
            finish::above(top, &mut |plan| refuse_unsteady(plan, "results that are said again"))?;
        }
        let finish = self.finish(top, node).await?;
        let input = if hold.is_zero() { input } else { Step::Hold { input: Box::new(input), by: hold } };
        Ok(Step::Window(Box::new(WindowStep {
            input,
            shape: node.shape,
            keys: self.exprs(&node.keys, schema)?,
            aggregates,
            filters,
            output: Arc::clone(node.schema.inner()),
            window_index: node.window_index,
            emission,
            finish,
            key: finish::key(top),
        })))
    }

    async fn finish(&self, top: &LogicalPlan, node: &WindowNode) -> Result<Finished> {
        let keys = finish::keys(top, node);
        if let Some(rows) = finish::row_by_row(top) {
            let mut steps = Vec::new();
            for plan in rows {
                steps.push(match plan {
                    LogicalPlan::Projection(projection) => RowStep::Project {
                        exprs: self.exprs(&projection.expr, projection.input.schema())?,
                        schema: Arc::clone(projection.schema.inner()),
                    },
                    LogicalPlan::Filter(filter) => {
                        RowStep::Filter { predicate: self.expr(&filter.predicate, filter.input.schema())? }
                    }
                    _ => return Err(Error::bug("a step of another kind")),
                });
            }
            return Ok(Finished::Rows { steps, keys, schema: Arc::clone(top.schema().inner()) });
        }
        let over_slot = finish::over_slot(top)?;
        let plan = self.planner.create_physical_plan(&over_slot, &self.bounded).await?;
        Ok(Finished::Plan {
            plan: BoundedPlan::new(plan, self.bounded.task_ctx()),
            keys,
            schema: Arc::clone(top.schema().inner()),
        })
    }

    /// Window functions over a partition of the stream: in event-time order, or as rows arrive.
    async fn over(&self, window: &Window, plan: &LogicalPlan) -> Result<Step> {
        let input = Box::pin(self.step(&window.input, Nesting::Inner)).await?;
        if input.is_changelog() {
            return Err(over_changes("a window function over", &window.input));
        }
        let schema = window.input.schema();
        let order = self.order(window)?;
        let output = Arc::clone(plan.schema().inner());
        let spec = OverSpec::plan(&window.window_expr, schema, output, order, self.session.execution_props(), self.context)?;
        Ok(Step::Over { input: Box::new(input), spec })
    }

    /// The order that the functions of one node ask for; DataFusion has put those with the same ORDER BY together.
    fn order(&self, window: &Window) -> Result<Order> {
        let schema = window.input.schema();
        let function = window.window_expr.first().ok_or_else(|| Error::bug("a window node without functions"))?;
        let Some(sort) = window_function(function)?.params.order_by.first() else { return Ok(Order::Arrival) };
        // What else ORDER BY may say, the functions themselves refuse.
        if !sort.asc || marker::is_event_time(&sort.expr, schema) {
            return Ok(Order::EventTime);
        }
        let by_arrival = tables(&window.input).iter().all(|table| matches!(table.spec().time, EventTime::Arrival));
        let name = match &sort.expr {
            Expr::Column(column) => Some(column.name.as_str()),
            _ => None,
        };
        let is_time = matches!(sort.expr.get_type(schema)?, DataType::Timestamp(..));
        match name {
            Some(name) if by_arrival && is_time => {
                let notice = format!(
                    "ORDER BY {name}: rows are taken in the order of arrival; declare WATERMARK FOR {name} to put them in order"
                );
                let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
                if !notices.contains(&notice) {
                    notices.push(notice);
                }
                Ok(Order::Arrival)
            }
            _ => {
                let shown = name.map_or_else(|| super::describe::readable(&sort.expr.to_string()), str::to_string);
                let error = Error::new(
                    Code::Endless,
                    format!("ORDER BY {shown} in an OVER: an endless stream can be put in the order of its event time only"),
                );
                Err(match (name, is_time) {
                    (Some(name), true) => error.hint(format!("declare the table with WATERMARK FOR {name}, or order by its event time")),
                    _ => error.hint(
                        "order by the event time, leave ORDER BY out to take rows as they arrive, or rank inside a window: OVER (PARTITION BY window ORDER BY …)",
                    ),
                })
            }
        }
    }

    /// A join of a stream with something that does not change: each batch is looked up in it.
    async fn lookup(&self, join: &Join, plan: &LogicalPlan, place: Nesting) -> Result<Step> {
        let stream_left = match (streams(&join.left), streams(&join.right)) {
            (true, false) => true,
            (false, true) => false,
            (true, true) if files_only(&join.right) => true,
            (true, true) if files_only(&join.left) => false,
            _ => return Err(refuse(plan)),
        };
        let (stream, fixed) = if stream_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
        let keeps_stream = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => stream_left,
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => !stream_left,
            _ => false,
        };
        if !keeps_stream {
            return Err(Error::new(
                Code::Endless,
                match join.join_type {
                    JoinType::Left | JoinType::Right | JoinType::Full => format!(
                        "a {} join waits for rows of the stream that may still come",
                        join.join_type.to_string().to_ascii_uppercase()
                    ),
                    _ => "IN or EXISTS over a stream waits for rows that may still come".into(),
                },
            )
            .hint("keep the stream's rows instead: stream LEFT JOIN table, or an inner JOIN"));
        }
        let input = Box::pin(self.step(stream, place)).await?;
        steady(plan, &input)?;
        let numbered = lookup::numbered(stream.schema())?;
        let (on_stream, on_fixed) =
            (SlotNode::plan(lookup::STREAM, numbered), SlotNode::plan(lookup::FIXED, Arc::clone(fixed.schema())));
        // The fixed side comes first: that is the side a hash join builds, and it is built once. Only NOT IN (SELECT …) cannot be turned.
        let build = if join.null_aware { lookup::Build::EachBatch } else { lookup::Build::Once };
        let stays = stream_left == (build == lookup::Build::EachBatch);
        let (left, right) = if build == lookup::Build::Once { (on_fixed, on_stream) } else { (on_stream, on_fixed) };
        let turn =
            |(left, right): &(Expr, Expr)| if stays { (left.clone(), right.clone()) } else { (right.clone(), left.clone()) };
        let turned = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.iter().map(turn).collect(),
            join.filter.clone(),
            if stays { join.join_type } else { join.join_type.swap() },
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?;
        let turned = LogicalPlan::Join(turned);
        let columns = lookup::Columns::new(turned.schema(), plan.schema())?;
        let lookup = self.planner.create_physical_plan(&turned, &self.bounded).await?;
        let fixed = self.planner.create_physical_plan(fixed, self.session).await?;
        Ok(Step::Lookup {
            input: Box::new(input),
            fixed,
            lookup: BoundedPlan::new(lookup, self.bounded.task_ctx()),
            build,
            columns,
            schema: Arc::clone(plan.schema().inner()),
        })
    }

    fn exprs(&self, exprs: &[Expr], schema: &DFSchema) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        exprs.iter().map(|expr| self.expr(expr, schema)).collect()
    }

    fn expr(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let is_subquery = |expr: &Expr| matches!(expr, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_));
        if expr.exists(|part| Ok(is_subquery(part)))? {
            return Err(Error::new(Code::NotYet, "a subquery in the place of a value is not built for streams yet")
                .hint("join with its result: FROM feed CROSS JOIN (SELECT …) AS t, where it reads files only"));
        }
        Ok(self.planner.create_physical_expr(expr, schema, self.session, self.context)?)
    }
}

/// Refuses what gives another value whenever it is asked, over rows that change: what is taken back would not be what was sent.
fn steady(plan: &LogicalPlan, input: &Step) -> Result<()> {
    if input.is_changelog() { refuse_unsteady(plan, "rows that change") } else { Ok(()) }
}

fn refuse_unsteady(plan: &LogicalPlan, over: &str) -> Result<()> {
    let mut found = None;
    plan.apply_expressions(|expr| {
        found = unsteady(expr);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    let Some(name) = found else { return Ok(()) };
    Err(Error::new(
        Code::Query,
        format!("{name}() gives another value whenever it is asked, over {over}: a row would be taken back that was never sent"),
    )
    .hint("leave it out here, and compute it where the rows are read: SELECT … FROM the view; or, for windows, leave out EMIT CHANGES, emit = 'changes' and allowed_lateness"))
}

/// Whether a plan reads a table whose rows change.
fn is_keyed(plan: &LogicalPlan) -> bool {
    tables(plan).iter().any(|table| table.spec().key.is_some())
}

/// Why something that reads rows once cannot read those of a keyed table.
fn over_changes(what: &str, input: &LogicalPlan) -> Error {
    let tables = tables(input);
    let name = tables.iter().find(|table| table.spec().key.is_some()).map_or(String::new(), |table| table.spec().name.clone());
    Error::new(Code::NotYet, format!("{what} table '{name}', whose rows change by their PRIMARY KEY, is not built yet"))
        .hint("keep to SELECT and WHERE here; or read the change events themselves, by a table with format = 'json' and without PRIMARY KEY")
}

pub(super) fn streams(plan: &LogicalPlan) -> bool {
    !tables(plan).is_empty()
}

/// Whether all feeds of a plan are files, so that it can be read once.
fn files_only(plan: &LogicalPlan) -> bool {
    tables(plan).iter().all(|table| table.spec().feed.is_file())
}

fn first_rows(limit: &Limit) -> Result<(usize, Option<usize>)> {
    let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?) else {
        return Err(Error::new(Code::Query, "LIMIT and OFFSET take whole numbers"));
    };
    Ok((skip, fetch))
}

/// Why a node has no place in an endless query, and what to write instead.
fn refuse(plan: &LogicalPlan) -> Error {
    let endless = |what: &str, hint: &str| Error::new(Code::Endless, what).hint(hint);
    let not_yet = |what: &str, hint: &str| Error::new(Code::NotYet, what).hint(hint);
    match plan {
        LogicalPlan::Aggregate(aggregate) if is_keyed(&aggregate.input) => over_changes("an aggregate over", &aggregate.input),
        LogicalPlan::Distinct(_) if is_keyed(plan) => over_changes("DISTINCT over", plan),
        LogicalPlan::Sort(_) if is_keyed(plan) => over_changes("ORDER BY over", plan),
        LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.is_empty() => endless(
            "DISTINCT, UNION without ALL and GROUP BY without an aggregate have to remember every row of an endless stream",
            "make rows distinct within a window: SELECT k, TUMBLE(INTERVAL '1 minute') AS window … GROUP BY k, window; or say UNION ALL",
        ),
        LogicalPlan::Aggregate(_) => endless(
            "an aggregate over an endless stream never has its last word",
            "give it a window: SELECT …, TUMBLE(INTERVAL '1 minute') AS window … GROUP BY …, window",
        ),
        LogicalPlan::Distinct(_) => endless(
            "DISTINCT over an endless stream has to remember every row",
            "make it distinct within a window: SELECT k, TUMBLE(INTERVAL '1 minute') AS window … GROUP BY k, window",
        ),
        LogicalPlan::Sort(_) => endless(
            "an endless stream cannot be sorted as a whole",
            "sort the results of a window: … GROUP BY k, TUMBLE(INTERVAL '1 minute') ORDER BY …",
        ),
        LogicalPlan::Join(join) if streams(&join.left) && streams(&join.right) => not_yet(
            "a join of two streams is not built yet",
            "join a stream with a static table (connector = 'file', or VALUES), or UNION ALL the streams and aggregate by window",
        ),
        LogicalPlan::Join(_) => not_yet("this join is not built yet", "join a stream with a static table by JOIN … ON …"),
        LogicalPlan::Unnest(_) => not_yet(
            "UNNEST of a raw stream is not built yet",
            "unnest the result of a window, or split records with framing = 'json_array'",
        ),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            not_yet("rows that are written out cannot be mixed into a stream", "join with them: JOIN (VALUES …) AS t(k, v) ON …")
        }
        other => {
            let what = other.display().to_string();
            not_yet(
                &format!("'{}' is not built for streams yet", what.split([':', '(']).next().unwrap_or(&what)),
                "write the query with filters, windows and joins with static tables",
            )
        }
    }
}
