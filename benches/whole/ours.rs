//! The product: one table, one query, results as NDJSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use streamgauge::change::Changes;
use streamgauge::engine::{Answer as Told, Engine, Query};
use streamgauge::format::encode::{Encoder, Encoding};
use streamgauge::sql;
use streamgauge::table::Table;

use crate::case::Case;
use crate::meter::{Answer, Measured, Meter, resident};

/// How often the progress of the table is looked at to sample the memory.
const LOOK: Duration = Duration::from_millis(5);

pub fn run(case: Case, port: u16, events: u64) -> Measured {
    let meter = Meter::start();
    let mut answer = Answer::default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let engine = runtime.block_on(engine(case, port));
    let ended = Arc::new(AtomicBool::new(false));
    let sampler = sample(engine.tables().remove(0), events, Arc::clone(&ended));
    runtime.block_on(follow(&engine, &case.query(), |changes| {
        count(&changes.rows, &mut answer);
        true
    }));
    ended.store(true, Relaxed);
    let memory = sampler.join().expect("a sampler ends");
    meter.stop(answer, memory)
}

/// Hands each result on until `wanted` says that it has enough.
pub fn each(case: Case, port: u16, wanted: impl FnMut(&Changes) -> bool) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let engine = engine(case, port).await;
        follow(&engine, &case.query(), wanted).await;
    });
}

/// All rows of the feed, as a batch query reads them.
pub fn rows(case: Case, port: u16) -> Vec<RecordBatch> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let engine = engine(case, port).await;
        let query = query(&engine, case.rows()).await;
        let mut output = engine.open(&[query]).expect("a query that runs").remove(0);
        let mut rows = Vec::new();
        while let Some(changes) = output.next_changes().await {
            rows.push(changes.expect("good rows").rows);
        }
        rows
    })
}

/// Adds a batch of results, whose second column is the count in all cases with one.
pub fn count(rows: &RecordBatch, answer: &mut Answer) {
    answer.rows += rows.num_rows() as u64;
    answer.counted += match rows.column_by_name("count") {
        Some(count) => count.as_primitive::<Int64Type>().values().iter().sum::<i64>() as u64,
        None => rows.num_rows() as u64,
    };
}

async fn engine(case: Case, port: u16) -> Engine {
    let engine = Engine::new().expect("an engine");
    let (statements, errors) = sql::parse(&case.table(port));
    assert!(errors.is_empty(), "{errors:?}");
    for statement in &statements {
        engine.execute(statement).await.map(drop).expect("a good table");
    }
    engine
}

async fn query(engine: &Engine, text: &str) -> Query {
    let (statements, errors) = sql::parse(text);
    assert!(errors.is_empty(), "{errors:?}");
    match engine.execute(&statements[0]).await.expect("a good query") {
        Told::Query(query) => *query,
        _ => panic!("a query is answered by a query"),
    }
}

async fn follow(engine: &Engine, text: &str, mut wanted: impl FnMut(&Changes) -> bool) {
    let query = query(engine, text).await;
    let mut output = engine.open(&[query]).expect("a query that runs").remove(0);
    let mut encoder = Encoder::append_only(Encoding::Ndjson, &output.schema);
    let mut text = Vec::new();
    while let Some(changes) = output.next_changes().await {
        let changes = changes.expect("good results");
        text.clear();
        encoder.write(&changes, &mut text).expect("results as text");
        std::hint::black_box(&text);
        if !wanted(&changes) {
            return;
        }
    }
}

/// Notes the resident memory at each quarter of the events.
fn sample(table: Arc<Table>, events: u64, ended: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<u64>> {
    std::thread::spawn(move || {
        let mut memory = Vec::new();
        while memory.len() < 4 && !ended.load(Relaxed) {
            std::thread::sleep(LOOK);
            if table.status().snapshot().rows >= events * (memory.len() as u64 + 1) / 4 {
                memory.push(resident());
            }
        }
        memory
    })
}
