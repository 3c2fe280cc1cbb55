//! CPU time and memory of this process as Linux counts them, and the line in which a contender tells them.

use std::fmt;
use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// What a contender has computed, as far as it is compared: result rows, and the sum of their column `count` (rows where there is none).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    pub rows: u64,
    pub counted: u64,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Measured {
    pub cpu: Duration,
    pub elapsed: Duration,
    pub peak_bytes: u64,
    /// Resident memory at 25, 50, 75 and 100 % of the events; empty where it was not looked at.
    pub memory: Vec<u64>,
    pub answer: Answer,
}

/// A measurement that has begun.
pub struct Meter {
    cpu: Duration,
    started: Instant,
}

impl Meter {
    pub fn start() -> Meter {
        Meter { cpu: cpu(), started: Instant::now() }
    }

    pub fn stop(self, answer: Answer, memory: Vec<u64>) -> Measured {
        Measured { cpu: cpu() - self.cpu, elapsed: self.started.elapsed(), peak_bytes: status("VmHWM:"), memory, answer }
    }
}

/// User and system time of all threads so far, in steps of a hundredth of a second.
fn cpu() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = read_to_string("/proc/self/stat").expect("the CPU time is read from /proc");
    // The name in parentheses may hold anything.
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = numbers.split_whitespace().skip(11).take(2).map(|number| number.parse::<u32>().expect("ticks"));
    TICK * ticks.sum()
}

/// Resident memory now.
pub fn resident() -> u64 {
    status("VmRSS:")
}

fn status(name: &str) -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { cpu, elapsed, peak_bytes, memory, answer } = self;
        write!(f, "{} {} {peak_bytes} {} {}", cpu.as_nanos(), elapsed.as_nanos(), answer.rows, answer.counted)?;
        memory.iter().try_for_each(|bytes| write!(f, " {bytes}"))
    }
}

impl Measured {
    /// Reads what [`Measured`] writes.
    pub fn read(line: &str) -> Measured {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().expect("a contender tells its numbers"));
        let mut next = || numbers.next().expect("a contender tells all its numbers");
        let (cpu, elapsed) = (Duration::from_nanos(next()), Duration::from_nanos(next()));
        let (peak_bytes, answer) = (next(), Answer { rows: next(), counted: next() });
        Measured { cpu, elapsed, peak_bytes, answer, memory: numbers.collect() }
    }
}
