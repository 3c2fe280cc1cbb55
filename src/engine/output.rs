//! Running queries, and what comes out of them.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError};

use super::{Engine, Query};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::operator::Message;
use crate::table::Table;
use crate::time::TimestampArray;
use crate::view::{Budget, Once, Progress, Run};

/// A running query: its changes as they come, until the feeds end or it is dropped.
pub struct Output<T = Changes> {
    pub name: Option<String>,
    pub schema: SchemaRef,
    /// Whether results are corrected later, so that weights matter.
    pub changelog: bool,
    pub changes: mpsc::Receiver<Result<T>>,
    /// How far the query has come; `None` for a question to a server.
    pub progress: Option<Arc<Progress>>,
    task: AbortHandle,
}

/// Batches of results that may wait for their reader: then the query waits, and with it the feed.
pub(super) const OUTPUT_QUEUE: usize = 8;

impl Engine {
    /// Runs queries together: all of them see every event of the feeds they share.
    pub fn open(&self, queries: &[Query]) -> Result<Vec<Output>> {
        let mut tables: Vec<Arc<Table>> = Vec::new();
        let mut outputs = Vec::new();
        for query in queries {
            let context = self.context_of(query);
            let (sender, changes) = mpsc::channel(OUTPUT_QUEUE);
            let (progress, task) = match query.continuous() {
                Some(continuous) => {
                    let (mut run, read) = continuous.run(context, self.casually())?;
                    run.limit(self.budget_of(query));
                    tables.extend(read);
                    (Some(run.progress()), self.spawn(told(sender.clone(), follow(run, sender))))
                }
                None => {
                    let rows = execute_stream(Arc::clone(&query.plan), context)?;
                    match &self.aside {
                        // Who asks a server sees the rows alone.
                        Some(_) => (None, self.spawn(told(sender.clone(), answer(rows, sender)))),
                        None => {
                            let rows = Once::of(rows);
                            (Some(rows.progress()), self.spawn(told(sender.clone(), answer(rows, sender))))
                        }
                    }
                }
            };
            outputs.push(Output::new(query, progress, changes, task));
        }
        for table in tables {
            table.start();
        }
        Ok(outputs)
    }

    /// Where questions have threads of their own, there; the tables that they read are started here.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        match &self.aside {
            Some(aside) => aside.spawn(task),
            None => tokio::spawn(task).abort_handle(),
        }
    }

    fn context_of(&self, query: &Query) -> Arc<TaskContext> {
        match &self.aside {
            Some(aside) => Arc::new(TaskContext::from(&query.state).with_runtime(aside.memory_of_those_going_on())),
            None => query.state.task_ctx(),
        }
    }

    /// What a query may hold that somebody asks; that of a view is its own.
    fn budget_of(&self, query: &Query) -> Budget {
        match &self.aside {
            Some(aside) => Budget { bytes: query.budget.bytes.min(aside.share() as u64), ..query.budget },
            None => query.budget,
        }
    }
}

impl<T> Output<T> {
    pub(super) fn new(
        query: &Query,
        progress: Option<Arc<Progress>>,
        changes: mpsc::Receiver<Result<T>>,
        task: AbortHandle,
    ) -> Self {
        let (name, schema, changelog) = (query.name.clone(), query.schema(), query.is_changelog());
        Output { name, schema, changelog, changes, progress, task }
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a query's task; if it panics, its reader is told: a result must not look complete that is not.
pub(super) async fn told<T>(changes: mpsc::Sender<Result<T>>, task: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
        let error = panic_error(panic.as_ref());
        let _ = changes.send(Err(error)).await;
    }
}

/// Why a task came to no end.
pub(super) fn broken(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => panic_error(panic.as_ref()),
        Err(error) => Error::bug(format!("a running query broke off: {error}")),
    }
}

pub(super) fn panic_error(panic: &(dyn Any + Send)) -> Error {
    let what = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Error::bug(format!("a running query broke off: {}", what.unwrap_or("no reason is known")))
}

/// Hands on the changes of a continuous query until it ends or nobody reads it.
async fn follow(mut run: Run, changes: mpsc::Sender<Result<Changes>>) {
    loop {
        let sent = match run.next().await {
            Ok(Some(Message::Changes(rows))) => changes.send(Ok(rows)).await,
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(error) => return drop(changes.send(Err(error)).await),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Hands on the rows of a query that DataFusion answers by itself; they have no event time.
pub(super) async fn answer<T: From<Changes>>(
    mut rows: impl Stream<Item = DataFusionResult<RecordBatch>> + Unpin,
    changes: mpsc::Sender<Result<T>>,
) {
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(Error::from).map(|rows| {
            let times = TimestampArray::from_value(0, rows.num_rows());
            T::from(Changes::inserts(rows, times))
        });
        if changes.send(batch).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_query_that_panics_says_so() {
        let (sender, mut changes) = mpsc::channel::<Result<Changes>>(1);
        tokio::spawn(told(sender, async { panic!("no such thing") }));
        let error = changes.recv().await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Bug, "a running query broke off: no such thing"));
        assert!(changes.recv().await.is_none());
    }
}
