//! A table as DataFusion sees it: a schema, a scan, and one running feed shared by all that read from it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::{TryStreamExt, stream};
use tokio::task::JoinSet;
use tracing::{Instrument, info_span};

use super::arrival;
use super::barrier::Gathering;
use super::control::{Stand, TableControl};
use super::hub;
use super::journals;
use super::readers::{Follow, JoinQueue, Reader, Subscription};
use super::saved::{self, Beginning, SavedTable};
use super::spec::TableSpec;
use super::status::TableStatus;
use crate::change::accumulate;
use crate::error::{Code, Error, Result};
use crate::feed::{self, FeedState};
use crate::operator::Message;
use crate::operator::state::{Frame, Loader, contents};

/// A table over a feed.
///
/// However many read from an endless feed at a time, there is one connection: made when the first reader starts, closed when the last
/// leaves. Who comes later sees what comes from then on. A new connection after that begins anew: the server sends what it would send
/// to anyone, and no event is skipped because an earlier query has seen it. A finite feed has a beginning that matters, so each
/// [`Table::start`] reads it from there for those who wait.
pub struct Table {
    shared: Arc<TableControl>,
    queue: Arc<JoinQueue>,
    /// They end with the table; each reader keeps it alive.
    tasks: Mutex<JoinSet<()>>,
    started: AtomicBool,
    /// The same for ever.
    schema: SchemaRef,
    /// The statement that made it, its secrets masked.
    text: String,
}

impl Table {
    pub fn new(spec: TableSpec) -> Arc<Self> {
        Table::over(TableControl::new(spec))
    }

    fn over(shared: Arc<TableControl>) -> Arc<Self> {
        let spec = shared.spec();
        let (schema, text) = (Arc::clone(&spec.schema), spec.shown.clone());
        Arc::new(Table { shared, queue: Arc::default(), tasks: Mutex::default(), started: AtomicBool::new(false), schema, text })
    }

    /// As it is now: see [`Table::reconfigure`].
    pub fn spec(&self) -> Arc<TableSpec> {
        self.shared.spec()
    }

    /// State and counters of the connection.
    pub fn feed_status(&self) -> &feed::FeedStatus {
        &self.shared.feed
    }

    /// Rows, bad events and the watermark.
    pub fn status(&self) -> &TableStatus {
        &self.shared.status
    }

    /// Whether the feed runs for some reader, or has run.
    pub fn is_read(&self) -> bool {
        self.started.load(Relaxed)
    }

    /// What the feed does, in a word or two.
    pub fn state_text(&self) -> String {
        self.shared.feed.snapshot().state.to_string()
    }

