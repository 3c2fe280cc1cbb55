//! One checkpoint under way: the barrier travels behind the rows, from each feed to everything that has a part in it, and with it goes
//! the [`Gathering`] that collects the parts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::error::Result;
use crate::operator::{Barrier, Cut, Epoch, Frame, StatePart};

/// Collects the parts of one checkpoint. It is not part of the stream: it travels beside the barrier's message within a process.
///
/// Everyone whom the barrier reaches gives a part and drops the gathering; once nobody holds it any more, all parts are there.
#[derive(Debug)]
pub struct Gathering {
    barrier: Barrier,
    written: Option<LastCheckpoint>,
    parts: mpsc::UnboundedSender<SavedPart>,
}

/// A part of a checkpoint that is being taken.
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

/// Who gave a part: a table or view that is created anew has another id, also where it has the same name.
pub type InstanceId = u64;

/// Never the same twice in one process.
pub fn next_instance() -> InstanceId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed)
}

/// The last checkpoint that is safely on disk.
#[derive(Debug, Clone, Default)]
pub struct LastCheckpoint {
    pub epoch: Epoch,
    /// Who has a part in it, by the part's name.
    pub instances: HashMap<String, InstanceId>,
}

impl Gathering {
    /// The gathering for a barrier, and the channel of its parts, which ends when nobody holds the gathering any more.
    pub fn new(barrier: Barrier, written: Option<LastCheckpoint>) -> (Gathering, mpsc::UnboundedReceiver<SavedPart>) {
        // Everyone gives one part, so there are at most as many as tables and views.
        let (parts, received) = mpsc::unbounded_channel();
        (Gathering { barrier, written, parts }, received)
    }

    pub fn barrier(&self) -> Barrier {
        self.barrier
    }

    /// For which checkpoint a part is saved, and what it may leave out.
    pub fn cut(&self, name: &str, instance: InstanceId) -> Cut {
        let known = self.written.as_ref().filter(|written| written.instances.get(name) == Some(&instance));
        Cut { epoch: self.barrier.epoch, written: known.map(|written| written.epoch) }
    }

    /// Saves a part and gives it.
    pub fn give(&self, name: String, instance: InstanceId, fingerprint: String, save: impl FnOnce(Cut) -> Result<Vec<Frame>>) {
        let begin = Instant::now();
        let frames = save(self.cut(&name, instance));
        let part = frames.map(|frames| StatePart { name: name.clone(), fingerprint, frames });
        // A checkpoint that was given up meanwhile takes no more parts.
        let _ = self.parts.send(SavedPart { name, instance, spent: begin.elapsed(), part });
    }
}

/// Where a checkpoint waits for the task that reads a feed.
#[derive(Debug, Default)]
pub(super) struct NextGathering {
    waiting: Mutex<Option<Arc<Gathering>>>,
    notify: Notify,
}

impl NextGathering {
    /// One that nobody has taken is given up for the new one.
    pub(super) fn put(&self, gathering: Arc<Gathering>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(gathering);
        self.notify.notify_one();
    }

    pub(super) fn take(&self) -> Option<Arc<Gathering>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until one may be there. Cancel-safe.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }
}
