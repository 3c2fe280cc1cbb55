//! The latest of what happened, numbered, for those who look at it now and then and those who follow it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A bounded list: the oldest entry goes when a new one comes. Numbers begin with 1 and have no gaps.
#[derive(Debug)]
pub struct Journal<T> {
    entries_max: usize,
    entries: Mutex<VecDeque<T>>,
    /// The number of the last entry.
    written: watch::Sender<u64>,
}

impl<T: Clone> Journal<T> {
    pub fn new(entries_max: usize) -> Self {
        Journal { entries_max, entries: Mutex::default(), written: watch::Sender::new(0) }
    }

    pub fn write(&self, entry: T) {
        let mut entries = self.entries();
        if entries.len() == self.entries_max {
            entries.pop_front();
        }
        entries.push_back(entry);
        self.written.send_modify(|written| *written += 1);
    }

    /// Puts entries of an earlier life before those of this one; `last` is the number of the last of them.
    pub fn restore(&self, last: u64, before: Vec<T>) {
        let mut entries = self.entries();
        let room = self.entries_max - entries.len();
        let skipped = before.len().saturating_sub(room);
        for entry in before.into_iter().skip(skipped).rev() {
            entries.push_front(entry);
        }
        self.written.send_modify(|written| *written += last);
    }

    /// What is kept of the entries after this number, each with its own; 0 for all.
    pub fn after(&self, number: u64) -> Vec<(u64, T)> {
        let entries = self.entries();
        let first = *self.written.borrow() + 1 - entries.len() as u64;
        (first..).zip(entries.iter()).filter(|(at, _)| *at > number).map(|(at, entry)| (at, entry.clone())).collect()
    }

    /// All that is kept, the oldest first.
    pub fn entries_kept(&self) -> Vec<T> {
        self.entries().iter().cloned().collect()
    }

    /// The number of the last entry; 0 before the first.
    pub fn last(&self) -> u64 {
        *self.written.borrow()
    }

    /// Waits until there is an entry after this number. Cancel-safe.
    pub async fn written_after(&self, number: u64) {
        // The sender is our own, so the channel is never closed.
        let _ = self.written.subscribe().wait_for(|written| *written > number).await;
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_entries_are_kept_with_their_numbers_and_can_be_followed() {
        let journal = Journal::new(2);
        assert_eq!((journal.last(), journal.after(0)), (0, vec![]));
        let follow = async {
            journal.written_after(0).await;
            journal.written_after(2).await;
            journal.after(2)
        };
        let write = async {
            for entry in ["a", "b", "c"] {
                journal.write(entry);
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(tokio::join!(follow, write).0, [(3, "c")]);
        assert_eq!((journal.last(), journal.after(0)), (3, vec![(2, "b"), (3, "c")]));
        assert_eq!((journal.after(9), journal.entries_kept()), (vec![], vec!["b", "c"]));
    }

    #[test]
    fn entries_of_an_earlier_life_stand_before_those_of_this_one() {
        let journal = Journal::new(3);
        journal.restore(7, vec!["f", "g"]);
        journal.write("h");
        assert_eq!((journal.last(), journal.after(6)), (8, vec![(7, "g"), (8, "h")]));
        let journal = Journal::new(3);
        journal.write("h");
        journal.restore(7, vec!["e", "f", "g"]);
        assert_eq!((journal.last(), journal.after(0)), (8, vec![(6, "f"), (7, "g"), (8, "h")]));
    }
}
