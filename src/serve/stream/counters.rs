//! What a stream has done: plain numbers that metrics and statuses read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one stream since the program started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that are connected now.
    pub clients: AtomicU64,
    /// Clients that were ever connected.
    pub connects: AtomicU64,
    /// Clients that were refused because there were too many.
    pub refused: AtomicU64,
    pub events: AtomicU64,
    pub bytes: AtomicU64,
    /// Clients that came back with an id from which their stream could not go on, so that they started over.
    pub resets: AtomicU64,
    /// Clients that were cut off because they did not read what they asked for.
    pub lagged: AtomicU64,
    /// Changes that those clients did not get.
    pub dropped: AtomicU64,
    /// Events whose template failed, sent in the default format.
    pub render_errors: AtomicU64,
    /// Events that were too large to send and were told as errors.
    pub oversized: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }
}

/// A client that is connected: counted for as long as this lives, by its stream and by the server.
#[derive(Debug)]
pub struct Open {
    stream: Arc<Counters>,
    server: Arc<AtomicU64>,
}

impl Open {
    /// Counts a client in, unless `stream_max` or `server_max` are connected already.
    pub fn enter(stream: &Arc<Counters>, stream_max: u64, server: &Arc<AtomicU64>, server_max: u64) -> Option<Open> {
        let below = |max: u64| move |open: u64| (open < max).then_some(open + 1);
        let entered = server.fetch_update(Relaxed, Relaxed, below(server_max)).is_ok();
        if entered && stream.clients.fetch_update(Relaxed, Relaxed, below(stream_max)).is_ok() {
            Counters::add(&stream.connects, 1);
            return Some(Open { stream: Arc::clone(stream), server: Arc::clone(server) });
        }
        if entered {
            server.fetch_sub(1, Relaxed);
        }
        Counters::add(&stream.refused, 1);
        None
    }

    pub fn counters(&self) -> &Counters {
        &self.stream
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stream.clients.fetch_sub(1, Relaxed);
        self.server.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_while_they_are_there_and_no_more_than_allowed() {
        let (stream, other, server) = (Arc::default(), Arc::default(), Arc::default());
        let first = Open::enter(&stream, 1, &server, 2).unwrap();
        assert!(Open::enter(&stream, 1, &server, 2).is_none());
        let second = Open::enter(&other, 9, &server, 2).unwrap();
        assert!(Open::enter(&other, 9, &server, 2).is_none());
        assert_eq!(Counters::get(&server), 2);
        drop((first, second));
        assert_eq!([&server, &stream.clients, &other.clients].map(Counters::get), [0, 0, 0]);
        assert_eq!([&stream.connects, &stream.refused, &other.refused].map(Counters::get), [1, 1, 1]);
    }
}
