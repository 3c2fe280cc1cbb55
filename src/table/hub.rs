//! The one task behind a table: reads the feed, decodes what has arrived into a batch, and hands rows and watermarks to every reader.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, filter_record_batch, is_not_null, max};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::spec::{EventTime, Source, Spec};
use super::status::Status;
use crate::change::Changes;
use crate::error::{Code, Error, Result};
use crate::feed::{self, Feed, Reading};
use crate::format::{Bad, Decoder, Input};
use crate::operator::Message;
use crate::options::BadData;
use crate::time::{Timestamp, TimestampArray, Watermark};

/// Messages a reader may lag behind before the feed waits for it: a few batches, so that decoding and computing overlap.
const READER_QUEUE: usize = 8;
/// Readers that may ask to join at the same moment.
pub(super) const JOIN_QUEUE: usize = 16;
/// How often a watermark that follows the clock is sent on: well below a window anyone watches.
const CLOCK_TICK: Duration = Duration::from_millis(100);
/// An event time further ahead of the clock than this does not move the watermark: one wrong clock must not make all others late.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A reader's end of a table: rows of the columns it asked for, and watermarks, in order. The last message is [`Message::End`] or an error.
#[derive(Debug)]
pub struct Subscription {
    pub messages: mpsc::Receiver<Result<Message>>,
}

/// The hub's end of a subscription.
#[derive(Debug)]
pub(super) struct Reader {
    projection: Vec<usize>,
    schema: SchemaRef,
    messages: mpsc::Sender<Result<Message>>,
}

/// A new reader of the columns in `projection`, indices into the table's schema, and its end of the channel.
pub(super) fn reader(spec: &Spec, projection: Vec<usize>) -> Result<(Reader, Subscription)> {
    let (sender, receiver) = mpsc::channel(READER_QUEUE);
    let schema = Arc::new(spec.schema.project(&projection)?);
    Ok((Reader { projection, schema, messages: sender }, Subscription { messages: receiver }))
}

/// Serves `readers`, and those that join, until the feed ends or all have left.
pub(super) async fn run(
    spec: Arc<Spec>,
    feed_status: Arc<feed::Status>,
    status: Arc<Status>,
    readers: Vec<Reader>,
    mut joining: mpsc::Receiver<Reader>,
) {
    let mut hub = match Hub::new(spec, status, readers) {
        Ok(hub) => hub,
        Err((readers, error)) => return fail(readers, error).await,
    };
    let mut feed = Feed::new(hub.spec.feed.clone(), feed_status);
    let mut tick = interval(CLOCK_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !hub.readers.is_empty() {
        let mut received = None;
        let earliest = hub.clock.sent;
        let decode = &mut hub.decode;
        let mut each = |event: feed::Event<'_>| {
            let received = *received.get_or_insert_with(|| Timestamp::now().max(earliest));
            decode.push(Input { kind: event.kind, data: event.data, id: event.id, received });
        };
        let step = tokio::select! {
            reading = feed.read(&mut each) => match reading {
                Ok(reading) => hub.take(reading).await,
                Err(error) => Err(error),
            },
            Some(reader) = joining.recv() => hub.join(reader).await,
            _ = tick.tick() => hub.tick().await,
        };
        match step {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => return fail(hub.readers, error).await,
        }
    }
}

async fn fail(readers: Vec<Reader>, error: Error) {
    for reader in readers {
        // A reader that has left needs no error.
        let _ = reader.messages.send(Err(error.clone())).await;
    }
}

struct Hub {
    spec: Arc<Spec>,
    readers: Vec<Reader>,
    decode: Decode,
    clock: Clock,
}

impl Hub {
    fn new(spec: Arc<Spec>, status: Arc<Status>, readers: Vec<Reader>) -> Result<Self, (Vec<Reader>, Error)> {
        match Decode::new(&spec, &status, &readers) {
            Ok(decode) => Ok(Hub { clock: Clock::new(&spec, status), spec, readers, decode }),
            Err(error) => Err((readers, error)),
        }
    }

    /// A reader that comes while the feed runs: sees what is decoded from now on.
    async fn join(&mut self, reader: Reader) -> Result<bool> {
        self.flush().await?;
        self.readers.push(reader);
        self.decode = Decode::new(&self.spec, &self.clock.status, &self.readers)?;
        Ok(false)
    }

