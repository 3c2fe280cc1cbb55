//! Both ends of a reader's channel, and the door by which readers come to a table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::provider::Table;
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::operator::Message;

/// Messages a reader may lag behind before the feed waits for it: a few batches, so that decoding and computing overlap.
const READER_QUEUE: usize = 8;

/// A reader's end of a table: rows of the columns it asked for, and watermarks, in order. It keeps the table alive.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Result<Message>>,
    ended: bool,
    _table: Arc<Table>,
}

impl Subscription {
    /// The next message; `None` after [`Message::End`] or an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        if self.ended {
            return None;
        }
        let message = self.messages.recv().await;
        let message = message.unwrap_or_else(|| Err(Error::bug("a table has left its reader without an end")));
        self.ended = matches!(message, Ok(Message::End) | Err(_));
        Some(message)
    }
}

/// The table's end of a subscription.
#[derive(Debug)]
pub(super) struct Reader {
    /// Columns of the table, in the reader's order.
    pub(super) projection: Vec<usize>,
    pub(super) schema: SchemaRef,
    messages: mpsc::Sender<Result<Message>>,
}

impl Reader {
    pub(super) fn new(table: &Arc<Table>, spec: &Spec, projection: Vec<usize>) -> Result<(Reader, Subscription)> {
        let (sender, messages) = mpsc::channel(READER_QUEUE);
        let schema = Arc::new(spec.schema.project(&projection)?);
        let subscription = Subscription { messages, ended: false, _table: Arc::clone(table) };
        Ok((Reader { projection, schema, messages: sender }, subscription))
    }

    /// Waits for room. A reader that has left misses nothing.
    pub(super) async fn send(&self, message: Result<Message>) {
        let _ = self.messages.send(message).await;
    }

    pub(super) fn has_left(&self) -> bool {
        self.messages.is_closed()
    }
}

/// Where readers wait until a feed is started, or until the one that runs takes them in.
#[derive(Debug, Default)]
pub(super) struct Door {
    inner: Mutex<Inner>,
    knock: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Reader>,
    /// The task that takes in those who wait.
    host: Option<AbortHandle>,
}

impl Inner {
    /// Those who wait and have not left meanwhile.
    fn take(&mut self) -> Vec<Reader> {
        self.waiting.drain(..).filter(|reader| !reader.has_left()).collect()
    }
}

impl Door {
    /// A door that nobody else will come to.
    pub(super) fn with(waiting: Vec<Reader>) -> Self {
        Door { inner: Mutex::new(Inner { waiting, host: None }), knock: Notify::new() }
    }

    /// Waits for [`Door::open`], or is taken in at once by the task that runs.
    pub(super) fn enter(&self, reader: Reader) {
        self.lock().waiting.push(reader);
        self.knock.notify_one();
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

    /// Waits until somebody may have come. Cancel-safe.
    pub(super) async fn knocked(&self) {
        self.knock.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
