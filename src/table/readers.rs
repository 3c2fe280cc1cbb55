//! Both ends of a reader's channel, and the queue in which readers wait to join a table.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use arrow::datatypes::SchemaRef;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::arrival;
use super::barrier::Barrier;
use super::provider::Table;
use super::spec::TableSpec;
use crate::error::{Code, Error, Result};
use crate::operator::Message;

/// Messages a reader may lag behind before the feed waits for it: a few batches, so that decoding and computing overlap.
const READER_QUEUE: usize = 8;
/// Rows and other messages that a casual reader may lag behind: many seconds of most feeds, and memory that a server can spare.
const CASUAL_QUEUE: usize = 256 * 1024;

/// What a reader and the feed owe to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Misses nothing: the feed waits for it. It ends with an error when the feed fails.
    Exact,
    /// As [`Follow::Exact`], and marks come, too.
    Marked,
    /// As [`Follow::Marked`], with a state of the checkpoint from which the table goes on: it has seen everything that came before.
    Resumed,
    /// Misses nothing, gets marks, and outlives a failure of the feed: it waits with its watermark standing still until the feed is told to connect
    /// again. For what is to run for ever.
    Kept,
    /// As [`Follow::Kept`], with such a state.
    Restored,
    /// Never slows others down: once it lags too far behind while others read the same feed, it is cut off with an error. As long as it
    /// is alone the feed waits for it.
    Casual,
}

/// What comes to a reader.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all deliveries are messages, which stand for many rows")]
pub enum Delivery {
    Message(Message),
    /// Not to those who follow as [`Follow::Exact`] or [`Follow::Casual`].
    Mark(Arc<Barrier>),
}

/// A reader's end of a table: rows of the columns it asked for, and watermarks, in order. It keeps the table alive.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<(Instant, Delivery)>,
    shared: Arc<SubscriptionState>,
    ended: bool,
    handed_out: Instant,
    _table: Arc<Table>,
}

/// What both ends of a subscription share beside the channel.
#[derive(Debug)]
struct SubscriptionState {
    /// Why the channel was closed before its end.
    failure: OnceLock<Error>,
    /// Room for what a casual reader lags behind, see [`weight`]; `None` for the others.
    room: Option<Semaphore>,
}

impl Subscription {
    /// The next message; `None` after [`Message::End`] or an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        loop {
            match poll_fn(|context| self.poll_next(context)).await? {
                Ok(Delivery::Message(message)) => return Some(Ok(message)),
                Ok(Delivery::Mark(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// What comes next, marks too; `None` after [`Message::End`] or an error.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some((handed_out, delivery)) = ready!(self.messages.poll_recv(context)) else {
            self.ended = true;
            let failure = self.shared.failure.get().cloned();
            return Poll::Ready(Some(Err(failure.unwrap_or_else(|| Error::bug("a table has left its reader without an end")))));
        };
        self.handed_out = handed_out;
        if let (Delivery::Message(message), Some(room)) = (&delivery, &self.shared.room) {
            room.add_permits(weight(message) as usize);
        }
        self.ended = matches!(delivery, Delivery::Message(Message::End));
        Poll::Ready(Some(Ok(delivery)))
    }

    /// When the table had the latest message ready.
    pub fn handed_out(&self) -> Instant {
        self.handed_out
    }
}

/// The table's end of a subscription.
#[derive(Debug)]
pub(super) struct Reader {
    /// Columns of the table, in the reader's order.
    pub(super) projection: Vec<usize>,
    pub(super) schema: SchemaRef,
    follow: Follow,
    messages: mpsc::Sender<(Instant, Delivery)>,
    shared: Arc<SubscriptionState>,
}

impl Reader {
    pub(super) fn new(
        table: &Arc<Table>,
        spec: &TableSpec,
        projection: Vec<usize>,
        follow: Follow,
    ) -> Result<(Reader, Subscription)> {
        let (queue, room) = match follow {
            Follow::Casual => (CASUAL_QUEUE, Some(Semaphore::new(CASUAL_QUEUE))),
            _ => (READER_QUEUE, None),
        };
        let (sender, messages) = mpsc::channel(queue);
        let schema = Arc::new(arrival::readable(&spec.schema).project(&projection)?);
        let shared = Arc::new(SubscriptionState { failure: OnceLock::new(), room });
        let reader = Reader { projection, schema, follow, messages: sender, shared: Arc::clone(&shared) };
        let subscription = Subscription { messages, shared, ended: false, handed_out: Instant::now(), _table: Arc::clone(table) };
        Ok((reader, subscription))
    }

