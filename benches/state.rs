//! The cost of a checkpoint inside the operators: their state taken out, and put into new ones, for one to a million groups.
//!
//! `cargo bench --bench state`. Every group has one row, and all of them are open. Nothing is encoded or written here.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::catalog::TableProvider;
use streamgauge::change::Changes;
use streamgauge::engine::{Answer, Engine, Query};
use streamgauge::operator::{Chain, Cut, Message};
use streamgauge::sql;
use streamgauge::time::{Timestamp, TimestampArray, Watermark};

const SECOND: i64 = 1_000_000_000;
const BATCH_ROWS: usize = 8192;

/// A finite feed, so that nothing is refused; it is never opened.
const TABLE: &str = "CREATE TABLE feed (host TEXT, value DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '2 seconds')
    WITH (connector = 'file', path = 'never opened.ndjson');";

const AGGREGATES: &str = "count(*), avg(value), min(value), max(value)";

criterion_group!(benches, state);
criterion_main!(benches);

fn state(criterion: &mut Criterion) {
    let windows = |window: &str| format!("SELECT host, {AGGREGATES}, {window} AS window FROM feed GROUP BY host, window");
    let over = |functions: &str| format!("SELECT host, ts, {functions} FROM feed");
    for (name, query) in [
        ("tumble", windows("TUMBLE(INTERVAL '10 seconds')")),
        ("hop", windows("HOP(INTERVAL '1 second', INTERVAL '60 seconds')")),
        ("session", windows("SESSION(INTERVAL '10 seconds')")),
        ("lag", over("LAG(value) OVER (PARTITION BY host ORDER BY ts)")),
        ("running sum", over("SUM(value) OVER (PARTITION BY host ORDER BY ts)")),
        ("sliding avg", over("AVG(value) OVER (PARTITION BY host ORDER BY ts ROWS 9 PRECEDING)")),
    ] {
        let query = plan(&query);
        for groups in [1, 100_000, 1_000_000] {
            let mut group = criterion.benchmark_group("state");
            group.sample_size(10).throughput(Throughput::Elements(groups as u64));
            let mut full = fed(&query, groups);
            let frames = full.save(Cut { epoch: 1, written: None }).expect("a state");
            group.bench_function(format!("{name}, {groups} groups, saved"), |bencher| {
                bencher.iter(|| black_box(full.save(Cut { epoch: 1, written: None }).expect("a state")))
            });
            group.bench_function(format!("{name}, {groups} groups, saved again unchanged"), |bencher| {
                bencher.iter(|| black_box(full.save(Cut { epoch: 2, written: Some(1) }).expect("a state")))
            });
            group.bench_function(format!("{name}, {groups} groups, loaded"), |bencher| {
                bencher.iter_batched(
                    || (chain(&query), frames.clone()),
                    |(mut chain, frames)| {
                        chain.load(frames).expect("its own state");
                        chain
                    },
                    BatchSize::PerIteration,
                )
            });
        }
    }
}

fn plan(query: &str) -> Query {
    let (statements, errors) = sql::parse(&format!("{TABLE} {query}"));
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

/// A chain that took a row of each group, all within a second, and a watermark behind them.
fn fed(query: &Query, groups: usize) -> Chain {
    let instance = query.continuous().expect("a query over a feed").plan().instance().expect("a plan that runs");
    let (table, projection) = &instance.sources[0];
    let names: Vec<String> = projection.iter().map(|column| table.schema().field(*column).name().clone()).collect();
    let mut chain = instance.chain;
    for first in (0..groups).step_by(BATCH_ROWS) {
        let rows = first..(first + BATCH_ROWS).min(groups);
        let times = TimestampArray::from_iter_values(rows.clone().map(|row| SECOND / groups as i64 * row as i64));
        let column = |name: &String| -> (String, ArrayRef) {
            let column: ArrayRef = match name.as_str() {
                "host" => Arc::new(StringViewArray::from_iter_values(rows.clone().map(|row| format!("a host named {row:07}")))),
                "value" => Arc::new(Float64Array::from_iter_values(rows.clone().map(|row| row as f64 / 7.0))),
                _ => Arc::new(times.clone()),
            };
            (name.clone(), column)
        };
        let rows = RecordBatch::try_from_iter(names.iter().map(column)).expect("columns of one length");
        chain.push(0, Message::Changes(Changes::inserts(rows, times)), &mut Vec::new()).expect("good rows");
    }
    chain.push(0, Message::Watermark(Watermark::at(Timestamp(SECOND))), &mut Vec::new()).expect("a watermark");
    chain
}
