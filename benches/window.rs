//! Windowed aggregates: rows a second through the operators of a planned query, watermarks and results included.
//!
//! `cargo bench --bench window`. A quarter of a million rows of a thousand keys over thirty seconds, in disorder of up to two seconds.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use streamgauge::change::Changes;
use streamgauge::engine::{Answer, Engine, Query};
use streamgauge::operator::{Chain, Message};
use streamgauge::sql;
use streamgauge::time::{Timestamp, TimestampArray, Watermark};

const ROWS: usize = 1 << 18;
const KEYS: usize = 1_000;
const SECOND: i64 = 1_000_000_000;
/// Event time from one row to the next.
const STEP_NANOS: i64 = 30 * SECOND / ROWS as i64;
/// One row in eight is up to this much older than its place says.
const DISORDER_NANOS: i64 = 2 * SECOND;

/// A finite feed, so that nothing is refused; it is never opened.
const TABLE: &str = "CREATE TABLE feed (host TEXT, value DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2 seconds')
    WITH (connector = 'file', path = 'never opened.ndjson');";

criterion_group!(benches, window);
criterion_main!(benches);

fn window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    for window in [
        "TUMBLE(INTERVAL '10 seconds')",
        "HOP(INTERVAL '1 second', INTERVAL '10 seconds')",
        "HOP(INTERVAL '1 second', INTERVAL '60 seconds')",
        "SESSION(INTERVAL '1 second')",
    ] {
        let query = query(window);
        for batch in [8192, 100] {
            let messages = messages(batch);
            group.bench_function(format!("{window}, batches of {batch}"), |bencher| {
                bencher.iter_batched(
                    || (chain(&query), messages.clone()),
                    |(mut chain, messages)| {
                        let mut out = Vec::new();
                        for message in messages {
                            chain.push(0, message, &mut out).expect("good rows");
                            out.drain(..).for_each(|message| drop(black_box(message)));
                        }
                    },
                    BatchSize::PerIteration,
                )
            });
        }
    }
}

fn query(window: &str) -> Query {
    let text = format!(
        "{TABLE} SELECT host, count(*), avg(value), min(value), max(value), {window} AS window FROM feed GROUP BY host, window"
    );
    let (statements, errors) = sql::parse(&text);
    assert!(errors.is_empty(), "{errors:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let engine = Engine::new().expect("an engine");
        engine.execute(&statements[0]).await.map(drop).expect("a good table");
        match engine.execute(&statements[1]).await.expect("a good query") {
            Answer::Query(query) => *query,
            _ => panic!("a query is answered by a query"),
        }
    })
}

fn chain(query: &Query) -> Chain {
    query.continuous().expect("a query over a feed").plan().instance().expect("a plan that runs").chain
}

/// Batches of the columns `host`, `value` in the order the plan reads them, each with its watermark.
fn messages(batch: usize) -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut messages = Vec::new();
    for first in (0..ROWS).step_by(batch) {
        let count = batch.min(ROWS - first);
        let times = (first..first + count).map(|row| {
            let late = if random.u8(..8) == 0 { random.i64(0..DISORDER_NANOS) } else { 0 };
            row as i64 * STEP_NANOS - late
        });
        let times = TimestampArray::from_iter_values(times.collect::<Vec<_>>());
        let hosts: ArrayRef =
            Arc::new(StringViewArray::from_iter_values((0..count).map(|_| format!("host-{}", random.usize(..KEYS)))));
        let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..count).map(|_| random.f64())));
        let rows = RecordBatch::try_from_iter([("host", hosts), ("value", values)]).expect("columns of one length");
        messages.push(Message::Changes(Changes::inserts(rows, times)));
        let latest = (first + count) as i64 * STEP_NANOS;
        messages.push(Message::Watermark(Watermark::at(Timestamp(latest - DISORDER_NANOS))));
    }
    messages.push(Message::Watermark(Watermark::at(Timestamp::MAX)));
    messages
}
