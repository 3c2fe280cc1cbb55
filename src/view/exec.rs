//! A continuous query as one node of DataFusion's physical plan.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::stream;

use super::run::Run;
use crate::error::{Code, Error, Result};
use crate::plan::Plan;
use crate::table::{Follow, Table};

/// A query over streams, planned. Each execution is a run of its own.
#[derive(Debug)]
pub struct ContinuousExec {
    plan: Plan,
    properties: Arc<PlanProperties>,
}

impl ContinuousExec {
    pub fn new(plan: Plan) -> Self {
        let boundedness = match plan.is_finite() {
            true => Boundedness::Bounded,
            false => Boundedness::Unbounded { requires_infinite_memory: false },
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&plan.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            boundedness,
        );
        // A run waits for its tables' channels, which give way to others by themselves.
        let properties = properties.with_scheduling_type(SchedulingType::Cooperative);
        ContinuousExec { plan, properties: Arc::new(properties) }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A run that gives changes with their weights, and the tables to start once all runs have joined.
    pub fn run(&self, context: Arc<TaskContext>, follow: Follow) -> Result<(Run, Vec<Arc<Table>>)> {
        Run::new(&self.plan, context, follow)
    }
}

impl DisplayAs for ContinuousExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let chain = self.plan.describe().map_err(|_| fmt::Error)?;
        let steps: Vec<&str> = chain.lines().map(str::trim).collect();
        write!(f, "Continuous: {}", steps.join(" <- "))
    }
}

/// For plain DataFusion programs: the rows of an append-only query. One whose results are corrected later has no meaning as plain rows.
impl ExecutionPlan for ContinuousExec {
    fn name(&self) -> &str {
        "Continuous"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        if self.plan.is_changelog() {
            return Err(Error::new(Code::Query, "the results of this query are corrected later, which plain rows cannot say")
                .hint("leave out emit = 'changes', allowed_lateness and PRIMARY KEY, or run it by streamgauge::Engine, which gives changes")
                .into());
        }
        let (run, tables) = self.run(context, Follow::EXACT)?;
        for table in &tables {
            table.start();
        }
        let rows = stream::try_unfold((run, tables), |(mut run, tables)| async move {
            let changes = run.next_changes().await?;
            Ok::<_, DataFusionError>(changes.map(|changes| (changes.rows, (run, tables))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.plan.schema), rows)))
    }
}