    /// What is not as it should be without stopping the feed, as sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.shared.feed.snapshot().warnings;
        warnings.extend(self.shared.status.snapshot().notes);
        warnings
    }

    /// [`Table::warnings`], and what is counted.
    pub fn notes(&self) -> Vec<String> {
        let (mut notes, rows) = (self.warnings(), self.shared.status.snapshot());
        notes.extend(rows.far_sample().map(|sample| format!("{}: {}; {sample}", Self::FAR, rows.ahead)));
        notes
    }

    /// What is said of rows whose times are too far ahead of the clock, before their number.
    pub const FAR: &str = "rows with times further ahead of the clock than max_future, which move no watermark";

    /// Why nothing comes from this table, in words; `None` while rows flow.
    pub fn silence(&self) -> Option<String> {
        // What was counted before is asked for first, so that it is never more than what is counted now.
        let before = self.shared.status.before();
        let feed = self.shared.feed.snapshot();
        let table = self.shared.status.snapshot();
        let (events, filtered) = (feed.events - before.events, feed.filtered - before.filtered);
        let (rows, bad, ahead) = (table.rows - before.rows, table.bad - before.bad, table.ahead - before.ahead);
        let skipped = table.skipped - before.skipped;
        let error = || feed.last_error.as_deref().map_or(String::new(), |error| format!(": {error}"));
        match feed.state {
            FeedState::NotRead if self.is_read() && feed.connects + feed.attempts > 0 => {
                Some("no query reads it any more".into())
            }
            FeedState::NotRead if self.is_read() => Some("about to connect".into()),
            FeedState::NotRead => Some("no query reads it yet".into()),
            FeedState::Connecting => Some(format!("connecting{}", error())),
            FeedState::BackingOff => {
                let next = feed.reconnect_at.map_or(String::new(), |at| format!(", next attempt at {at}"));
                Some(format!("not connected{}{next}", error()))
            }
            FeedState::Paused => Some("paused by its user".into()),
            FeedState::Disconnected => Some("disconnected by its user until it is told to connect again".into()),
            FeedState::Failed => Some(format!("failed{}", error())),
            FeedState::Completed if rows == 0 => Some("the feed has ended without a row".into()),
            FeedState::Completed => Some("the feed has ended".into()),
            FeedState::Silent => {
                let expected =
                    self.spec().expect_every.map_or(String::new(), |every| humantime::format_duration(every).to_string());
                let last = feed.last_event_at.map_or(String::new(), |at| format!("; the last came at {at}"));
                Some(format!("connected, and no event for {expected} (expect_every){last}"))
            }
            FeedState::Connected if events == 0 && filtered > 0 => {
                Some(format!("all {filtered} events so far are of types that are not wanted"))
            }
            FeedState::Connected if events == 0 => Some("connected, no events yet".into()),
            FeedState::Connected if rows == 0 && bad == 0 && skipped > 0 => Some(match self.spec().source_table.as_deref() {
                Some(name) => format!("{skipped} events so far, and no change of a row of {name}"),
                None => format!("{skipped} events so far, and no change of a row"),
            }),
            FeedState::Connected if rows == 0 && bad > 0 => {
                let reason = table.samples.last().map_or(String::new(), |sample| format!("; the last: {}", sample.bad.reason));
                Some(format!("none of {bad} events could be read{reason}"))
            }
            FeedState::Connected if ahead > 0 && table.watermark.is_none() => Some(format!(
                "the times of {ahead} rows lie further ahead of the clock than max_future and move no window; correct the clocks or the event time, or set max_future = 'off'"
            )),
            FeedState::Connected if table.idle => Some("connected, no rows for longer than idle_timeout".into()),
            FeedState::Connected => None,
        }
    }

    /// A reader of the columns in `projection`, by their places; the place behind the last column is the time of arrival, which a keyed
    /// table does not have. It gets nothing before [`Table::start`], unless an endless feed runs already: that is
    /// joined at once.
    pub fn subscribe(self: &Arc<Self>, projection: Vec<usize>, follow: Follow) -> Result<Subscription> {
        let (reader, subscription) = Reader::new(self, &self.shared.spec(), projection, follow)?;
        self.queue.enter(reader);
        Ok(subscription)
    }

    /// Closes the connection until [`Table::resume`], which goes on where the feed stopped. The watermark stands still, and readers may
    /// come and go. Orders hold also while nobody reads, and an order that holds already changes nothing.
    pub fn pause(&self) {
        self.shared.order(|orders| orders.stand = Stand::Paused);
    }

    /// Ends a pause or a disconnection.
    pub fn resume(&self) {
        self.shared.order(|orders| orders.stand = Stand::Running);
    }

    /// Closes the connection; nothing connects again before [`Table::reconnect`].
    pub fn disconnect(&self) {
        self.shared.order(|orders| orders.stand = Stand::Disconnected);
    }

    /// Closes the connection, if there is one, and connects at once, whatever the feed was doing: waiting, paused, disconnected, failed.
    /// Attempts and waits count anew. A feed that has come to its end starts again with its next reader.
    pub fn reconnect(&self) {
        self.shared.order(|orders| {
            orders.stand = Stand::Running;
            orders.reconnects += 1;
        });
    }

    /// Takes over another spec of the same columns, format and endpoint without losing a reader: the feed connects anew and goes on
    /// after its last event. A spec that differs in more is refused.
    pub fn reconfigure(&self, spec: TableSpec) -> Result<()> {
        self.shared.reconfigure(spec)
    }

    /// Connects the feed for the readers that wait. Must be called within a tokio runtime.
    pub fn start(&self) {
        self.started.store(true, Relaxed);
        let served =
            |queue| hub::serve(self.shared.serve(), queue).instrument(info_span!("feed", table = self.shared.spec().name));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if self.shared.spec().finite {
            let readers = self.queue.take();
            if !readers.is_empty() {
                tasks.spawn(served(Arc::new(JoinQueue::with(readers))));
            }
            return;
        }
        self.queue.open(|| tasks.spawn(served(Arc::clone(&self.queue))));
    }

    /// Saves the table's part of a checkpoint and sends the barrier to all readers that take barriers. False where none goes out: a table
    /// that nobody reads, or that ends by itself, has no place to resume from.
    pub fn send_barrier(&self, gathering: &Arc<Gathering>) -> bool {
        !self.shared.spec().finite && self.shared.send_barrier(gathering)
    }

    /// Whether the feed runs for some reader now.
    pub fn is_served(&self) -> bool {
        self.shared.is_served()
    }

    /// Gives a part of a checkpoint for a table that sends no barrier: its bad events, log and gaps, and no place but the end of its feed.
    pub fn give_past(&self, gathering: &Gathering) {
        self.shared.give_past(gathering);
    }

    /// The name of the table's part of a checkpoint.
    pub fn part_name(&self) -> String {
        self.shared.spec().part_name()
    }

    /// What a state of this table belongs to: another feed, or other columns, cannot go on from it.
    pub fn fingerprint(&self) -> String {
        self.shared.spec().fingerprint()
    }

    /// The first task goes on from this state; not if nobody read the table when it was made. Readers that have seen what it has seen follow with
    /// [`Follow::is_restored`].
    pub fn resume_at(&self, frames: Vec<Frame>) -> Result<bool> {
        let mut frames = contents(frames)?;
        let mut state = Loader::new(&mut frames);
        let saved = SavedTable::load(&mut state, &self.schema)?;
        if let Err(error) = journals::load(&mut state, &self.shared.status, &self.shared.feed) {
            tracing::warn!(table = self.spec().name, reason = %error, "its bad events, log and gaps of before are lost");
        }
        let is_there = saved.is_some();
        if let Some(saved) = saved {
            self.shared.begin(Beginning::At(Box::new(saved)));
        }
        Ok(is_there)
    }

    /// The first task begins anew, which leaves a gap behind the last event of a state that it cannot go on from.
    pub fn begin_after(&self, frames: Vec<Frame>) {
        let lost = contents(frames).ok().and_then(|mut frames| saved::lost(&mut Loader::new(&mut frames)));
        if let Some(lost) = lost {
            self.shared.begin(Beginning::After(lost));
        }
    }

    /// A state that no task has gone on from is let go.
    pub fn forget_place(&self) {
        drop(self.shared.take_beginning());
    }

    /// The rows as plain DataFusion reads them; the column behind those of the table is the time of arrival.
    pub(super) fn rows(&self, projection: Vec<usize>, limit: Option<usize>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(arrival::readable(&self.schema).project(&projection)?);
        let rows = TableRows { source: self.apart(), projection, schema: Arc::clone(&schema) };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(rows)], None, None, !self.spec().finite, limit)?))
    }

    /// The same table with a connection of its own: a bounded plan reads a table several times, each at its own pace.
    fn apart(&self) -> Arc<Table> {
        Table::over(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.spec().name).finish_non_exhaustive()
    }
}

