//! Running queries, and what comes out of them.

use std::any::Any;
use std::ops::ControlFlow;
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
use tokio::time::Instant;

use super::{Engine, Query};
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::operator::Message;
use crate::table::{Gathering, Table};
use crate::time::TimestampArray;
use crate::view::{Budget, Once, Progress, Run, Sink, drive};

/// A running query: its messages as they come, until the feeds end or it is dropped.
pub struct Output {
    pub name: Option<String>,
    pub schema: SchemaRef,
    /// Whether results are corrected later, so that weights matter.
    pub changelog: bool,
    /// Changes, barriers where the output has a state, and the end; an error is the last of them.
    pub messages: mpsc::Receiver<Result<Message>>,
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
            let (sender, messages) = mpsc::channel(OUTPUT_QUEUE);
            let (progress, task) = match query.continuous() {
                Some(continuous) => {
                    let (mut run, read) = continuous.run(context, self.casually())?;
                    run.limit(self.budget_of(query));
                    tables.extend(read);
                    (Some(run.progress()), {
                        let sink = ChannelSink(sender.clone());
                        self.spawn(told(sender.clone(), follow(run, sink, sender)))
                    })
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
            outputs.push(Output::new(query, progress, messages, task));
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

impl Output {
    pub(super) fn new(
        query: &Query,
        progress: Option<Arc<Progress>>,
        messages: mpsc::Receiver<Result<Message>>,
        task: AbortHandle,
    ) -> Self {
        let (name, schema, changelog) = (query.name.clone(), query.schema(), query.is_changelog());
        Output { name, schema, changelog, messages, progress, task }
    }

    /// The next changes; `None` at the end. Cancel-safe.
    pub async fn next_changes(&mut self) -> Option<Result<Changes>> {
        loop {
            match self.messages.recv().await? {
                Ok(Message::Changes(changes)) => return Some(Ok(changes)),
                Ok(Message::Watermark(_) | Message::Barrier(_)) => {}
                Ok(Message::End) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a query's task; if it panics, its reader is told: a result must not look complete that is not.
pub(super) async fn told(messages: mpsc::Sender<Result<Message>>, task: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
        let error = panic_error(panic.as_ref());
        let _ = messages.send(Err(error)).await;
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

/// Hands on the messages of a run by the channel of its output, until the run ends or nobody reads it.
pub(super) async fn follow(run: Run, mut sink: impl Sink, messages: mpsc::Sender<Result<Message>>) {
    let last = drive(run, &mut sink).await.map(|()| Message::End);
    let _ = messages.send(last).await;
}

/// The channel of an output without a state: no barriers come to it.
struct ChannelSink(mpsc::Sender<Result<Message>>);

impl Sink for ChannelSink {
    async fn changes(&mut self, changes: Changes, _: Option<Instant>) -> Result<ControlFlow<()>> {
        Ok(hand_on(&self.0, Message::Changes(changes)).await)
    }

    async fn barrier(&mut self, _: Arc<Gathering>, _: &mut Run) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }
}

/// Breaks where nobody reads the channel any more.
pub(super) async fn hand_on(messages: &mpsc::Sender<Result<Message>>, message: Message) -> ControlFlow<()> {
    match messages.send(Ok(message)).await {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Hands on the rows of a query that DataFusion answers by itself; they have no event time.
pub(super) async fn answer(
    mut rows: impl Stream<Item = DataFusionResult<RecordBatch>> + Unpin,
    messages: mpsc::Sender<Result<Message>>,
) {
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(Error::from).map(|rows| {
            let times = TimestampArray::from_value(0, rows.num_rows());
            Message::Changes(Changes::inserts(rows, times))
        });
        let is_last = batch.is_err();
        if messages.send(batch).await.is_err() || is_last {
            return;
        }
    }
    let _ = messages.send(Ok(Message::End)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn a_query_that_panics_says_so() {
        let (sender, mut changes) = mpsc::channel::<Result<Message>>(1);
        tokio::spawn(told(sender, async { panic!("no such thing") }));
        let error = changes.recv().await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Bug, "a running query broke off: no such thing"));
        assert!(changes.recv().await.is_none());
    }
}
