//! The one registration call: window functions, JSON operators, and the planner that makes continuous queries of plans over feeds.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::DFSchemaRef;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::{QueryPlanner, SessionContext};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;

use super::exec::ContinuousExec;
use crate::error::{Error, Result};
use crate::function;
use crate::operator::SlotNode;
use crate::plan::{self, Clocks, Emit, FindWindows, WindowNode};
use crate::sql::Types;
use crate::time::UTC;
use crate::zone;

/// Teaches a session the windows `TUMBLE`, `HOP` and `SESSION`, the JSON operators `->` and `->>`, `AT TIME ZONE` as PostgreSQL means it, and
/// to run queries over feeds continuously.
///
/// Its operators and functions become safe ([`function`]). Everything else of the session stays as it is.
pub fn register(session: &SessionContext) -> Result<()> {
    function::register(session)?;
    let state = plan::session(session.state(), settings);
    let mut builder = SessionStateBuilder::new_from_existing(state);
    // Before DataFusion's own, which take a name as it stands.
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(function::FieldByName));
    let state = builder
        .with_type_planner(Arc::new(Types))
        .with_analyzer_rule(Arc::new(FindWindows))
        .with_analyzer_rule(Arc::new(Clocks))
        .with_query_planner(Arc::new(ContinuousPlanner))
        .build();
    *session.state_ref().write() = state;
    for function in plan::functions().into_iter().chain(zone::functions()) {
        session.register_udf(function);
    }
    let state = session.state_ref();
    let mut state = state.write();
    state.register_function_rewrite(Arc::new(zone::AtTimeZone))?;
    state.register_function_rewrite(Arc::new(zone::Literals))?;
    Ok(())
}

/// The settings that streams need: text as views, places in errors, instants in UTC, and hash joins that can be run again.
fn settings(config: SessionConfig) -> SessionConfig {
    let mut config = config;
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = true;
    options.sql_parser.collect_spans = true;
    // What `now()` and `to_timestamp` give is an instant like every other.
    options.execution.time_zone.get_or_insert_with(|| UTC.into());
    options.optimizer.enable_dynamic_filter_pushdown = false;
    config
}

/// Plans a query that reads a feed as one [`ContinuousExec`], and every other as DataFusion does.
#[derive(Debug)]
struct ContinuousPlanner;

#[async_trait]
impl QueryPlanner for ContinuousPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        planner().create_physical_plan(&wrap(plan.clone())?, session).await
    }
}

fn planner() -> DefaultPhysicalPlanner {
    DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Nodes)])
}

/// Puts a query over feeds into one node, below whatever explains it or writes its rows.
fn wrap(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    Ok(match plan {
        plan if plan::tables(&plan).is_empty() => plan,
        LogicalPlan::Explain(mut explain) => {
            explain.plan = Arc::new(wrap(explain.plan.as_ref().clone())?);
            LogicalPlan::Explain(explain)
        }
        LogicalPlan::Analyze(mut analyze) => {
            analyze.input = Arc::new(wrap(analyze.input.as_ref().clone())?);
            LogicalPlan::Analyze(analyze)
        }
        LogicalPlan::Copy(mut copy) => {
            copy.input = Arc::new(wrap(copy.input.as_ref().clone())?);
            LogicalPlan::Copy(copy)
        }
        LogicalPlan::Dml(mut dml) => {
            dml.input = Arc::new(wrap(dml.input.as_ref().clone())?);
            LogicalPlan::Dml(dml)
        }
        plan => LogicalPlan::Extension(Extension { node: Arc::new(ContinuousNode { plan }) }),
    })
}

/// A whole query over feeds as a leaf, so that nothing rewrites it any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
struct ContinuousNode {
    plan: LogicalPlan,
}

impl UserDefinedLogicalNodeCore for ContinuousNode {
    fn name(&self) -> &str {
        "Continuous"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        self.plan.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Continuous")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        Ok(self.clone())
    }
}

#[derive(Debug)]
struct Nodes;

#[async_trait]
impl ExtensionPlanner for Nodes {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        _: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(slot) = node.as_any().downcast_ref::<SlotNode>() {
            return Ok(Some(slot.exec()));
        }
        let emit = session.config().get_extension::<Emit>().map(|emit| *emit).unwrap_or_default();
        if let Some(ContinuousNode { plan }) = node.as_any().downcast_ref() {
            return match plan::compile(plan, planner, session, context, emit).await {
                Ok(plan) => Ok(Some(Arc::new(ContinuousExec::new(plan)))),
                // What has no answer on an endless stream may have one on files.
                Err(error) if plan::is_refusal(&error) && all_finite(plan) => {
                    Ok(Some(planner.create_physical_plan(plan, session).await?))
                }
                Err(error) => Err(error.into()),
            };
        }
        if let Some(window) = node.as_any().downcast_ref::<WindowNode>() {
            // A window inside a bounded plan over files is a query of its own.
            let plan = LogicalPlan::Extension(Extension { node: Arc::new(window.clone()) });
            let plan = plan::compile(&plan, planner, session, context, Emit::default()).await?;
            return Ok(Some(Arc::new(ContinuousExec::new(plan))));
        }
        Err(Error::bug(format!("a node without a plan: {}", node.name())).into())
    }
}

fn all_finite(plan: &LogicalPlan) -> bool {
    plan::tables(plan).iter().all(|table| table.spec().finite)
}