/// Without the continuous planner a table is still a plain stream of its rows; a finite one is a bounded table. Of a keyed table the
/// rows that are left at the end of its feed are its rows.
#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.text)
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if self.spec().key.is_some() && !self.spec().finite {
            return Err(Error::new(Code::Query, format!("the rows of table '{}' change, which plain rows cannot say", self.spec().name))
                .hint("run the query by streamgauge::Engine, which gives changes; or set reconnect = 'false' to read the rows of a feed that ends")
                .into());
        }
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        self.rows(projection, limit)
    }
}

/// The rows of a table as a partition that DataFusion can run.
#[derive(Debug)]
struct TableRows {
    source: Arc<Table>,
    projection: Vec<usize>,
    schema: SchemaRef,
}

impl PartitionStream for TableRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let table = self.source.apart();
        let subscription = table.subscribe(self.projection.clone(), Follow::EXACT);
        table.start();
        if table.spec().key.is_some() {
            let rows = stream::once(async move { last(subscription?).await }).try_filter_map(|rows| async move { Ok(rows) });
            return Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows));
        }
        let rows = stream::try_unfold(subscription, |subscription| async move {
            let mut subscription = subscription?;
            while let Some(message) = subscription.next().await {
                match message? {
                    Message::Changes(changes) => return Ok(Some((changes.rows, Ok(subscription)))),
                    Message::Watermark(_) | Message::Barrier(_) => {}
                    Message::End => break,
                }
            }
            Ok::<_, DataFusionError>(None)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// The rows that are left at the end of a keyed table's feed.
async fn last(mut subscription: Subscription) -> DataFusionResult<Option<RecordBatch>> {
    let mut told = Vec::new();
    while let Some(message) = subscription.next().await {
        if let Message::Changes(changes) = message? {
            told.push(changes);
        }
    }
    Ok(accumulate(&told)?)
}
