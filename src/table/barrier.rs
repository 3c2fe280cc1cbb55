//! One checkpoint under way: the mark that travels behind the rows, from each feed to everything that has a part in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::error::Result;
use crate::operator::{Cut, Epoch, Frame, StatePart};

/// What stands before the mark is in the checkpoint, what comes behind it is not.
///
/// Everyone who meets it gives a part and drops it; once it is gone everywhere, all parts are there.
#[derive(Debug)]
pub struct Barrier {
    pub epoch: Epoch,
    /// Nothing may follow: the program ends.
    pub last: bool,
    written: Option<LastCheckpoint>,
    parts: mpsc::UnboundedSender<SavedPart>,
}

/// A part of a checkpoint that is being made.
#[derive(Debug)]
pub struct SavedPart {
    /// `table/metrics`, `view/rolling`.
    pub name: String,
    pub instance: InstanceId,
    /// How long its table or view did nothing else.
    pub spent: Duration,
    /// The part, or why it cannot be given.
    pub part: Result<StatePart>,
}

/// Who gave a part: a table or view that is made anew is another, also where it has the same name.
pub type InstanceId = u64;

/// Never the same twice in one process.
pub fn next_instance() -> InstanceId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed)
}

/// The last checkpoint that is safe.
#[derive(Debug, Clone, Default)]
pub struct LastCheckpoint {
    pub epoch: Epoch,
    /// Who has a part in it, by the part's name.
    pub instances: HashMap<String, InstanceId>,
}

impl Barrier {
    /// The mark, and where its parts come out: the channel ends when nobody holds the mark any more.
    pub fn new(epoch: Epoch, last: bool, written: Option<LastCheckpoint>) -> (Barrier, mpsc::UnboundedReceiver<SavedPart>) {
        // Everyone gives one part, so there are as many as tables and views at the most.
        let (parts, received) = mpsc::unbounded_channel();
        (Barrier { epoch, last, written, parts }, received)
    }

    /// For which checkpoint a part is saved, and what it may leave out.
    pub fn cut(&self, name: &str, instance: InstanceId) -> Cut {
        let known = self.written.as_ref().filter(|written| written.instances.get(name) == Some(&instance));
        Cut { epoch: self.epoch, written: known.map(|written| written.epoch) }
    }

    /// Saves a part and gives it: `save` is told for which checkpoint, and what it may leave out.
    pub fn give(&self, name: String, instance: InstanceId, fingerprint: String, save: impl FnOnce(Cut) -> Result<Vec<Frame>>) {
        let begin = Instant::now();
        let frames = save(self.cut(&name, instance));
        let part = frames.map(|frames| StatePart { name: name.clone(), fingerprint, frames });
        // A checkpoint that was given up meanwhile wants no parts any more.
        let _ = self.parts.send(SavedPart { name, instance, spent: begin.elapsed(), part });
    }
}

/// Where a mark waits for the task that reads a feed.
#[derive(Debug, Default)]
pub(super) struct RequestedBarriers {
    mark: Mutex<Option<Arc<Barrier>>>,
    notify: Notify,
}

impl RequestedBarriers {
    /// Another mark that nobody has taken is given up.
    pub(super) fn put(&self, mark: Arc<Barrier>) {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
        self.notify.notify_one();
    }

    pub(super) fn take(&self) -> Option<Arc<Barrier>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until a mark may be there. Cancel-safe.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }
}
