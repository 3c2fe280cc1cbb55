//! How long results take, counted in classes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The longest duration of each class, in seconds; what takes longer belongs to one more. From a batch that is computed at once to a view
/// that cannot keep up.
const BOUNDS: [f64; 11] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// Durations, counted as they come and read at any time.
#[derive(Debug, Default)]
pub struct Latency {
    classes: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// [`Latency`] at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Latencies {
    /// The longest duration of each class in seconds, and how many were in it; the last class has no end.
    pub classes: Vec<(f64, u64)>,
    /// All durations together, in seconds.
    pub sum: f64,
}

impl Latency {
    pub fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let class = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.classes[class].fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn read(&self) -> Latencies {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        Latencies {
            classes: bounds.zip(&self.classes).map(|(bound, count)| (bound, count.load(Relaxed))).collect(),
            sum: self.nanos.load(Relaxed) as f64 / 1e9,
        }
    }
}

impl Latencies {
    pub fn count(&self) -> u64 {
        self.classes.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_class() {
        let latency = Latency::default();
        for micros in [100, 101, 10_000_000] {
            latency.add(Duration::from_micros(micros));
        }
        let read = latency.read();
        assert_eq!((read.count(), read.sum), (3, 10.000201));
        let counts: Vec<u64> = read.classes.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
