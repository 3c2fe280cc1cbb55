//! A table as DataFusion sees it: a schema, a scan, and one running feed shared by all that read from it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::hub::{self, JOIN_QUEUE, Reader, Subscription};
use super::spec::Spec;
use super::status::Status;
use crate::error::Result;
use crate::feed::{self, State};
use crate::operator::Message;

/// A table over a feed. However many read from it, there is one connection, made when the first reader starts and closed when the last leaves.
pub struct Table {
    spec: Arc<Spec>,
    feed_status: Arc<feed::Status>,
    status: Arc<Status>,
    hub: Mutex<HubState>,
}

/// Readers wait until the feed is started, so that all of them see its first event.
#[derive(Default)]
struct HubState {
    waiting: Vec<Reader>,
    running: Option<Running>,
}

struct Running {
    join: mpsc::Sender<Reader>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Table {
    pub fn new(spec: Spec) -> Arc<Self> {
        Arc::new(Table { spec: Arc::new(spec), feed_status: Arc::default(), status: Arc::default(), hub: Mutex::default() })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// State and counters of the connection.
    pub fn feed_status(&self) -> &feed::Status {
        &self.feed_status
    }

    /// Rows, bad events and the watermark.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether the feed runs for some reader, or has run.
    pub fn is_read(&self) -> bool {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner).running.is_some()
    }

    /// What the feed does, in a word or two.
    pub fn state_text(&self) -> String {
        match self.feed_status.snapshot().state {
            State::Connecting if !self.is_read() => "not read".into(),
            state => state.to_string(),
        }
    }

    /// Why nothing comes from this table, in words; `None` while rows flow.
    pub fn silence(&self) -> Option<String> {
        let feed = self.feed_status.snapshot();
        let table = self.status.snapshot();
        let error = || feed.last_error.as_deref().map_or(String::new(), |error| format!(": {error}"));
        match feed.state {
            State::Connecting if !self.is_read() => Some("no query reads it yet".into()),
            State::Connecting => Some(format!("connecting{}", error())),
            State::BackingOff => {
                let next = feed.reconnect_at.map_or(String::new(), |at| format!(", next attempt at {at}"));
                Some(format!("not connected{}{next}", error()))
            }
            State::Paused => Some("paused".into()),
            State::Failed => Some(format!("failed{}", error())),
            State::Completed if table.rows == 0 => Some("the feed has ended without a row".into()),
            State::Connected if feed.events == 0 && feed.filtered > 0 => {
                Some(format!("all {} events so far are of types that are not wanted", feed.filtered))
            }
            State::Connected if feed.events == 0 => Some("connected, no events yet".into()),
            State::Connected if table.rows == 0 && table.bad > 0 => {
                let reason = table.samples.last().map_or(String::new(), |sample| format!("; the last: {}", sample.bad.reason));
                Some(format!("none of {} events could be read{reason}", table.bad))
            }
            State::Connected | State::Completed => None,
        }
    }

    /// A reader of the columns in `projection`. It gets nothing before [`Table::start`]; a feed that runs already is joined at once.
    pub fn subscribe(&self, projection: Vec<usize>) -> Result<Subscription> {
        let (reader, subscription) = hub::reader(&self.spec, projection)?;
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match &hub.running {
            Some(running) => match running.join.try_send(reader) {
                Ok(()) => return Ok(subscription),
                Err(mpsc::error::TrySendError::Full(reader) | mpsc::error::TrySendError::Closed(reader)) => reader,
            },
            None => reader,
        };
        hub.waiting.push(reader);
        Ok(subscription)
    }

    /// The same table with a connection of its own: a bounded plan reads a table several times, each at its own pace.
    fn apart(&self) -> Arc<Table> {
        Arc::new(Table {
            spec: Arc::clone(&self.spec),
            feed_status: Arc::clone(&self.feed_status),
            status: Arc::clone(&self.status),
            hub: Mutex::default(),
        })
    }

    /// Connects the feed for the readers that wait. Must be called within a tokio runtime.
    pub fn start(&self) {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = std::mem::take(&mut hub.waiting);
        if readers.is_empty() {
            return;
        }
        let (join, joining) = mpsc::channel(JOIN_QUEUE);
        let task = tokio::spawn(hub::run(
            Arc::clone(&self.spec),
            Arc::clone(&self.feed_status),
            Arc::clone(&self.status),
            readers,
            joining,
        ));
        hub.running = Some(Running { join, task: task.abort_handle() });
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

/// Without the continuous planner a table is still a plain stream of its rows; a finite one is a bounded table.
#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.spec.text)
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.spec.schema.fields().len()).collect());
        let schema = Arc::new(self.spec.schema.project(&projection)?);
        let rows = Rows { source: self.apart(), projection, schema: Arc::clone(&schema) };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(rows)], None, None, !self.spec.finite, limit)?))
    }
}

/// The rows of a table as a partition that DataFusion can run.
#[derive(Debug)]
struct Rows {
    source: Arc<Table>,
    projection: Vec<usize>,
    schema: SchemaRef,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let table = self.source.apart();
        let subscription = table.subscribe(self.projection.clone());
        table.start();
        // The table travels with the stream: its feed ends when the stream is dropped.
        let rows = stream::try_unfold((table, subscription), |(table, subscription)| async move {
            let mut subscription = subscription?;
            while let Some(message) = subscription.messages.recv().await {
                match message? {
                    Message::Changes(changes) => return Ok(Some((changes.rows, (table, Ok(subscription))))),
                    Message::Watermark(_) | Message::Checkpoint(_) => {}
                    Message::End => break,
                }
            }
            Ok::<_, DataFusionError>(None)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
