//! One checkpoint under way: the mark that travels behind the rows, from each feed to everything that has a part in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::error::Result;
use crate::operator::{Cut, Epoch, Frame, Part};

/// What stands before the mark is in the checkpoint, what comes behind it is not.
///
/// Everyone who meets it gives a part and drops it; once it is gone everywhere, all parts are there.
#[derive(Debug)]
pub struct Mark {
    pub epoch: Epoch,
    /// Nothing may follow: the program ends.
    pub last: bool,
    written: Option<Written>,
    parts: mpsc::UnboundedSender<Given>,
}

/// A part of a checkpoint that is being made.
#[derive(Debug)]
pub struct Given {
    /// `table/metrics`, `view/rolling`.
    pub name: String,
    pub holder: Holder,
    /// How long its table or view did nothing else.
    pub spent: Duration,
    /// The part, or why it cannot be given.
    pub part: Result<Part>,
}

/// Who gave a part: a table or view that is made anew is another, also where it has the same name.
pub type Holder = u64;

/// Never the same twice in one process.
pub fn next_holder() -> Holder {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed)
}

/// The last checkpoint that is safe.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub epoch: Epoch,
    /// Who has a part in it, by the part's name.
    pub holders: HashMap<String, Holder>,
}

impl Mark {
    /// The mark, and where its parts come out: the channel ends when nobody holds the mark any more.
    pub fn new(epoch: Epoch, last: bool, written: Option<Written>) -> (Mark, mpsc::UnboundedReceiver<Given>) {
        // Everyone gives one part, so there are as many as tables and views at the most.
        let (parts, received) = mpsc::unbounded_channel();
        (Mark { epoch, last, written, parts }, received)
    }

    /// For which checkpoint a part is saved, and what it may leave out.
    pub fn cut(&self, name: &str, holder: Holder) -> Cut {
        let known = self.written.as_ref().filter(|written| written.holders.get(name) == Some(&holder));
        Cut { epoch: self.epoch, written: known.map(|written| written.epoch) }
    }

    /// Saves a part and gives it: `save` is told for which checkpoint, and what it may leave out.
    pub fn give(&self, name: String, holder: Holder, fingerprint: String, save: impl FnOnce(Cut) -> Result<Vec<Frame>>) {
        let begin = Instant::now();
        let frames = save(self.cut(&name, holder));
        let part = frames.map(|frames| Part { name: name.clone(), fingerprint, frames });
        // A checkpoint that was given up meanwhile wants no parts any more.
        let _ = self.parts.send(Given { name, holder, spent: begin.elapsed(), part });
    }
}

/// Where a mark waits for the task that reads a feed.
#[derive(Debug, Default)]
pub(super) struct Asked {
    mark: Mutex<Option<Arc<Mark>>>,
    knock: Notify,
}

impl Asked {
    /// Another mark that nobody has taken is given up.
    pub(super) fn put(&self, mark: Arc<Mark>) {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
        self.knock.notify_one();
    }

    pub(super) fn take(&self) -> Option<Arc<Mark>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until a mark may be there. Cancel-safe.
    pub(super) async fn knocked(&self) {
        self.knock.notified().await;
    }
}
