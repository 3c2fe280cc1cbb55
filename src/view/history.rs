//! The latest changes of a view, and those who follow it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::live::Live;
use crate::change::Changes;
use crate::time::Timestamp;

/// Memory of the latest changes that followers may come back for, with their encodings: the oldest go when there is more.
pub const HISTORY_BYTES_MAX: usize = 32 << 20;

/// The latest changes kept in number: a follower that is further behind starts over from a snapshot, which is shorter.
pub const HISTORY_CHANGES_MAX: u64 = 100_000;

/// What an entry of the history takes beside its buffers, and what each of its columns does: changes that come one by one are mostly
/// this.
pub(super) const ENTRY_BYTES: usize = 768;
pub(super) const COLUMN_BYTES: usize = 256;

/// Changes that were published together, numbered `first..=last`.
pub struct HistoryEntry {
    pub first: u64,
    pub last: u64,
    pub at: Timestamp,
    pub changes: Changes,
    /// See [`HistoryEntry::bytes`].
    bytes: usize,
    encoded: Mutex<Vec<(Arc<str>, Bytes)>>,
    total: Arc<AtomicUsize>,
}

/// What comes next for a follower.
#[derive(Clone)]
pub enum Followed {
    /// Holds the change asked for, perhaps not as its first.
    Entry(Arc<HistoryEntry>),
    /// Changes between the one asked for and `oldest` are forgotten, or never were in this epoch.
    Gap { oldest: u64 },
    /// The view is gone.
    Dropped,
}

/// One who follows a view: a position, no buffer.
pub struct Follower {
    live: Arc<Live>,
    after: u64,
    head: watch::Receiver<u64>,
}

impl Follower {
    pub(super) fn new(live: Arc<Live>, after: u64, head: watch::Receiver<u64>) -> Self {
        Follower { live, after, head }
    }

    /// Waits until something comes after the position, and moves it there. Cancel-safe. After a gap go on by [`Follower::seek`].
    pub async fn next(&mut self) -> Followed {
        loop {
            self.head.mark_unchanged();
            if let Some(followed) = self.ready(1).pop() {
                return followed;
            }
            if self.head.changed().await.is_err() {
                return Followed::Dropped;
            }
        }
    }

    /// What is there already, at most `most` entries; the position moves behind it.
    pub fn ready(&mut self, most: usize) -> Vec<Followed> {
        let followed = self.live.after(self.after, most);
        if let Some(Followed::Entry(entry)) = followed.last() {
            self.after = entry.last;
        }
        followed
    }

    /// Waits until a change or the end of the view may have come. Cancel-safe.
    pub async fn changed(&mut self) {
        // The sender lives as long as this follower's view.
        let _ = self.head.changed().await;
    }

    /// The number of the last change taken.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Goes on after number `after`.
    pub fn seek(&mut self, after: u64) {
        self.after = after;
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl HistoryEntry {
    /// `total` counts the memory of all encodings in the history.
    pub(super) fn new(first: u64, last: u64, at: Timestamp, changes: Changes, total: &Arc<AtomicUsize>) -> Self {
        let bytes = ENTRY_BYTES + changes.rows.num_columns() * COLUMN_BYTES + changes.bytes();
        HistoryEntry { first, last, at, changes, bytes, encoded: Mutex::default(), total: Arc::clone(total) }
    }

    /// The changes encoded in the way that `key` names: made by the first who asks, shared by all.
    pub fn encoded(&self, key: &Arc<str>, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = encoded.iter().find(|(known, _)| known == key) {
            return bytes.clone();
        }
        let bytes = make();
        self.total.fetch_add(bytes.len(), Relaxed);
        encoded.push((Arc::clone(key), bytes.clone()));
        bytes
    }

    /// The memory of the changes, without their encodings.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for HistoryEntry {
    fn drop(&mut self) {
        let encoded = self.encoded.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.total.fetch_sub(encoded.iter().map(|(_, bytes)| bytes.len()).sum(), Relaxed);
    }
}