    /// Waits for room; a casual reader that others would have to wait for is cut off instead. One that has left misses nothing.
    pub(super) async fn send(&self, message: Message, peers: &Peers<'_>) {
        if self.has_left() {
            return;
        }
        let handed_out = Instant::now();
        if let Some(room) = &self.shared.room {
            let weight = weight(&message);
            let room = match room.try_acquire_many(weight) {
                Ok(room) => Ok(room),
                Err(_) => tokio::select! {
                    biased;
                    () = peers.comes() => return self.fail(too_slow()),
                    () = self.messages.closed() => return,
                    room = room.acquire_many(weight) => room,
                },
            };
            // The room is never closed, and is given back by the reader.
            room.into_iter().for_each(SemaphorePermit::forget);
        }
        let _ = self.messages.send((handed_out, Delivery::Message(message))).await;
    }

    /// Puts the mark behind everything sent so far, where the reader wants marks.
    pub(super) async fn mark(&self, mark: &Arc<Barrier>) {
        if !matches!(self.follow, Follow::Exact | Follow::Casual) && !self.has_left() {
            let _ = self.messages.send((Instant::now(), Delivery::Mark(Arc::clone(mark)))).await;
        }
    }

    /// The reader gets what it has not read yet, then this error.
    pub(super) fn fail(&self, error: Error) {
        let _ = self.shared.failure.set(error);
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self.follow, Follow::Kept | Follow::Restored)
    }

    /// It has the rows that were there before.
    pub(super) fn is_restored(&self) -> bool {
        matches!(self.follow, Follow::Restored | Follow::Resumed)
    }

    /// It has gone, or is to be let go.
    pub(super) fn has_left(&self) -> bool {
        self.messages.is_closed() || self.shared.failure.get().is_some()
    }
}

/// What a message takes of a casual reader's room.
fn weight(message: &Message) -> u32 {
    let rows = match message {
        Message::Changes(changes) => changes.len(),
        Message::Watermark(_) | Message::End => 0,
    };
    u32::try_from(rows.saturating_add(1).min(CASUAL_QUEUE)).unwrap_or(u32::MAX)
}

fn too_slow() -> Error {
    Error::new(Code::Slow, "this query reads slower than the feed sends, and others read the same feed: it was cut off")
        .hint("ask for less (WHERE, LIMIT, fewer columns), or make it a view: a feed waits for its views")
}

/// Who else a reader would hold up.
pub(super) struct Peers<'a> {
    /// Readers of the same feed.
    pub(super) readers: usize,
    pub(super) queue: &'a JoinQueue,
}

impl Peers<'_> {
    /// Returns once there is somebody else.
    async fn comes(&self) {
        if self.readers <= 1 {
            self.queue.until_occupied().await;
        }
    }
}

/// Where readers wait until a feed is started, or until the one that runs takes them in.
#[derive(Debug, Default)]
pub(super) struct JoinQueue {
    inner: Mutex<QueueState>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: Vec<Reader>,
    /// The task that takes in those who wait.
    host: Option<AbortHandle>,
}

impl QueueState {
    /// Those who wait and have not left meanwhile.
    fn take(&mut self) -> Vec<Reader> {
        self.waiting.drain(..).filter(|reader| !reader.has_left()).collect()
    }
}

impl JoinQueue {
    /// A queue that no other reader joins.
    pub(super) fn with(waiting: Vec<Reader>) -> Self {
        JoinQueue { inner: Mutex::new(QueueState { waiting, host: None }), notify: Notify::new() }
    }

    /// Waits for [`JoinQueue::open`], or is taken in at once by the task that runs.
    pub(super) fn enter(&self, reader: Reader) {
        self.lock().waiting.push(reader);
        self.notify.notify_one();
    }

    /// Lets in who waits, by a new task unless one is there already.
    pub(super) fn open(&self, host: impl FnOnce() -> AbortHandle) {
        let mut inner = self.lock();
        let is_hosted = inner.host.as_ref().is_some_and(|host| !host.is_finished());
        if !inner.waiting.is_empty() && !is_hosted {
            inner.host = Some(host());
        }
    }

    /// Those who wait.
    pub(super) fn take(&self) -> Vec<Reader> {
        self.lock().take()
    }

    /// Those who came while the host was about to leave. Where there are none, the host is gone for everyone from here on.
    pub(super) fn take_or_leave(&self) -> Option<Vec<Reader>> {
        let mut inner = self.lock();
        let readers = inner.take();
        if readers.is_empty() {
            inner.host = None;
            return None;
        }
        Some(readers)
    }

    /// Waits until somebody is there. Cancel-safe.
    async fn until_occupied(&self) {
        while self.lock().waiting.iter().all(Reader::has_left) {
            self.notified().await;
        }
    }

    /// Waits until somebody may have come. Cancel-safe.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
