//! What a stream has done: plain numbers that metrics and statuses read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::serve::limits::Permit;

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
pub struct OpenClient {
    stream: Arc<Counters>,
    server: Arc<AtomicU64>,
    /// Its place among the clients of its address and token.
    _permit: Permit,
}

impl OpenClient {
    /// Counts a client in, unless its stream has `stream_max` already.
    pub fn enter(stream: &Arc<Counters>, stream_max: u64, server: &Arc<AtomicU64>, permit: Permit) -> Option<OpenClient> {
        let one_more = |open: u64| (open < stream_max).then_some(open + 1);
        if stream.clients.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            Counters::add(&stream.refused, 1);
            return None;
        }
        Counters::add(&stream.connects, 1);
        Counters::add(server, 1);
        Some(OpenClient { stream: Arc::clone(stream), server: Arc::clone(server), _permit: permit })
    }

    pub fn counters(&self) -> &Counters {
        &self.stream
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.stream.clients.fetch_sub(1, Relaxed);
        self.server.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits::StreamLimiter;
    use crate::serve::settings::Http;

    #[test]
    fn clients_are_counted_while_they_are_there_and_no_more_than_allowed() {
        let limiter = StreamLimiter::new(&Http::default());
        let permit = || limiter.enter([127, 0, 0, 1].into(), None, std::time::Instant::now()).unwrap();
        let (stream, other, server) = (Arc::default(), Arc::default(), Arc::default());
        let first = OpenClient::enter(&stream, 1, &server, permit()).unwrap();
        assert!(OpenClient::enter(&stream, 1, &server, permit()).is_none());
        let second = OpenClient::enter(&other, 9, &server, permit()).unwrap();
        assert_eq!((Counters::get(&server), limiter.open()), (2, 2));
        drop((first, second));
        assert_eq!([&server, &stream.clients, &other.clients].map(Counters::get), [0, 0, 0]);
        assert_eq!((Counters::get(&stream.connects), Counters::get(&stream.refused), limiter.open()), (1, 1, 0));
    }
}