    /// After a read: sends on what was decoded. `true` once nothing follows.
    async fn take(&mut self, reading: Reading) -> Result<bool> {
        self.flush().await?;
        match reading {
            Reading::Events => {}
            Reading::Connected => self.clock.connected = true,
            Reading::Disconnected => self.clock.connected = false,
            Reading::Ended => {
                self.clock.status.watermark(Timestamp::MAX, false);
                self.send(Message::Watermark(Watermark::at(Timestamp::MAX))).await;
                self.send(Message::End).await;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Cuts a batch from what has been decoded and hands it to every reader, then the watermark that it raised.
    async fn flush(&mut self) -> Result<()> {
        if let Some(error) = self.decode.failed.take() {
            return Err(error);
        }
        if self.decode.decoder.is_empty() {
            return Ok(());
        }
        let (rows, times) = self.decode.take()?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.clock.status.rows(rows.num_rows());
        for reader in &self.readers {
            let rows = self.decode.project(&rows, reader)?;
            let _ = reader.messages.send(Ok(Message::Changes(Changes::inserts(rows, times.clone())))).await;
        }
        if let Some(watermark) = self.clock.rows(&times) {
            self.send(Message::Watermark(watermark)).await;
        }
        self.readers.retain(|reader| !reader.messages.is_closed());
        Ok(())
    }

    async fn tick(&mut self) -> Result<bool> {
        self.flush().await?;
        if let Some(watermark) = self.clock.tick() {
            self.send(Message::Watermark(watermark)).await;
        }
        self.readers.retain(|reader| !reader.messages.is_closed());
        Ok(false)
    }

    async fn send(&mut self, message: Message) {
        for reader in &self.readers {
            let _ = reader.messages.send(Ok(message.clone())).await;
        }
    }
}

/// Events to rows of all the columns that some reader needs.
struct Decode {
    decoder: Decoder,
    policy: BadData,
    status: Arc<Status>,
    /// The first bad event under `bad_data = 'fail'`.
    failed: Option<Error>,
    /// For each column of the table: where it is in a decoded batch, or how it is computed from one.
    columns: Vec<Option<Decoded>>,
    /// The event time where it is a computed column.
    time: Option<Arc<dyn PhysicalExpr>>,
}

enum Decoded {
    At(usize),
    Computed(Arc<dyn PhysicalExpr>),
}

impl Decode {
    fn new(spec: &Spec, status: &Arc<Status>, readers: &[Reader]) -> Result<Self> {
        let wanted: BTreeSet<usize> = readers.iter().flat_map(|reader| reader.projection.iter().copied()).collect();
        let time = match &spec.time {
            EventTime::Computed(generated) => Some(&generated.expr),
            EventTime::Arrival | EventTime::Column(_) => None,
        };
        let mut decoded: BTreeSet<usize> = BTreeSet::new();
        let sources = |expr: &Arc<dyn PhysicalExpr>| collect_columns(expr).into_iter().map(|column| column.index());
        for &index in &wanted {
            match &spec.columns[index] {
                Source::Decoded(at) => drop(decoded.insert(*at)),
                Source::Generated(generated) => decoded.extend(sources(&generated.expr)),
            }
        }
        decoded.extend(time.into_iter().flat_map(sources));
        let decoded: Vec<usize> = decoded.into_iter().collect();
        let decoder = Decoder::new(&spec.format, &decoded)?;
        let computed = |expr: &Arc<dyn PhysicalExpr>| over_decoded(expr, &decoded);
        let mut columns = Vec::new();
        for (index, source) in spec.columns.iter().enumerate() {
            columns.push(match source {
                _ if !wanted.contains(&index) => None,
                Source::Decoded(at) => {
                    Some(Decoded::At(decoded.binary_search(at).map_err(|_| Error::bug("a column is not decoded"))?))
                }
                Source::Generated(generated) => Some(Decoded::Computed(computed(&generated.expr)?)),
            });
        }
        let time = time.map(computed).transpose()?;
        Ok(Decode { decoder, policy: spec.bad_data, status: Arc::clone(status), failed: None, columns, time })
    }

    fn push(&mut self, input: Input<'_>) {
        let Decode { decoder, policy, status, failed, .. } = self;
        let received = input.received;
        decoder.push(input, &mut |bad: Bad| match policy {
            BadData::DeadLetter => status.keep_bad(bad, received),
            BadData::Drop => status.drop_bad(),
            BadData::Fail => {
                failed.get_or_insert_with(|| {
                    Error::new(Code::BadData, bad.reason.clone())
                        .hint("correct the table's columns, or let bad events be kept aside: bad_data = 'dead_letter'")
                });
                status.keep_bad(bad, received);
            }
        });
    }

    /// The rows decoded so far with their event times. Rows whose computed event time is NULL are dropped and counted.
    fn take(&mut self) -> Result<(RecordBatch, TimestampArray)> {
        let (rows, times) = self.decoder.take()?;
        let Some(time) = &self.time else { return Ok((rows, times)) };
        let computed = time.evaluate(&rows)?.into_array(rows.num_rows())?;
        let computed = computed
            .as_any()
            .downcast_ref::<TimestampArray>()
            .ok_or_else(|| Error::bug("an event time of another type"))?
            .clone();
        if computed.null_count() == 0 {
            return Ok((rows, computed));
        }
        let keep = is_not_null(&computed)?;
        for _ in 0..computed.null_count() {
            self.status.drop_bad();
        }
        let times = filter(&computed, &keep)?;
        let times = times.as_any().downcast_ref::<TimestampArray>().ok_or_else(|| Error::bug("a filter changed a type"))?.clone();
        Ok((filter_record_batch(&rows, &keep)?, times))
    }

    /// The columns of one reader, in its order.
    fn project(&self, rows: &RecordBatch, reader: &Reader) -> Result<RecordBatch> {
        let mut arrays = Vec::with_capacity(reader.projection.len());
        for &index in &reader.projection {
            arrays.push(match &self.columns[index] {
                Some(Decoded::At(at)) => Arc::clone(rows.column(*at)),
                Some(Decoded::Computed(expr)) => expr.evaluate(rows)?.into_array(rows.num_rows())?,
                None => return Err(Error::bug("a reader's column is not decoded")),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&reader.schema), arrays, &options)?)
    }
}

/// An expression over all decodable columns, moved to a batch that holds those in `decoded`.
fn over_decoded(expr: &Arc<dyn PhysicalExpr>, decoded: &[usize]) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(expr).transform(|expr| match (expr.as_ref() as &dyn Any).downcast_ref::<Column>() {
        Some(column) => {
            let at = decoded
                .binary_search(&column.index())
                .map_err(|_| DataFusionError::from(Error::bug("a source is not decoded")))?;
            Ok(Transformed::yes(Arc::new(Column::new(column.name(), at)) as Arc<dyn PhysicalExpr>))
        }
        None => Ok(Transformed::no(expr)),
    })?;
    Ok(moved.data)
}

/// The watermark of a table (the greatest event time seen minus the delay), and how it goes on while nothing comes.
struct Clock {
    status: Arc<Status>,
    delay: Duration,
    idle: Option<Duration>,
    by_arrival: bool,
    connected: bool,
    /// What the rows say, without the help of the clock.
    by_rows: Timestamp,
    sent: Timestamp,
    last_rows: Instant,
}

impl Clock {
    fn new(spec: &Spec, status: Arc<Status>) -> Self {
        Clock {
            status,
            delay: spec.delay,
            idle: spec.idle,
            by_arrival: matches!(spec.time, EventTime::Arrival),
            connected: false,
            by_rows: Timestamp::MIN,
            sent: Timestamp::MIN,
            last_rows: Instant::now(),
        }
    }

    /// The watermark after rows with these event times, if it moved.
    fn rows(&mut self, times: &TimestampArray) -> Option<Watermark> {
        self.last_rows = Instant::now();
        let latest = Timestamp(max(times)?);
        if latest <= Timestamp::now().plus(AHEAD_MAX) {
            self.by_rows = self.by_rows.max(latest.minus(self.delay));
        }
        self.advance(self.by_rows, false)
    }

    /// The watermark after a while without rows: a feed in arrival order goes with the clock, a silent one once it counts as idle.
    fn tick(&mut self) -> Option<Watermark> {
        if !self.connected {
            return None;
        }
        if self.by_arrival {
            return self.advance(Timestamp::now().minus(self.delay), false);
        }
        let silent = self.last_rows.elapsed();
        match self.idle {
            Some(idle) if silent >= idle => self.advance(self.by_rows.plus(silent), true),
            _ => None,
        }
    }

    fn advance(&mut self, to: Timestamp, idle: bool) -> Option<Watermark> {
        let was_idle = self.status.is_idle();
        if to <= self.sent && idle == was_idle {
            return None;
        }
        self.sent = self.sent.max(to);
        self.status.watermark(self.sent, idle);
        Some(Watermark { time: self.sent, idle })
    }
}
