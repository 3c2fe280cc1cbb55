//! How long a result takes, from the moment the event that closes its window is sent to the row as NDJSON in memory.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::AsArray;
use arrow::datatypes::TimestampNanosecondType;

use crate::case::Case;
use crate::{Feed, lines, ours, start};

/// Length of the windows of [`Case::Latency`].
pub const WINDOW_NANOS: u64 = 100_000_000;
/// Distinct keys, most of which are in each window.
pub const KEYS: u64 = 1_000;
/// Events a second.
const RATE: u64 = 10_000;
/// Windows until everything is warm.
const WARM_UP: usize = 10;

/// Prints the end of each window and when its result was there.
pub fn watch(port: u16, seconds: u64) {
    let windows = seconds * 1_000_000_000 / WINDOW_NANOS;
    let mut seen = 0;
    ours::each(Case::Latency, port, |changes| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let window = changes.rows.column_by_name("window").expect("the query has a window").as_struct();
        let end = window.column(1).as_primitive::<TimestampNanosecondType>().value(0);
        println!("{end} {now}");
        seen += 1;
        seen < windows
    });
}

/// Runs feed and watcher, and prints what came of it.
pub fn report(seconds: u64) {
    let mut feed = Feed::start(&["serve-clock", &RATE.to_string()]);
    let mut watcher = start(&["watch", &feed.port.to_string(), &seconds.to_string()]);
    let pairs = |line: String| {
        let (window, time) = line.split_once(' ')?;
        Some((window.parse::<u64>().ok()?, time.parse::<u64>().ok()?))
    };
    let arrived: Vec<(u64, u64)> = lines(&mut watcher).filter_map(pairs).collect();
    let _ = watcher.wait();
    let _ = feed.process.kill();
    // The first event of a window closes the one before.
    let closed: BTreeMap<u64, u64> = feed.lines.by_ref().map_while(Result::ok).filter_map(pairs).collect();
    let micros = arrived.iter().filter_map(|(end, at)| Some(at.saturating_sub(*closed.get(end)?) / 1_000));
    let mut micros: Vec<u64> = micros.skip(WARM_UP).collect();
    micros.sort_unstable();
    println!("\nlatency: {RATE} events/s, {KEYS} keys\n  {}", Case::Latency.query());
    let Some(most) = micros.last() else { return println!("  no window was seen") };
    let at = |part: f64| micros[((micros.len() - 1) as f64 * part) as usize] as f64 / 1_000.0;
    println!(
        "  from the closing event to its rows, {} windows: median {:.2} ms, 99 % {:.2} ms, worst {:.2} ms",
        micros.len(),
        at(0.5),
        at(0.99),
        *most as f64 / 1_000.0
    );
}
