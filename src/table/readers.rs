//! Both ends of a reader's channel, and the queue in which readers wait to join a table.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use arrow::datatypes::SchemaRef;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::arrival;
use super::barrier::Gathering;
use super::provider::Table;
use super::spec::TableSpec;
use crate::error::{Code, Error, Result};
use crate::operator::Message;

/// Messages a reader may lag behind before the feed waits for it: a few batches, so that decoding and computing overlap.
const READER_QUEUE: usize = 8;
/// Rows and other messages that a casual reader may lag behind: many seconds of most feeds, and memory that a server can spare.
const CASUAL_QUEUE: usize = 256 * 1024;

/// What a reader and its table owe to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// The feed waits for the reader. One that it does not wait for is cut off with an error once it lags too far behind while others read
    /// the same feed; as long as it is alone the feed waits for it, too.
    pub is_waited_for: bool,
    /// Barriers of checkpoints come to it.
    pub takes_barriers: bool,
    /// A failure of the feed is no end: the reader waits, with its watermark standing still, until the feed is told to connect again.
    pub outlives_failure: bool,
    /// Its state is that of the checkpoint from which the table resumes: it has seen everything that came before.
    pub is_restored: bool,
}

impl Follow {
    /// A query that misses nothing and ends with the feed, or with its error.
    pub const EXACT: Follow = Follow { is_waited_for: true, takes_barriers: false, outlives_failure: false, is_restored: false };
    /// A query that never slows others down.
    pub const CASUAL: Follow = Follow { is_waited_for: false, ..Follow::EXACT };
    /// An output whose state is kept in checkpoints.
    pub const OUTPUT: Follow = Follow { takes_barriers: true, ..Follow::EXACT };
    /// A view that is to run for ever.
    pub const VIEW: Follow = Follow { outlives_failure: true, ..Follow::OUTPUT };

    /// The same with a state of the checkpoint from which the table resumes.
    pub const fn restored(self) -> Follow {
        Follow { is_restored: true, ..self }
    }
}

/// A message on its way to a reader.
#[derive(Debug)]
struct Sent {
    message: Message,
    /// When the table had it ready.
    at: Instant,
    /// With a barrier.
    gathering: Option<Arc<Gathering>>,
}

/// A reader's end of a table: rows of the columns it asked for, and watermarks, in order. It keeps the table alive.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Sent>,
    shared: Arc<SubscriptionState>,
    ended: bool,
    handed_out: Instant,
    gathering: Option<Arc<Gathering>>,
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
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Subscription::next`] for those who poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(Sent { message, at, gathering }) = ready!(self.messages.poll_recv(context)) else {
            self.ended = true;
            let failure = self.shared.failure.get().cloned();
            return Poll::Ready(Some(Err(failure.unwrap_or_else(|| Error::bug("a table has left its reader without an end")))));
        };
        self.handed_out = at;
        if gathering.is_some() {
            self.gathering = gathering;
        }
        if let Some(room) = &self.shared.room {
            room.add_permits(weight(&message) as usize);
        }
        self.ended = matches!(message, Message::End);
        Poll::Ready(Some(Ok(message)))
    }

    /// When the table had the latest message ready.
    pub fn handed_out(&self) -> Instant {
        self.handed_out
    }

    /// Where the parts of the checkpoint go whose barrier came last; once.
    pub fn take_gathering(&mut self) -> Option<Arc<Gathering>> {
        self.gathering.take()
    }
}

/// The table's end of a subscription.
#[derive(Debug)]
pub(super) struct Reader {
    /// Columns of the table, in the reader's order.
    pub(super) projection: Vec<usize>,
    pub(super) schema: SchemaRef,
    follow: Follow,
    messages: mpsc::Sender<Sent>,
    shared: Arc<SubscriptionState>,
}

impl Reader {
    pub(super) fn new(
        table: &Arc<Table>,
        spec: &TableSpec,
        projection: Vec<usize>,
        follow: Follow,
    ) -> Result<(Reader, Subscription)> {
        let (queue, room) = match follow.is_waited_for {
            true => (READER_QUEUE, None),
            false => (CASUAL_QUEUE, Some(Semaphore::new(CASUAL_QUEUE))),
        };
        let (sender, messages) = mpsc::channel(queue);
        let schema = Arc::new(arrival::readable(&spec.schema).project(&projection)?);
        let shared = Arc::new(SubscriptionState { failure: OnceLock::new(), room });
        let reader = Reader { projection, schema, follow, messages: sender, shared: Arc::clone(&shared) };
        let subscription = Subscription {
            messages,
            shared,
            ended: false,
            handed_out: Instant::now(),
            gathering: None,
            _table: Arc::clone(table),
        };
        Ok((reader, subscription))
    }

    /// Waits for room; a casual reader that others would have to wait for is cut off instead. One that has left misses nothing.
    pub(super) async fn send(&self, message: Message, peers: &Peers<'_>) {
        if self.has_left() {
            return;
        }
        let at = Instant::now();
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
        let _ = self.messages.send(Sent { message, at, gathering: None }).await;
    }

    /// Puts the barrier behind everything sent so far, where the reader takes barriers.
    pub(super) async fn send_barrier(&self, gathering: &Arc<Gathering>) {
        if self.follow.takes_barriers && !self.has_left() {
            let message = Message::Barrier(gathering.barrier());
            let _ = self.messages.send(Sent { message, at: Instant::now(), gathering: Some(Arc::clone(gathering)) }).await;
        }
    }

    /// The reader gets what it has not read yet, then this error.
    pub(super) fn fail(&self, error: Error) {
        let _ = self.shared.failure.set(error);
    }

    pub(super) fn outlives_failure(&self) -> bool {
        self.follow.outlives_failure
    }

    /// It has the rows that were there before.
    pub(super) fn is_restored(&self) -> bool {
        self.follow.is_restored
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
        Message::Watermark(_) | Message::Barrier(_) | Message::End => 0,
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
