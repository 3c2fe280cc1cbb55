//! Bounded plans inside a running query: planned once by DataFusion, run on the rows at hand, once per emitted window or batch.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, reset_plan_states};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream, displayable,
};
use futures::{TryStreamExt, stream};

use crate::error::{Error, Result};

/// A plan over the rows that are put into its slots.
#[derive(Debug, Clone)]
pub struct BoundedPlan {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

/// A plan with slots of its own, ready to run again and again.
pub struct BoundedRun {
    plan: Arc<dyn ExecutionPlan>,
    slots: Vec<Arc<Slot>>,
    context: Arc<TaskContext>,
}

/// Where the rows of a run are put.
#[derive(Debug, Default)]
struct Slot {
    rows: Mutex<Option<RecordBatch>>,
}

impl BoundedPlan {
    pub fn new(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Self {
        BoundedPlan { plan, context }
    }

    /// A runner with `slots` slots of its own; two runners never see each other's rows.
    pub fn runner(&self, slots: usize) -> Result<BoundedRun> {
        let own: Vec<Arc<Slot>> = (0..slots).map(|_| Arc::default()).collect();
        let plan = Arc::clone(&self.plan).transform_up(|plan| match (plan.as_ref() as &dyn Any).downcast_ref::<SlotExec>() {
            Some(exec) => Ok(Transformed::yes(
                Arc::new(SlotExec { slot: Arc::clone(&own[exec.number]), ..exec.clone() }) as Arc<dyn ExecutionPlan>
            )),
            None => Ok(Transformed::no(plan)),
        })?;
        Ok(BoundedRun { plan: plan.data, slots: own, context: Arc::clone(&self.context) })
    }
}

impl BoundedRun {
    /// The plan on one line, from the root to the rows.
    pub fn describe(&self) -> String {
        let text = displayable(self.plan.as_ref()).indent(false).to_string();
        text.lines().map(str::trim).collect::<Vec<_>>().join(" <- ")
    }

    /// Puts the rows of slot `slot`; they stay until others take their place.
    pub fn put(&mut self, slot: usize, rows: RecordBatch) {
        *self.slots[slot].rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }

    /// Runs the plan anew, from its leaves.
    pub fn run(&mut self) -> Result<RecordBatch> {
        self.plan = reset_plan_states(Arc::clone(&self.plan))?;
        self.rerun()
    }

    /// Runs the plan again but keeps what its joins have built: right where only the probe side has other rows.
    pub fn rerun(&mut self) -> Result<RecordBatch> {
        let rows = self.plan.execute(0, Arc::clone(&self.context))?.try_collect::<Vec<_>>();
        // The leaves are in memory, so nothing waits; without the budget of a task, which would never be refilled here.
        let batches = futures::executor::block_on(tokio::task::unconstrained(rows))?;
        Ok(concat_batches(&self.plan.schema(), &batches)?)
    }
}

impl fmt::Debug for BoundedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedRun").field("plan", &self.plan.name()).finish_non_exhaustive()
    }
}

/// The leaf of a bounded plan in DataFusion's logical plan: rows of a schema, put there by the running query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlotNode {
    pub number: usize,
    pub schema: DFSchemaRef,
}

impl SlotNode {
    pub fn plan(number: usize, schema: DFSchemaRef) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(SlotNode { number, schema }) })
    }

    pub fn exec(&self) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::clone(self.schema.inner());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(SlotExec { number: self.number, slot: Arc::default(), properties: Arc::new(properties) })
    }
}

impl PartialOrd for SlotNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.number.partial_cmp(&other.number)
    }
}

impl UserDefinedLogicalNodeCore for SlotNode {
    fn name(&self) -> &str {
        "Rows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Rows")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        Ok(self.clone())
    }
}

/// The same in the physical plan.
#[derive(Debug, Clone)]
pub struct SlotExec {
    number: usize,
    slot: Arc<Slot>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for SlotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Rows")
    }
}

impl ExecutionPlan for SlotExec {
    fn name(&self) -> &str {
        "Rows"
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let rows = self.slot.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rows = rows.ok_or_else(|| Error::bug("a bounded plan runs without rows"))?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::iter([Ok(rows)]))))
    }
}
