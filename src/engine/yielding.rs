//! What DataFusion's operators do not do by themselves for a question: count the rows that window functions hold, of which they keep
//! all of a partition and tell no pool, and give way after some time instead of after some batches, each of which may take long.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, RecordBatchStream, SendableRecordBatchStream,
};
use futures::{Stream, StreamExt};

use crate::memory::shown_by;
use crate::operator::SlotExec;
use crate::view::ContinuousExec;

/// How long a question may go on before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(20);

/// Puts a [`YieldingExec`] above each source of rows, and below each operator of window functions.
#[derive(Debug)]
pub struct YieldingRule;

impl PhysicalOptimizerRule for YieldingRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let watched = plan.transform_up(|plan| {
            let any = plan.as_ref() as &dyn Any;
            let over = |input, role| Arc::new(YieldingExec { input, role }) as Arc<dyn ExecutionPlan>;
            if plan.children().is_empty() {
                // A query over feeds waits for those by itself, and so does a step of it.
                return Ok(match any.is::<ContinuousExec>() || any.is::<SlotExec>() {
                    true => Transformed::no(plan),
                    false => Transformed::yes(over(plan, Role::GiveWay)),
                });
            }
            if !any.is::<WindowAggExec>() && !any.is::<BoundedWindowAggExec>() {
                return Ok(Transformed::no(plan));
            }
            let counted = plan.children().into_iter().map(|input| over(Arc::clone(input), Role::Count)).collect::<Vec<_>>();
            replace_children_if_necessary(plan, counted).map(Transformed::yes)
        });
        watched.data()
    }

    fn name(&self) -> &str {
        "question"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan as DataFusion made it, for people to read.
pub fn bare(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let bare = plan.transform_up(|plan| match (plan.as_ref() as &dyn Any).downcast_ref::<YieldingExec>() {
        Some(watch) => Ok(Transformed::yes(Arc::clone(&watch.input))),
        None => Ok(Transformed::no(plan)),
    });
    bare.data()
}

/// Passes rows on.
#[derive(Debug)]
struct YieldingExec {
    input: Arc<dyn ExecutionPlan>,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Counts what went through as held until it is dropped.
    Count,
    GiveWay,
}

impl DisplayAs for YieldingExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("QuestionExec")
    }
}

impl ExecutionPlan for YieldingExec {
    fn name(&self) -> &str {
        "QuestionExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(YieldingExec { input, role: self.role }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new("rows of window functions").register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        Ok(match self.role {
            Role::Count => Box::pin(CountedStream { rows, reservation }),
            Role::GiveWay => Box::pin(YieldingStream { rows, since: Instant::now() }),
        })
    }
}

struct CountedStream {
    rows: SendableRecordBatchStream,
    reservation: MemoryReservation,
}

impl Stream for CountedStream {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.rows.poll_next_unpin(context);
        next.map(|next| {
            let batch = match next? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            };
            Some(self.reservation.try_grow(shown_by(&batch)).map(|()| batch))
        })
    }
}

impl RecordBatchStream for CountedStream {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

/// Rows of a source; now and then it lets others go first.
struct YieldingStream {
    rows: SendableRecordBatchStream,
    since: Instant,
}

impl Stream for YieldingStream {
    type Item = DataFusionResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.since.elapsed() > TURN {
            context.waker().wake_by_ref();
            self.since = Instant::now();
            return Poll::Pending;
        }
        self.rows.poll_next_unpin(context)
    }
}

impl RecordBatchStream for YieldingStream {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
